"""What a request holds from its admission to its settlement: room for its body, its place in the limits, its budget.

Everything is taken by `take` and given back by `settle` or `release`, which wait for nothing; one of the two is called,
and calling again changes nothing. A refusal gives back what was taken before it.
"""

import math
from typing import NamedTuple

import trio

from securellm.cache.answers import Lead
from securellm.chat import Caller, Headers, RequestId
from securellm.errors import OverCapacity, RateLimited
from securellm.limits.budgets import Budgets, Reservation
from securellm.limits.in_flight import Charge
from securellm.limits.limiter import Hold, Limiter
from securellm.routing import Target
from securellm.tokens import estimate_request_tokens, estimate_tokens
from securellm.wire.body import Peeked

MOST_BYTES_A_TOKEN = 16  # of an answer, on average: text has four; beyond it a provider has ignored its bound
LARGE_BYTES = 64 * 1024  # of a body that may be an image more than a text
APART_BYTES = 1024 * 1024  # of a body that takes milliseconds to look through


class Most(NamedTuple):
    """What a request may use at most, whichever of its targets answers."""

    cost_nusd: int
    tokens: int
    output_tokens: int


class Holdings:
    """One request's. Made with the charge for its body, which may still grow."""

    __slots__ = ("charge", "hold", "lead", "most_output_bytes", "reservation", "tokens")

    def __init__(self, charge: Charge) -> None:
        self.charge = charge
        self.hold: Hold | None = None
        self.reservation: Reservation | None = None
        self.lead: Lead | None = None  # others wait for this request's answer
        self.most_output_bytes: float = math.inf  # of an answer for which no more was reserved
        self.tokens = 0  # that the limits count until the real number is known

    async def take(self, limiter: Limiter, caller: Caller, target: Target, body: bytes, peeked: Peeked) -> None:
        """Take the caller's share of the limits. Raises RateLimited, OverCapacity, LimitsUnavailable."""
        self.tokens = await estimate_use_tokens(body, peeked)
        self.hold = await limiter.admit(caller, target.id, self.tokens)

    async def ask_provider(self, target: Target) -> RateLimited | OverCapacity | None:
        """Take the provider's share for one attempt; a refusal is returned. Raises LimitsUnavailable."""
        return await self.hold.ask_provider(target.provider.name, self.tokens) if self.hold is not None else None

    def headers(self) -> Headers:
        """`x-ratelimit-*`, as the limits stand for this request."""
        return self.hold.headers() if self.hold is not None else []

    async def reserve(self, budgets: Budgets, caller: Caller, most: Most, request_id: RequestId) -> None:
        """Reserve what the request may cost at most. Raises BudgetExceeded, BudgetsUnavailable."""
        self.reservation = await budgets.reserve(caller, most.cost_nusd, most.tokens, request_id)
        self.most_output_bytes = most.output_tokens * MOST_BYTES_A_TOKEN

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


async def estimate_use_tokens(body: bytes, peeked: Peeked) -> int:
    """Tokens that a request may come to: those of its body, and as many of each answer as its caller allows."""
    output = (peeked.max_output_tokens or 0) * peeked.n
    return output + await _estimate_body_tokens(body)


async def _estimate_body_tokens(body: bytes) -> int:
    """A quarter of its bytes, images in it left out."""
    if len(body) < LARGE_BYTES or b"base64" not in body:
        return estimate_tokens(len(body))
    if len(body) < APART_BYTES:
        return estimate_request_tokens(body)
    return await trio.to_thread.run_sync(estimate_request_tokens, body, abandon_on_cancel=True)
