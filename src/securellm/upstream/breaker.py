"""A circuit breaker for one provider origin: stop asking who has stopped answering. Pure.

    closed ── failure_threshold failures in a row ──▶ open ── timeout passed ──▶ half-open
       ▲                                                ▲                            │
       └────────── success_threshold successes ─────────┼──────── one probe at a time ┤
                                                        └────────── a failure ────────┘

Failures are what says that the origin is unwell: no connection, a timeout, a 5xx, a stream cut short. A 4xx and a 429
are answers. `now_s` is any monotonic clock. Whoever got leave to ask says how it went exactly once: `succeeded`,
`failed` or `abandoned` (the caller went away; nothing was learnt).
"""

import enum

import msgspec


class BreakerState(enum.Enum):
    """The value is what `securellm_circuit_breaker_state` shows."""

    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2


class Allowed(msgspec.Struct, frozen=True):
    """Leave to ask; `probe` when it is the one request that tries a half-open origin."""

    probe: bool


class Refused(msgspec.Struct, frozen=True):
    """No leave to ask; try again in `retry_after_s`."""

    retry_after_s: float


class BreakerStatistics(msgspec.Struct, frozen=True):
    """The state, failures in a row and how often it has opened."""

    state: BreakerState
    failures: int
    opened: int
    last_error: str | None


_CLOSED = BreakerState.CLOSED  # an enum's members are slow to look up
_ALLOWED = Allowed(probe=False)


class Breaker:
    """The state of one origin; all times are seconds of the caller's clock."""

    def __init__(self, *, failure_threshold: int, success_threshold: int, timeout_s: float) -> None:
        self._failure_threshold = failure_threshold
        self._success_threshold = success_threshold
        self._timeout_s = timeout_s
        self._state = BreakerState.CLOSED
        self._failures = 0
        self._successes = 0
        self._opened_s = 0.0
        self._opened = 0
        self._probing = False
        self._last_error: str | None = None

    def ask_leave(self, now_s: float) -> Allowed | Refused:
        """May a request go to this origin now?"""
        if self._state is _CLOSED:
            return _ALLOWED
        if self._state is BreakerState.OPEN:
            left_s = self._opened_s + self._timeout_s - now_s
            if left_s > 0:
                return Refused(retry_after_s=left_s)
            self._state = BreakerState.HALF_OPEN
            self._successes = 0
        if self._probing:
            return Refused(retry_after_s=1.0)  # the probe's answer decides; a second is soon enough to look again
        self._probing = True
        return Allowed(probe=True)

    def would_allow(self, now_s: float) -> bool:
        """What `ask_leave` would say, changing nothing."""
        if self._state is BreakerState.OPEN:
            return now_s >= self._opened_s + self._timeout_s
        return not (self._state is BreakerState.HALF_OPEN and self._probing)

    def succeeded(self, leave: Allowed) -> None:
        """The origin answered."""
        if leave.probe:
            self._probing = False
        self._failures = 0
        if leave.probe and self._state is BreakerState.HALF_OPEN:
            self._successes += 1
            if self._successes >= self._success_threshold:
                self._state = BreakerState.CLOSED
                self._last_error = None

    def failed(self, leave: Allowed, now_s: float, error: str) -> None:
        """The origin did not answer as it should; `error` is a code for people to read."""
        self._last_error = error
        if leave.probe:
            self._probing = False
        self._failures += 1
        if (self._state is BreakerState.HALF_OPEN and leave.probe) or (
            self._state is BreakerState.CLOSED and self._failures >= self._failure_threshold
        ):
            self._state = BreakerState.OPEN
            self._opened_s = now_s
            self._opened += 1

    def abandoned(self, leave: Allowed) -> None:
        """The request ended before anything was learnt."""
        if leave.probe:
            self._probing = False

    def statistics(self) -> BreakerStatistics:
        """The figures now."""
        return BreakerStatistics(self._state, self._failures, self._opened, self._last_error)

    def __repr__(self) -> str:
        return f"<Breaker {self._state.name.lower()} failures={self._failures} opened={self._opened}>"
