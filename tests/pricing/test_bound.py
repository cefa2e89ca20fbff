"""The most that a request may cost: never less than what it can be charged."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securellm.chat import Endpoint, Usage
from securellm.pricing.bound import (
    NOTHING,
    UNKNOWN_WINDOW_TOKENS,
    Bound,
    by_price,
    ceiling_of,
    image_tokens_at_most,
    worst_case,
)
from securellm.pricing.cost import cost_nusd
from securellm.pricing.price import Price, Tier
from securellm.wire.body import peek
from securellm.wire.weight import ADDED_TOKENS, Weight, weigh

USD_A_MILLION = 1_000_000_000  # nano-USD per million tokens: 1,000 nano-USD a token
PLAIN = Price(input=USD_A_MILLION, output=4 * USD_A_MILLION)

rates = st.none() | st.integers(0, 100 * USD_A_MILLION)
buckets = {
    name: rates
    for name in ("output", "cache_read", "cache_write_5m", "cache_write_1h", "reasoning", "audio_input", "image")
}
prices = st.builds(
    Price,
    input=st.integers(0, 100 * USD_A_MILLION),
    **buckets,
    tiers=st.lists(
        st.builds(Tier, above_tokens=st.integers(0, 3_000), input=st.integers(0, 100 * USD_A_MILLION), **buckets),
        max_size=2,
    ).map(lambda tiers: tuple(sorted(tiers, key=lambda tier: tier.above_tokens))),
)


def _bound(document: dict[str, object], price: Price = PLAIN, endpoint: Endpoint = Endpoint.CHAT) -> Bound:
    body = json.dumps({"model": "m", **document}).encode()
    return worst_case(
        endpoint,
        peek(endpoint, body),
        weigh(endpoint, body),
        ceiling_of(
            price,
            image_tokens=5_000,
            window_tokens=128_000,
            max_output_tokens=16_000,
        ),
    )


@given(price=prices, split=st.lists(st.integers(0, 500), min_size=8, max_size=8), images=st.integers(0, 2))
def test_no_usage_within_the_bounds_costs_more(price: Price, split: list[int], images: int) -> None:
    """However input and output fall into buckets and tiers, the cost stays within the bound, and so do the tokens."""
    plain, read, write_5m, write_1h, audio, output, reasoning, image = split
    weight = Weight(input_tokens=plain + read + write_5m + write_1h + audio, images=images, windowed=True)
    usage = Usage(
        input_tokens=plain,
        cache_read_tokens=read,
        cache_write_5m_tokens=write_5m,
        cache_write_1h_tokens=write_1h,
        audio_input_tokens=audio,
        output_tokens=output + reasoning,
        reasoning_tokens=reasoning,
        image_tokens=image if images else 0,
    )
    body = json.dumps({"model": "m", "max_tokens": max(output + reasoning, 1)}).encode()
    bound = worst_case(
        Endpoint.CHAT,
        peek(Endpoint.CHAT, body),
        weight,
        ceiling_of(
            price,
            image_tokens=500,
            window_tokens=1,
            max_output_tokens=1,
        ),
    )
    assert cost_nusd(usage, price) <= bound.cost_nusd
    assert usage.total_tokens <= bound.tokens


def test_a_bound_is_what_one_would_work_out() -> None:
    """Bytes at the input's rate and max_tokens at the output's, exactly."""
    document: dict[str, object] = {"model": "m", "messages": [], "max_tokens": 10}
    size = len(json.dumps(document).encode()) + ADDED_TOKENS
    assert _bound(document) == Bound(size * 1_000 + 10 * 4_000, size + 10)


def test_the_larger_of_two_bounds_on_the_output_counts() -> None:
    """A caller that says both names of the bound is held to the larger one: the provider may follow either."""
    one = _bound({"messages": [], "max_tokens": 10, "max_completion_tokens": 10})
    both = _bound({"messages": [], "max_tokens": 10, "max_completion_tokens": 99})
    assert both.tokens - one.tokens == 89


@pytest.mark.parametrize("unsaid", [{}, {"max_tokens": None}, {"max_tokens": 0}])
def test_without_a_bound_the_model_s_own_counts(unsaid: dict[str, object]) -> None:
    """Output that the caller does not bound may be as long as the model can answer."""
    assert _bound({"messages": [], **unsaid}).tokens >= 16_000


def test_every_answer_counts() -> None:
    """`n` answers to each of several prompts may all be as long as the bound says."""
    several = {"prompt": ["a", "b"], "n": 3, "best_of": 5, "max_tokens": 100}
    bound = _bound(several, Price(input=0, output=USD_A_MILLION), Endpoint.COMPLETIONS)
    assert bound.cost_nusd == 2 * 5 * 100 * 1_000


def test_embeddings_have_no_output() -> None:
    """An embedding costs its input."""
    assert _bound({"input": "abc"}, Price(output=USD_A_MILLION), Endpoint.EMBEDDINGS).cost_nusd == 0


def test_counting_costs_nothing() -> None:
    """Counting tokens is reserved for with nothing: providers do it for free."""
    assert _bound({"messages": [{"role": "user", "content": "x"}]}, PLAIN, Endpoint.COUNT_TOKENS) == NOTHING


def test_a_free_model_costs_nothing_and_has_tokens() -> None:
    """A free model is no matter of money; its tokens count."""
    bound = _bound({"messages": [], "max_tokens": 10}, Price(free=True))
    assert bound.cost_nusd == 0
    assert bound.tokens > 10


def test_what_is_elsewhere_costs_the_window() -> None:
    """A document that the body names may fill the model's window; where none is known, the largest in use."""
    document = [{"role": "user", "content": [{"type": "document", "source": {"type": "url", "url": "https://x.test"}}]}]
    assert _bound({"messages": document, "max_tokens": 1}).tokens == 128_001
    assert UNKNOWN_WINDOW_TOKENS > 200_000


def test_images_are_bounded_by_kind_and_model() -> None:
    """What an image may be charged as depends on who charges; unknown ones are as dear as the dearest common."""
    assert image_tokens_at_most("anthropic", "claude-opus-5") >= 4_784
    assert image_tokens_at_most("openai", "gpt-4o-mini-2024-07-18") >= 2_833 + 8 * 5_667
    assert image_tokens_at_most("openai-compatible", "qwen2.5-vl") >= 16_384


def test_the_cheapest_target_comes_first() -> None:
    """Targets are put in order of price, free ones first, unpriced ones last, equal ones as they were listed."""
    known: dict[str, Price | None] = {
        "dear": Price(input=9, output=9),
        "unpriced": None,
        "even": Price(input=3, output=1),
        "odd": Price(input=1, output=7),
        "free": Price(free=True),
        "chatty": Price(input=2, output=5),
    }
    assert by_price(known, known.__getitem__) == ["free", "even", "odd", "chatty", "dear", "unpriced"]
