"""Usage times price: integers, one rounding, tiers by the size of the prompt, and nothing free by omission."""

from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securellm.chat import Usage
from securellm.pricing.cost import cost_nusd, rates_for
from securellm.pricing.price import Price, Tier

PRICE = Price(
    input=3_000_000_000,
    output=15_000_000_000,
    cache_read=300_000_000,
    cache_write_5m=3_750_000_000,
    cache_write_1h=6_000_000_000,
)
TIERED = Price(
    input=1_250_000_000,
    output=10_000_000_000,
    tiers=(Tier(above_tokens=200_000, input=2_500_000_000, output=15_000_000_000),),
)
BUCKETS = [name for name in msgspec.structs.asdict(Usage()) if name != "reasoning_tokens"]

_tokens = st.integers(0, 2**53)
_rate = st.integers(0, 10**15)


def test_the_examples_of_the_page() -> None:
    """docs/prices.md: a cached chat and a message that writes to the cache, to the nano-USD."""
    chat = Price(input=2_500_000_000, output=10_000_000_000, cache_read=1_250_000_000)
    assert cost_nusd(Usage(input_tokens=86, cache_read_tokens=1920, output_tokens=300), chat) == 5_615_000
    assert cost_nusd(Usage(21, 1000, 200, 100, 50), PRICE) == 2_463_000


@pytest.mark.parametrize(
    ("rate", "tokens", "cost"),
    [(499_999, 1, 0), (500_000, 1, 1), (1_499_999, 1, 1), (1_500_000, 1, 2), (100_000, 5, 1), (100_000, 4, 0)],
)
def test_rounding_is_half_up_and_once(rate: int, tokens: int, cost: int) -> None:
    """Half a nano-USD goes up, and it is the sum that is rounded, not its parts."""
    assert cost_nusd(Usage(input_tokens=tokens), Price(input=rate)) == cost
    assert cost_nusd(Usage(input_tokens=1, output_tokens=1), Price(input=300_000, output=300_000)) == 1


def test_the_size_of_the_prompt_selects_the_tier() -> None:
    """Above the limit every token costs the tier's price; cached tokens count for the size, output does not."""
    assert cost_nusd(Usage(input_tokens=200_000, output_tokens=10), TIERED) == 200_000 * 1250 + 10 * 10_000
    assert cost_nusd(Usage(input_tokens=200_001, output_tokens=10), TIERED) == 200_001 * 2500 + 10 * 15_000
    assert cost_nusd(Usage(input_tokens=1, cache_read_tokens=200_000), TIERED) == 200_001 * 2500
    assert cost_nusd(Usage(output_tokens=300_000), TIERED) == 300_000 * 10_000
    three = Price(input=1, tiers=(Tier(above_tokens=10, input=2), Tier(above_tokens=20, input=3)))
    assert [rates_for(three, size).input for size in (10, 11, 20, 21)] == [1, 2, 2, 3]


def test_what_has_no_rate_costs_as_the_larger_bucket() -> None:
    """A bucket is never free because its rate was left out."""
    alone = Price(input=7_000_000)
    assert {name: cost_nusd(Usage(**{name: 1}), alone) for name in BUCKETS} == dict.fromkeys(BUCKETS, 7)
    both = Price(input=1_000_000, output=5_000_000, cache_write_5m=2_000_000)
    assert cost_nusd(Usage(cache_write_1h_tokens=1), both) == 2
    assert cost_nusd(Usage(audio_output_tokens=1), both) == 5
    assert cost_nusd(Usage(output_tokens=1, reasoning_tokens=1), both) == 5


def test_reasoning_is_a_part_of_output() -> None:
    """Reasoning is billed once: at its own rate where there is one, else as output."""
    usage = Usage(output_tokens=10, reasoning_tokens=4)
    assert cost_nusd(usage, Price(output=2_000_000)) == 20
    assert cost_nusd(usage, Price(output=2_000_000, reasoning=3_000_000)) == 6 * 2 + 4 * 3


def test_free_is_free() -> None:
    """A model that is said to be free costs nothing, whatever was used."""
    assert cost_nusd(Usage(*range(1, 10)), Price(free=True, input=5)) == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(_tokens, min_size=8, max_size=8), st.lists(_rate, min_size=8, max_size=8))
def test_any_usage_is_the_exact_sum(tokens: list[int], rates: list[int]) -> None:
    """For any counts and rates the cost is the exact rational sum, rounded half up; no float is on the way."""
    fresh, read, write_5m, write_1h, output, audio_in, audio_out, image = tokens
    usage = Usage(fresh, read, write_5m, write_1h, output, 0, audio_in, audio_out, image)
    names = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
    price = Price(**dict(zip((*names, "audio_input", "audio_output", "image"), rates, strict=True)))
    exact = sum(Fraction(count * rate, 1_000_000) for count, rate in zip(tokens, rates, strict=True))
    cost = cost_nusd(usage, price)
    assert isinstance(cost, int)
    assert exact - Fraction(1, 2) < cost <= exact + Fraction(1, 2)
