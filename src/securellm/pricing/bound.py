"""The most that a request may cost, from what is known before anybody is asked. Pure.

Input: every token is at least a byte, so the bytes of the body bound it (`wire/weight.py`); an image is bounded by
what its provider charges for the largest; what only the context window bounds is bounded by it. Output: the bound that
the caller sets, for each answer. Of the rates the dearest that a token could fall into counts, in the dearest tier that
a prompt of that size could reach. So the bound holds under the price table in force and with a provider that honours
its own limits; whatever is charged beyond it is an overrun.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

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

_COUNT_TOKENS, _EMBEDDINGS = Endpoint.COUNT_TOKENS, Endpoint.EMBEDDINGS  # an enum's members are slow to look up

T = TypeVar("T")


class Bound(msgspec.Struct, frozen=True):
    """What a request may use at most, all answers together."""

    cost_nusd: int
    tokens: int


NOTHING = Bound(0, 0)


class _Dearest(msgspec.Struct, frozen=True):
    """The dearest rates that tokens could fall into, of a prompt that is larger than `above_tokens`."""

    above_tokens: int
    text: int
    text_or_audio: int
    image: int
    output: int
    output_or_audio: int


class Ceiling(msgspec.Struct, frozen=True):
    """What bounds requests to one target, the same for all of them. `ceiling_of` makes it."""

    free: bool
    image_tokens: int  # of one image
    window_tokens: int
    max_output_tokens: int  # where the caller sets no bound
    tiers: tuple[_Dearest, ...]


def ceiling_of(price: Price, *, image_tokens: int, window_tokens: int | None, max_output_tokens: int) -> Ceiling:
    """The ceiling of a target with that price; the window and the output are those of its model."""
    tiers = (_dearest(price, -1), *(_dearest(tier, tier.above_tokens) for tier in price.tiers))
    return Ceiling(price.free, image_tokens, window_tokens or UNKNOWN_WINDOW_TOKENS, max_output_tokens, tiers)


def worst_case(endpoint: Endpoint, peeked: Peeked, weight: Weight, ceiling: Ceiling) -> Bound:
    """The bound for one target."""
    if endpoint is _COUNT_TOKENS:
        return NOTHING  # providers count for free
    text, windowed = weight.input_tokens, weight.windowed
    if windowed:
        text = max(text, ceiling.window_tokens)
    images = weight.images * ceiling.image_tokens
    output = 0
    if endpoint is not _EMBEDDINGS:
        each = peeked.max_output_tokens or ceiling.max_output_tokens  # 0 is how some servers say "no bound"
        output = each * peeked.n * weight.answers + weight.predicted_tokens
    tokens = text + images + output
    if ceiling.free:
        return Bound(0, tokens)
    most = 0
    for tier in ceiling.tiers:  # each that the prompt could reach
        if tier.above_tokens < text + images:
            total = text * (tier.text_or_audio if windowed else tier.text)
            total += images * tier.image
            total += output * (tier.output_or_audio if weight.audio_output else tier.output)
            if total > most:
                most = total
    return Bound(-(-most // MILLION), tokens)


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


def _dearest(rates: Rates, above_tokens: int) -> _Dearest:
    text = max(rates.input, rates.cache_read or 0, rates.cache_write_5m or 0, rates.cache_write_1h or 0)
    output = max(rates.input if rates.output is None else rates.output, rates.reasoning or 0)
    return _Dearest(
        above_tokens,
        text=text,
        text_or_audio=max(text, rates.audio_input or 0),
        image=max(text, rates.image or 0),
        output=output,
        output_or_audio=max(output, rates.audio_output or 0),
    )


def _height(price: Price | None) -> tuple[bool, int]:
    if price is None:
        return True, 0
    if price.free:
        return False, 0
    return False, 3 * price.input + (price.input if price.output is None else price.output)
