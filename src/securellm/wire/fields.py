"""The fate of every request field when a request crosses to another dialect: one table a door. Pure.

Refused is what changes the meaning of the request and cannot be said in the provider's dialect, dropped (and listed in
`x-securellm-dropped`) is what only advises. A mapped field may still be refused or dropped for one of its values; the
encoders do that. A field that is not in the table is dropped and listed.

The rows are the fields of the official SDKs (openai 3.54: completion_create_params; anthropic 2.12:
message_create_params and its beta; a test compares), and below them those that clients of other servers send.
"""

import enum

import msgspec

from securellm.chat import Dialect, Endpoint
from securellm.wire.reading import refuse
from securellm.wire.words import Dropped, JSONObject


class Fate(enum.Enum):
    """What becomes of a field."""

    MAPPED = "mapped"
    REFUSED = "refused"
    DROPPED = "dropped"


class Field(msgspec.Struct, frozen=True):
    """One field of a door: its fate for each dialect of provider, and the values that say nothing."""

    fates: dict[Dialect, Fate]
    harmless: tuple[object, ...] = ()  # null is always harmless


_M, _R, _D = Fate.MAPPED, Fate.REFUSED, Fate.DROPPED


def _chat(anthropic: Fate, ollama: Fate, *harmless: object) -> Field:
    return Field({Dialect.ANTHROPIC: anthropic, Dialect.OLLAMA: ollama}, harmless)


def _messages(openai: Fate, ollama: Fate, *harmless: object) -> Field:
    return Field({Dialect.OPENAI: openai, Dialect.OLLAMA: ollama}, harmless)


FIELDS: dict[Endpoint, dict[str, Field]] = {
    Endpoint.CHAT: {
        "messages": _chat(_M, _M),
        "model": _chat(_M, _M),
        "audio": _chat(_R, _R),
        "frequency_penalty": _chat(_D, _M, 0),
        "function_call": _chat(_R, _R, "none", "auto"),  # the older form of tools; send those
        "functions": _chat(_R, _R, []),
        "logit_bias": _chat(_R, _R, {}),  # may forbid words altogether, so more than advice
        "logprobs": _chat(_R, _R, False),
        "max_completion_tokens": _chat(_M, _M),
        "max_tokens": _chat(_M, _M),
        "metadata": _chat(_D, _D, {}),
        "modalities": _chat(_R, _R, ["text"], []),
        "moderation": _chat(_R, _R),  # may block the answer
        "n": _chat(_R, _R, 1),
        "parallel_tool_calls": _chat(_M, _M),
        "prediction": _chat(_D, _D),  # only makes it faster
        "presence_penalty": _chat(_D, _M, 0),
        "prompt_cache_key": _chat(_D, _D),
        "prompt_cache_options": _chat(_D, _D),
        "prompt_cache_retention": _chat(_D, _D),
        "reasoning_effort": _chat(_M, _M),
        "response_format": _chat(_M, _M),
        "safety_identifier": _chat(_D, _D),
        "seed": _chat(_D, _M),
        "service_tier": _chat(_D, _D, "auto", "default"),
        "stop": _chat(_M, _M),
        "store": _chat(_D, _D, False),
        "stream": _chat(_M, _M),
        "stream_options": _chat(_M, _M),
        "temperature": _chat(_M, _M),
        "tool_choice": _chat(_M, _M),
        "tools": _chat(_M, _M),
        "top_logprobs": _chat(_R, _R, 0),
        "top_p": _chat(_M, _M),
        "user": _chat(_D, _D),
        "verbosity": _chat(_D, _D),
        "web_search_options": _chat(_R, _R),  # a tool by another name
        # Not in the SDK:
        "min_p": _chat(_D, _M),
        "stop_sequences": _chat(_M, _M),  # Anthropic's names at this door
        "system": _chat(_M, _M),
        "reasoning": _chat(_M, _M),  # OpenRouter's form of reasoning_effort
        "thinking": _chat(_M, _M),  # DeepSeek's switch and Anthropic's budget
        "top_k": _chat(_M, _M),
    },
    Endpoint.MESSAGES: {
        "max_tokens": _messages(_M, _M),
        "messages": _messages(_M, _M),
        "model": _messages(_M, _M),
        "billing_policy": _messages(_D, _D),
        "cache_control": _messages(_D, _D),
        "compaction": _messages(_D, _D),
        "container": _messages(_R, _R),
        "context_management": _messages(_D, _D),  # Claude Code always sends it; without it nothing is cleared
        "diagnostics": _messages(_D, _D),
        "fallback_credit_token": _messages(_D, _D),
        "fallbacks": _messages(_D, _D),
        "inference_geo": _messages(_R, _R),  # a promise about where data goes, which no one else can keep
        "mcp_servers": _messages(_R, _R, []),
        "metadata": _messages(_D, _D, {}),
        "output_config": _messages(_M, _M),
        "service_tier": _messages(_D, _D, "auto"),
        "speed": _messages(_D, _D, "standard"),
        "stop_sequences": _messages(_M, _M),
        "system": _messages(_M, _M),
        "thinking": _messages(_M, _M),
        "thread": _messages(_R, _R),  # refers to turns that are not in the request
        "tool_choice": _messages(_M, _M),
        "tools": _messages(_M, _M),
        "user_profile_id": _messages(_D, _D),
        "workspace_id": _messages(_D, _D),
        "betas": _messages(_D, _D, []),
        "stream": _messages(_M, _M),
        "output_format": _messages(_M, _M),  # the older name of output_config.format
        # Left out of the SDK's types, still part of the API for the models that take them:
        "temperature": _messages(_M, _M),
        "top_k": _messages(_M, _M),
        "top_p": _messages(_M, _M),
    },
}


def sift(door: Endpoint, dialect: Dialect, body: JSONObject, dropped: Dropped) -> None:
    """Refuse what cannot be said to a provider of that dialect, note what is dropped. Raises UnsupportedField."""
    table = FIELDS[door]
    for name, value in body.items():
        field = table.get(name)
        if value is None or (field is not None and _is_harmless(value, field)):
            continue
        fate = Fate.DROPPED if field is None else field.fates[dialect]
        if fate is Fate.REFUSED:
            raise refuse(name, f"cannot be translated for a provider that speaks {dialect.value}")
        if fate is Fate.DROPPED:
            dropped.add(name)


def _is_harmless(value: object, field: Field) -> bool:
    return any(
        value == harmless and isinstance(value, bool) == isinstance(harmless, bool) for harmless in field.harmless
    )
