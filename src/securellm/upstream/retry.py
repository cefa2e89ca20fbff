"""When to ask again, how long to wait before it, and how often at most. Pure.

Retried are a connection that could not be made, 429, 500, 502, 503 and 529; never a timeout, and nothing once an
answer has begun. Waiting doubles from half a second up to 8 s, spread over its upper half so that callers do
not come back together; a provider's Retry-After is honoured as a lower bound.

Two budgets bound the whole: `max_retries` for a request, and for an origin a bucket from which every retry takes a
token and into which every success puts a tenth of one. The idea of the bucket is gRPC's (proposal A6, "retry
throttling"): while an origin is down, what reaches it is the first attempts, not a multiple of them.
"""

import msgspec

RETRIED_STATUSES = frozenset({429, 500, 502, 503, 529})

FIRST_WAIT_S = 0.5
MAX_WAIT_S = 8.0
MAX_RETRY_AFTER_S = 60.0  # a longer Retry-After is the caller's to honour: waiting would hold his connection for it

BUCKET_TOKENS = 10.0
TOKENS_PER_SUCCESS = 0.1


def wait_before_retry_s(retry: int, *, spread: float, retry_after_s: float | None) -> float | None:
    """Seconds to wait before retry number `retry` (1, 2, …); None when the provider asks for too long.

    `spread` is a random number in [0, 1).
    """
    full_s = min(MAX_WAIT_S, FIRST_WAIT_S * 2.0 ** (retry - 1))
    wait_s = full_s * (0.5 + 0.5 * spread)
    if retry_after_s is None:
        return wait_s
    if retry_after_s > MAX_RETRY_AFTER_S:
        return None
    return max(wait_s, retry_after_s)


class RetryBudgetStatistics(msgspec.Struct, frozen=True):
    """Tokens left, and how many retries were not made for want of one."""

    tokens: float
    withheld: int


class RetryBudget:
    """The bucket of one origin."""

    def __init__(self) -> None:
        self._tokens = BUCKET_TOKENS
        self._withheld = 0

    def take(self) -> bool:
        """Leave for one retry."""
        if self._tokens < 1.0:
            self._withheld += 1
            return False
        self._tokens -= 1.0
        return True

    def succeeded(self) -> None:
        """The origin answered."""
        if self._tokens < BUCKET_TOKENS:
            self._tokens = min(BUCKET_TOKENS, self._tokens + TOKENS_PER_SUCCESS)

    def statistics(self) -> RetryBudgetStatistics:
        """The figures now."""
        return RetryBudgetStatistics(self._tokens, self._withheld)
