"""Token counts as the providers report them, made into disjoint buckets, and back. Pure.

Two ways of counting exist. OpenAI and its followers count inclusively: cached, audio and image tokens are part of
`prompt_tokens`, reasoning and audio of `completion_tokens`. Anthropic counts exclusively: `input_tokens` leaves out
what was read from or written to a cache. A provider whose `total_tokens` is larger than prompt plus completion (xAI and
Gemini leave reasoning out of `completion_tokens`) has the difference counted as output, because it is billed as such.

In a stream usage may come several times, complete or in parts, and is cumulative wherever it is repeated; so the rule
is the last non-null value of each field, never a sum (`merge_reported`). Nulls and wrong types count as not reported.
"""

from collections.abc import Mapping

from securellm.chat import Usage

_NOTHING: dict[str, object] = {}
_MAX_TOKENS = 2**53  # beyond this a count is nonsense, and is not exact in everybody's JSON


def merge_reported(before: Mapping[str, object] | None, update: object) -> dict[str, object]:
    """`before` with every non-null field of `update` put over it, nested objects field by field."""
    merged: dict[str, object] = dict(before or {})
    if not isinstance(update, dict):
        return merged
    for name, value in update.items():
        if value is None:
            continue
        if isinstance(value, dict):
            earlier = merged.get(name)
            merged[name] = merge_reported(earlier if isinstance(earlier, dict) else None, value)
        else:
            merged[name] = value
    return merged


def usage_from_openai(reported: object) -> Usage:
    """Chat completions, completions and embeddings, as OpenAI and its followers report them."""
    if not isinstance(reported, dict):
        return Usage()
    said = reported.get
    prompt_details = _object(said("prompt_tokens_details"))
    completion_details = _object(said("completion_tokens_details"))
    return _from_inclusive(
        prompt=_first(said("prompt_tokens")),
        completion=_first(said("completion_tokens")),
        total=_first(said("total_tokens")),
        cached=_first(
            prompt_details.get("cached_tokens"),
            said("prompt_cache_hit_tokens"),
            said("cached_tokens"),
            said("num_cached_tokens"),
        ),
        missed=_first(said("prompt_cache_miss_tokens")),
        written=_first(prompt_details.get("cache_write_tokens"), said("cache_creation_input_tokens")),
        written_1h=_first(_object(said("cache_creation")).get("ephemeral_1h_input_tokens")),
        audio_in=_first(prompt_details.get("audio_tokens")),
        image_in=_first(prompt_details.get("image_tokens")),
        audio_out=_first(completion_details.get("audio_tokens")),
        reasoning=_first(completion_details.get("reasoning_tokens"), said("reasoning_tokens")),
    )


def usage_from_responses(reported: object) -> Usage:
    """OpenAI Responses."""
    return _from_inclusive(
        prompt=_count(reported, ("input_tokens",)),
        completion=_count(reported, ("output_tokens",)),
        total=_count(reported, ("total_tokens",)),
        cached=_count(reported, ("input_tokens_details", "cached_tokens")),
        missed=None,
        written=_count(reported, ("input_tokens_details", "cache_write_tokens")),
        written_1h=None,
        audio_in=_count(reported, ("input_tokens_details", "audio_tokens")),
        image_in=_count(reported, ("input_tokens_details", "image_tokens")),
        audio_out=_count(reported, ("output_tokens_details", "audio_tokens")),
        reasoning=_count(reported, ("output_tokens_details", "reasoning_tokens")),
    )


def usage_from_anthropic(reported: object) -> Usage:
    """Messages; what the cache took is split by lifetime, and is of five minutes where the split is silent."""
    in_5m = _count(reported, ("cache_creation", "ephemeral_5m_input_tokens")) or 0
    in_1h = _count(reported, ("cache_creation", "ephemeral_1h_input_tokens")) or 0
    written = _count(reported, ("cache_creation_input_tokens",))
    if written is None:
        written = in_5m + in_1h
    output = _count(reported, ("output_tokens",)) or 0
    thinking = _count(reported, ("output_tokens_details", "thinking_tokens")) or 0
    return Usage(
        input_tokens=_count(reported, ("input_tokens",)) or 0,
        cache_read_tokens=_count(reported, ("cache_read_input_tokens",)) or 0,
        cache_write_5m_tokens=written - min(in_1h, written),
        cache_write_1h_tokens=min(in_1h, written),
        output_tokens=output,
        reasoning_tokens=min(thinking, output),
    )


def usage_from_ollama(reported: object) -> Usage:
    """The last line of /api/chat, or the body of /api/embed; Ollama does not tell cached input apart."""
    return Usage(
        input_tokens=_count(reported, ("prompt_eval_count",)) or 0,
        output_tokens=_count(reported, ("eval_count",)) or 0,
    )


def usage_to_openai(usage: Usage) -> dict[str, object]:
    """The `usage` object of a chat completion."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def usage_to_responses(usage: Usage) -> dict[str, object]:
    """The `usage` object of a response."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cache_read_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def usage_to_anthropic(usage: Usage) -> dict[str, object]:
    """The `usage` object of a message; `cache_creation` is there when something was written."""
    written = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    encoded: dict[str, object] = {
        "input_tokens": usage.input_tokens + usage.audio_input_tokens + usage.image_tokens,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.completion_tokens,
    }
    if written:
        encoded["cache_creation"] = {
            "ephemeral_5m_input_tokens": usage.cache_write_5m_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        }
    return encoded


def _from_inclusive(
    *,
    prompt: int | None,
    completion: int | None,
    total: int | None,
    cached: int | None,
    missed: int | None,
    written: int | None,
    written_1h: int | None,
    audio_in: int | None,
    image_in: int | None,
    audio_out: int | None,
    reasoning: int | None,
) -> Usage:
    """Take the parts out of the whole, in order, so that the buckets never add up to more than the whole."""
    completion_known = completion or 0
    if prompt is None:
        prompt = (cached or 0) + missed if missed is not None else max((total or 0) - completion_known, 0)
    unaccounted = max((total or 0) - prompt - completion_known, 0)
    if unaccounted == audio_in:  # Mistral leaves audio out of prompt_tokens
        prompt, unaccounted = prompt + unaccounted, 0
    read = min(cached, prompt) if cached else 0
    rest = prompt - read
    wrote = min(written, rest) if written else 0
    rest -= wrote
    audio = min(audio_in, rest) if audio_in else 0
    rest -= audio
    image = min(image_in, rest) if image_in else 0
    rest -= image
    audio_output = min(audio_out, completion_known) if audio_out else 0
    output = completion_known - audio_output + unaccounted
    wrote_1h = min(written_1h, wrote) if written_1h else 0
    return Usage(
        input_tokens=rest,
        cache_read_tokens=read,
        cache_write_5m_tokens=wrote - wrote_1h,
        cache_write_1h_tokens=wrote_1h,
        output_tokens=output,
        reasoning_tokens=min(max(reasoning or 0, unaccounted), output),
        audio_input_tokens=audio,
        audio_output_tokens=audio_output,
        image_tokens=image,
    )


def _count(reported: object, *paths: tuple[str, ...]) -> int | None:
    """The first of `paths` that leads to a token count."""
    for path in paths:
        value = reported
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        count = _first(value)
        if count is not None:
            return count
    return None


def _first(*values: object) -> int | None:
    """The first that is a token count."""
    for value in values:
        if value is None:
            continue
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_TOKENS:
            return value
    return None


def _object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else _NOTHING
