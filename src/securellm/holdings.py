"""What a request holds from its admission to its settlement: room for its body, its place in the limits, its budget.

Everything is taken by `take` and given back by `settle` or `release`, which wait for nothing; one of the two is called,
and calling again changes nothing. A refusal gives back what was taken before it.
"""

import math

import trio

from securellm.chat import Caller, Headers
from securellm.errors import OverCapacity, RateLimited
from securellm.limits.in_flight import Charge
from securellm.limits.limiter import Hold, Limiter
from securellm.routing import Target
from securellm.tokens import estimate_request_tokens, estimate_tokens

LARGE_BYTES = 64 * 1024  # of a body that may be an image more than a text
APART_BYTES = 1024 * 1024  # of a body that takes milliseconds to look through


class Holdings:
    """One request's. Made with the charge for its body, which may still grow."""

    __slots__ = ("charge", "hold", "most_output_bytes", "tokens")

    def __init__(self, charge: Charge) -> None:
        self.charge = charge
        self.hold: Hold | None = None
        self.most_output_bytes: float = math.inf  # of an answer for which no more was reserved
        self.tokens = 0  # that the limits count until the real number is known

    async def take(self, limiter: Limiter, caller: Caller, target: Target, body: bytes) -> None:
        """Take the caller's share of the limits. Raises RateLimited, OverCapacity, LimitsUnavailable."""
        self.tokens = await estimate_body_tokens(body)
        self.hold = await limiter.admit(caller, target.id, self.tokens)

    async def ask_provider(self, target: Target) -> RateLimited | OverCapacity | None:
        """Take the provider's share for one attempt; a refusal is returned. Raises LimitsUnavailable."""
        return await self.hold.ask_provider(target.provider.name, self.tokens) if self.hold is not None else None

    def headers(self) -> Headers:
        """`x-ratelimit-*`, as the limits stand for this request."""
        return self.hold.headers() if self.hold is not None else []

    def settle(self, tokens: int | None) -> None:
        """Give everything back but what was used; None is nothing."""
        self.charge.release()
        if self.hold is not None:
            self.hold.settle(tokens)

    def release(self) -> None:
        """Give everything back: no provider was asked."""
        self.settle(None)


async def estimate_body_tokens(body: bytes) -> int:
    """Tokens that a body may come to: a quarter of its bytes, images in it left out."""
    if len(body) < LARGE_BYTES or b"base64" not in body:
        return estimate_tokens(len(body))
    if len(body) < APART_BYTES:
        return estimate_request_tokens(body)
    return await trio.to_thread.run_sync(estimate_request_tokens, body, abandon_on_cancel=True)
