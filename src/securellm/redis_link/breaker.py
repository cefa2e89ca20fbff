"""The one breaker for all use of Redis: when it is not asked, and when it is tried again. Pure.

    closed ── the connection failed; silence for as long as anybody waits; LATE_AT_MOST late answers in a row ──▶ open
       ▲                                                                                                        │
       └────────── the probe is answered in time ─────── half-open ◀──── delay passed (0, then 0.1 s … 1 s) ─────┘

Silence opens it at once, so that one request that asks several times waits once. The first probe follows without a
delay: a server that was busy for 80 ms is back after 80 ms. Probes are made by the worker, never by a request.
`now_s` is any monotonic clock. The state is written by two threads, each step of it under the worker's lock.
"""

import enum

import msgspec

LATE_AT_MOST = 3  # answers over the deadline, one after the other, while others come: slow, not silent
FIRST_DELAY_S = 0.1  # after the first probe that failed; doubles
LONGEST_DELAY_S = 1.0  # with a probe's own timeouts it keeps recovery within 5 s


class BreakerState(enum.Enum):
    """The value is what the metric shows."""

    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2


class BreakerStatistics(msgspec.Struct, frozen=True):
    """`failures` since the start: probes that failed, connections lost, answers that were late."""

    state: BreakerState
    failures: int
    opened: int
    error: str | None


class Breaker:
    """See the module."""

    def __init__(self) -> None:
        self._state = BreakerState.CLOSED
        self._late = 0
        self._failures = 0
        self._opened = 0
        self._delay_s = 0.0
        self._retry_s = 0.0
        self._error: str | None = None

    @property
    def closed(self) -> bool:
        """Redis may be asked."""
        return self._state is BreakerState.CLOSED

    @property
    def retry_s(self) -> float:
        """When the next probe is due."""
        return self._retry_s

    def failed(self, now_s: float, error: str) -> bool:
        """A connection or a probe failed; whether that opened it."""
        self._failures += 1
        self._error = error
        opens = self._state is BreakerState.CLOSED
        if opens:
            self._opened += 1
            self._delay_s = 0.0
        elif self._state is BreakerState.HALF_OPEN:
            self._delay_s = min(max(self._delay_s * 2, FIRST_DELAY_S), LONGEST_DELAY_S)
        self._state = BreakerState.OPEN
        self._retry_s = now_s + self._delay_s
        return opens

    def late(self, now_s: float, error: str, *, silent: bool) -> bool:
        """Somebody waited in vain, and meanwhile nothing came at all (`silent`); whether that opened it."""
        if self._state is not BreakerState.CLOSED:
            return False
        self._late += 1
        if silent or self._late >= LATE_AT_MOST:
            return self.failed(now_s, error)
        self._failures += 1
        return False

    def answered(self) -> None:
        """An answer came in time."""
        self._late = 0

    def probing(self) -> None:
        """The worker tries it."""
        self._state = BreakerState.HALF_OPEN

    def recovered(self) -> None:
        """The probe was answered in time."""
        self._state = BreakerState.CLOSED
        self._late = 0
        self._error = None

    def statistics(self) -> BreakerStatistics:
        """The figures now."""
        return BreakerStatistics(self._state, self._failures, self._opened, self._error)

    def __repr__(self) -> str:
        return f"<Breaker {self._state.name.lower()} failures={self._failures} opened={self._opened}>"
