"""What a request holds from its admission to its settlement: room for its body, its place in the limits, its budget.

Whatever was taken is kept here at once, and given back by `settle` or `release`, which wait for nothing; one of the two
is called, and calling again changes nothing. A refusal gives back what was taken before it.
"""

import math

import msgspec

from securellm.cache.answers import Lead
from securellm.chat import Headers
from securellm.errors import OverCapacity, RateLimited
from securellm.limits.budgets import Reservation
from securellm.limits.in_flight import Charge
from securellm.limits.limiter import Hold
from securellm.routing import Target

MOST_BYTES_A_TOKEN = 16  # of an answer, on average: text has four; beyond it a provider has ignored its bound


class Most(msgspec.Struct, frozen=True):
    """What a request may use at most, whichever of its targets answers."""

    cost_nusd: int
    tokens: int
    output_tokens: int


class Holdings(msgspec.Struct, eq=False):
    """One request's. Made with the charge for its body, which may still grow."""

    charge: Charge
    hold: Hold | None = None
    reservation: Reservation | None = None
    lead: Lead | None = None  # others wait for this request's answer
    most_output_bytes: float = math.inf  # of an answer for which no more was reserved
    tokens: int = 0  # that the limits count until the real number is known

    def keep_hold(self, hold: Hold, tokens: int) -> None:
        """Keep what was taken of the limits, which count so many tokens until the real number is known."""
        self.hold = hold
        self.tokens = tokens

    def keep_reservation(self, reservation: Reservation, most: Most) -> None:
        """Keep what was reserved of the budgets, which is what the request may cost at most."""
        self.reservation = reservation
        self.most_output_bytes = most.output_tokens * MOST_BYTES_A_TOKEN

    def take_provider(self, target: Target) -> bool:
        """Take the provider's share for one attempt, if it has to be; False: `ask_provider` decides."""
        return self.hold is None or self.hold.take_provider(target.provider.name, self.tokens)

    async def ask_provider(self, target: Target) -> RateLimited | OverCapacity | None:
        """Take the provider's share for one attempt; a refusal is returned. Raises LimitsUnavailable."""
        return await self.hold.ask_provider(target.provider.name, self.tokens) if self.hold is not None else None

    def headers(self) -> Headers:
        """`x-ratelimit-*`, as the limits stand for this request."""
        return self.hold.headers() if self.hold is not None else []

    def settle(self, tokens: int | None, cost_nusd: int) -> int:
        """Give everything back but what was used; None is nothing. Returns the overrun in nano-USD."""
        self.charge.release()
        if self.hold is not None:
            self.hold.settle(tokens)
        return self.reservation.settle(cost_nusd, tokens or 0) if self.reservation is not None else 0

    def release(self) -> None:
        """Give everything back: no provider was asked."""
        if self.lead is not None:
            self.lead.abandon()
        self.settle(None, 0)
