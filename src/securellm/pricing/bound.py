"""The most that a request may cost, from what is known before anybody is asked. Pure.

Input: every token is at least a byte, so the bytes of the body bound it (`wire/weight.py`); an image is bounded by
what its provider charges for the largest; what only the context window bounds is bounded by it. Output: the bound that
the caller sets, for each answer. Of the rates the dearest that a token could fall into counts, in the dearest tier that
a prompt of that size could reach. So the bound holds under the price table in force and with a provider that honours
its own limits; whatever is charged beyond it is an overrun.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from securellm.chat import Endpoint
from securellm.pricing.cost import MILLION
from securellm.pricing.price import Price, Rates
from securellm.wire.body import Peeked
from securellm.wire.weight import Weight

# Where neither the catalogue nor the configuration says how large a model's window is: the largest in common use.
UNKNOWN_WINDOW_TOKENS = 1_000_000

# What one image may be charged as. OpenAI bills gpt-4o-mini's as 2,833 + 5,667 for each of at most 8 tiles (vision
# guide, 2026-11), its newest models up to 15,000; Anthropic at most 4,784 (vision page, 2026-11); Qwen up to 16,384 and
# Gemini 2 a tile of 258 for each 768 x 768 pixels.
IMAGE_TOKENS = 25_000
IMAGE_TOKENS_BY_KIND = {"anthropic": 5_000}
IMAGE_TOKENS_BY_STEM = {"gpt-4o-mini": 50_000}

_WITHOUT_OUTPUT = frozenset({Endpoint.EMBEDDINGS, Endpoint.COUNT_TOKENS})

T = TypeVar("T")


class Bound(NamedTuple):
    """What a request may use at most, all answers together."""

    cost_nusd: int
    tokens: int


NOTHING = Bound(0, 0)


def worst_case(
    endpoint: Endpoint,
    peeked: Peeked,
    weight: Weight,
    price: Price,
    *,
    image_tokens: int,
    window_tokens: int | None,
    max_output_tokens: int,
) -> Bound:
    """The bound for one target.

    `window_tokens` and `max_output_tokens` are those of its model; the latter counts where the caller sets no bound.
    """
    if endpoint is Endpoint.COUNT_TOKENS:
        return NOTHING  # providers count for free
    text = weight.input_tokens
    if weight.windowed:
        text = max(text, window_tokens or UNKNOWN_WINDOW_TOKENS)
    images = weight.images * image_tokens
    output = 0
    if endpoint not in _WITHOUT_OUTPUT:
        each = peeked.max_output_tokens or max_output_tokens  # 0 is how some servers say "no bound"
        output = each * peeked.n * weight.answers + weight.predicted_tokens
    tokens = text + images + output
    if price.free:
        return Bound(0, tokens)
    return Bound(max(_costs(price, weight, text, images, output)), tokens)


def image_tokens_at_most(kind: str, model: str) -> int:
    """What a provider of that kind charges for one image at most, in tokens."""
    for stem, tokens in IMAGE_TOKENS_BY_STEM.items():
        if stem in model:
            return tokens
    return IMAGE_TOKENS_BY_KIND.get(kind, IMAGE_TOKENS)


def by_price(targets: Iterable[T], price_of: Callable[[T], Price | None]) -> list[T]:
    """The targets, the cheapest first; equal ones in their order, those without a price last.

    Free is cheapest. Compared is what three tokens of input and one of output cost, as is common in conversations.
    """
    return sorted(targets, key=lambda target: _height(price_of(target)))


def _costs(price: Price, weight: Weight, text: int, images: int, output: int) -> Iterator[int]:
    """The cost in each tier that the prompt could reach, rounded up."""
    for rates in (price, *(tier for tier in price.tiers if tier.above_tokens < text + images)):
        total = text * _text_rate(rates, audio=weight.windowed)
        total += images * max(_text_rate(rates), rates.image or 0)
        total += output * _output_rate(rates, audio=weight.audio_output)
        yield -(-total // MILLION)


def _text_rate(rates: Rates, *, audio: bool = False) -> int:
    """The dearest bucket that input may be counted in."""
    buckets = (rates.input, rates.cache_read, rates.cache_write_5m, rates.cache_write_1h)
    return max(*(rate or 0 for rate in buckets), (rates.audio_input or 0) if audio else 0)


def _output_rate(rates: Rates, *, audio: bool) -> int:
    output = rates.input if rates.output is None else rates.output
    return max(output, rates.reasoning or 0, (rates.audio_output or 0) if audio else 0)


def _height(price: Price | None) -> tuple[bool, int]:
    if price is None:
        return True, 0
    if price.free:
        return False, 0
    return False, 3 * price.input + (price.input if price.output is None else price.output)
