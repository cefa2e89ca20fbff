"""Usage as reported into disjoint buckets: vectors from what providers send, tolerance, totals, the merge rule."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securellm.chat import Usage
from securellm.wire.usage import (
    merge_reported,
    usage_from_anthropic,
    usage_from_ollama,
    usage_from_openai,
    usage_from_responses,
    usage_to_anthropic,
    usage_to_openai,
    usage_to_responses,
)

OPENAI_VECTORS: dict[str, tuple[dict[str, Any], Usage]] = {
    "plain": (
        {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
        Usage(input_tokens=10, output_tokens=4),
    ),
    "openai with details": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 10},
            "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 5, "accepted_prediction_tokens": 0},
        },
        Usage(
            input_tokens=30,
            cache_read_tokens=60,
            audio_input_tokens=10,
            output_tokens=45,
            reasoning_tokens=20,
            audio_output_tokens=5,
        ),
    ),
    "deepseek": (
        {
            "prompt_tokens": 372,
            "completion_tokens": 12,
            "prompt_cache_hit_tokens": 256,
            "prompt_cache_miss_tokens": 116,
        },
        Usage(input_tokens=116, cache_read_tokens=256, output_tokens=12),
    ),
    "deepseek without prompt_tokens": (
        {"completion_tokens": 12, "prompt_cache_hit_tokens": 256, "prompt_cache_miss_tokens": 116},
        Usage(input_tokens=116, cache_read_tokens=256, output_tokens=12),
    ),
    "together": (
        {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11, "cached_tokens": 4},
        Usage(input_tokens=5, cache_read_tokens=4, output_tokens=2),
    ),
    "xai leaves reasoning out of completion_tokens": (
        {
            "prompt_tokens": 390,
            "completion_tokens": 26,
            "total_tokens": 493,
            "prompt_tokens_details": {"text_tokens": 390, "image_tokens": 0, "cached_tokens": 384},
            "completion_tokens_details": {"reasoning_tokens": 77},
        },
        Usage(input_tokens=6, cache_read_tokens=384, output_tokens=103, reasoning_tokens=77),
    ),
    "gemini leaves thinking out altogether": (
        {"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109},
        Usage(input_tokens=35, output_tokens=74, reasoning_tokens=62),
    ),
    "mistral leaves audio out of prompt_tokens": (
        {
            "prompt_tokens": 11,
            "completion_tokens": 15,
            "total_tokens": 401,
            "prompt_tokens_details": {"audio_tokens": 375, "cached_tokens": 9},
        },
        Usage(input_tokens=2, cache_read_tokens=9, output_tokens=15, audio_input_tokens=375),
    ),
    "openrouter writes to a cache": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 80},
            "cache_creation": {"ephemeral_1h_input_tokens": 30},
        },
        Usage(
            input_tokens=10, cache_read_tokens=10, cache_write_5m_tokens=50, cache_write_1h_tokens=30, output_tokens=1
        ),
    ),
    "embeddings": ({"prompt_tokens": 8, "total_tokens": 8}, Usage(input_tokens=8)),
    "only a total": ({"total_tokens": 8}, Usage(input_tokens=8)),
    "details larger than the whole": (
        {"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 9, "audio_tokens": 9}},
        Usage(cache_read_tokens=5, output_tokens=3),
    ),
    "nulls": ({"prompt_tokens": 5, "completion_tokens": None, "prompt_tokens_details": None}, Usage(input_tokens=5)),
    "wrong types": (
        {"prompt_tokens": "5", "completion_tokens": True, "total_tokens": -3, "prompt_tokens_details": [1]},
        Usage(),
    ),
    "floats": ({"prompt_tokens": 5.0, "completion_tokens": 2.5}, Usage(input_tokens=5)),
    "nonsense": ({"prompt_tokens": 10**30}, Usage()),
}

ANTHROPIC_VECTORS: dict[str, tuple[dict[str, Any], Usage]] = {
    "exclusive buckets": (
        {
            "input_tokens": 4,
            "cache_creation_input_tokens": 1165,
            "cache_read_input_tokens": 7,
            "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 165},
            "output_tokens": 20,
            "output_tokens_details": {"thinking_tokens": 6},
        },
        Usage(
            input_tokens=4,
            cache_read_tokens=7,
            cache_write_5m_tokens=1000,
            cache_write_1h_tokens=165,
            output_tokens=20,
            reasoning_tokens=6,
        ),
    ),
    "no split": (
        {"input_tokens": 1, "cache_creation_input_tokens": 5, "output_tokens": 2},
        Usage(input_tokens=1, cache_write_5m_tokens=5, output_tokens=2),
    ),
    "only the split": (
        {"cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3}},
        Usage(cache_write_5m_tokens=2, cache_write_1h_tokens=3),
    ),
    "nulls": ({"input_tokens": 3, "cache_creation": None, "cache_read_input_tokens": None}, Usage(input_tokens=3)),
}

_counts = st.integers(0, 10**9)


@pytest.mark.parametrize(("reported", "expected"), OPENAI_VECTORS.values(), ids=OPENAI_VECTORS.keys())
def test_openai_vectors(reported: dict[str, Any], expected: Usage) -> None:
    """What OpenAI and its followers report."""
    assert usage_from_openai(reported) == expected


@pytest.mark.parametrize(("reported", "expected"), ANTHROPIC_VECTORS.values(), ids=ANTHROPIC_VECTORS.keys())
def test_anthropic_vectors(reported: dict[str, Any], expected: Usage) -> None:
    """What Anthropic reports."""
    assert usage_from_anthropic(reported) == expected


def test_responses_and_ollama() -> None:
    """Responses counts inclusively under other names; Ollama has two counts."""
    assert usage_from_responses(
        {
            "input_tokens": 20,
            "input_tokens_details": {"cached_tokens": 15, "cache_write_tokens": 2},
            "output_tokens": 9,
            "output_tokens_details": {"reasoning_tokens": 4},
            "total_tokens": 29,
        }
    ) == Usage(input_tokens=3, cache_read_tokens=15, cache_write_5m_tokens=2, output_tokens=9, reasoning_tokens=4)
    assert usage_from_ollama({"prompt_eval_count": 26, "eval_count": 298}) == Usage(input_tokens=26, output_tokens=298)
    assert usage_from_ollama({"done": True}) == Usage()


@pytest.mark.parametrize("reported", [None, [], "x", 7, {}, {"prompt_tokens": {}}])
def test_anything_else_counts_as_nothing(reported: object) -> None:
    """A value that is not a usage object never raises."""
    for parse in (usage_from_openai, usage_from_responses, usage_from_anthropic, usage_from_ollama):
        assert parse(reported) == Usage()


@settings(max_examples=200, deadline=None)
@given(
    _counts, _counts, st.fixed_dictionaries({}, optional={"cached_tokens": _counts, "audio_tokens": _counts}), _counts
)
def test_buckets_add_up_to_the_providers_own_total(
    prompt: int, completion: int, details: dict[str, int], reasoning: int
) -> None:
    """Disjoint buckets: whatever the details say, they add up to prompt and completion as reported."""
    usage = usage_from_openai(
        {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": details,
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }
    )
    assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, completion)
    assert usage.total_tokens == prompt + completion
    assert 0 <= usage.reasoning_tokens <= usage.output_tokens


@settings(max_examples=100, deadline=None)
@given(_counts, _counts, _counts, _counts, _counts)
def test_a_round_trip_keeps_the_tokens(fresh: int, read: int, write_5m: int, write_1h: int, output: int) -> None:
    """To Anthropic's shape and back is the same usage; to OpenAI's and back keeps totals and what was cached."""
    usage = Usage(fresh, read, write_5m, write_1h, output)
    assert usage_from_anthropic(usage_to_anthropic(usage)) == usage
    for encode, parse in ((usage_to_openai, usage_from_openai), (usage_to_responses, usage_from_responses)):
        back = parse(encode(usage))
        assert (back.prompt_tokens, back.completion_tokens) == (usage.prompt_tokens, usage.completion_tokens)
        assert back.cache_read_tokens == read


def test_openai_shape_is_exact() -> None:
    """The shape that callers of the OpenAI doors see."""
    usage = Usage(input_tokens=3, cache_read_tokens=4, output_tokens=9, reasoning_tokens=5)
    assert usage_to_openai(usage) == {
        "prompt_tokens": 7,
        "completion_tokens": 9,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    assert usage_to_responses(usage) == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 16,
    }
    assert usage_to_anthropic(usage) == {
        "input_tokens": 3,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 9,
    }


def test_merging_takes_the_last_non_null_value_and_never_sums() -> None:
    """Cumulative reports replace one another field by field (guarantee 13)."""
    start = {"input_tokens": 10, "output_tokens": 1, "cache_creation": {"ephemeral_5m_input_tokens": 3}}
    delta = {"input_tokens": None, "output_tokens": 25, "cache_creation": {"ephemeral_1h_input_tokens": 2}}
    merged = merge_reported(merge_reported(None, start), delta)
    assert merged == {
        "input_tokens": 10,
        "output_tokens": 25,
        "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 2},
    }
    assert merge_reported(merged, delta) == merged
    assert merge_reported(merged, None) == merged
    assert start["output_tokens"] == 1
