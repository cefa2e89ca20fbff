"""What one model costs: a price per bucket of usage, in nano-USD per million tokens. Pure.

A price of 2.50 USD per million tokens is 2_500_000_000 nano-USD per million tokens, that is 2,500 nano-USD a token.
"""

import msgspec

NUSD_PER_USD = 1_000_000_000


class Rates(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Nano-USD per million tokens of each bucket. A bucket without a rate of its own is never free: see `cost.py`."""

    input: int = 0
    output: int | None = None
    cache_read: int | None = None
    cache_write_5m: int | None = None
    cache_write_1h: int | None = None
    reasoning: int | None = None  # where it differs from the rest of the output
    audio_input: int | None = None
    audio_output: int | None = None
    image: int | None = None


class Tier(Rates, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """The rates of the whole request once its prompt, cached tokens included, is larger than `above_tokens`."""

    above_tokens: int


class Price(Rates, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a model costs. `free` is said explicitly; a model without a price is not free, it has none."""

    free: bool = False
    tiers: tuple[Tier, ...] = ()  # by `above_tokens`, ascending; the last that applies counts
    source: str = ""
    date: str = ""  # the day on which the source said so


class Period(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """When another price holds: from a moment on, or at certain hours of each UTC day."""

    price: Price
    from_s: int | None = None  # Unix seconds
    daily_s: tuple[int, int] | None = None  # seconds of the UTC day: first, and first not any more; may pass midnight

    def holds(self, at_s: int) -> bool:
        """Whether this is the price at a moment."""
        if self.from_s is not None and at_s < self.from_s:
            return False
        if self.daily_s is None:
            return True
        start, end = self.daily_s
        now = at_s % 86_400
        return start <= now < end if start <= end else now >= start or now < end


class Listed(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One model in a list of prices. `names` are further ids; `stems` are ids that a date or a version may follow."""

    price: Price
    periods: tuple[Period, ...] = ()  # of those that hold, the last counts
    names: tuple[str, ...] = ()
    stems: tuple[str, ...] = ()

    def price_at(self, at_s: int) -> Price:
        """The price at a moment."""
        for period in reversed(self.periods):
            if period.holds(at_s):
                return period.price
        return self.price

    def dearest(self) -> Price:
        """The highest of the prices that may hold, for a bound that must not be too low."""
        return max((self.price, *(period.price for period in self.periods)), key=_height)


class Section(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The prices of one provider, with their source and the day on which it said so."""

    source: str
    date: str
    models: dict[str, Listed] = {}
    every: Price | None = None  # the price of whatever is not in `models`
    prefix: str = ""  # what this provider's ids may begin with, and what is then left out


def _height(price: Price) -> int:
    return price.input + (price.input if price.output is None else price.output)
