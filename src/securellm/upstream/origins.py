"""What is known of each provider's origin: its breaker, its retry bucket and how it answered last."""

from collections.abc import Iterable

import msgspec
import trio

from securellm.providers.base import Provider
from securellm.upstream.breaker import Allowed, Breaker, BreakerState, Refused
from securellm.upstream.retry import RetryBudget


class OriginStatistics(msgspec.Struct, frozen=True):
    """For health and metrics. `latency_ms` is that of the last answer's head."""

    address: str
    state: BreakerState
    latency_ms: float | None
    last_error: str | None
    failures: int
    retries_withheld: int


class Leave(msgspec.Struct, eq=False):
    """Leave to ask an origin once. Say how it went by one of the three methods; later calls change nothing."""

    # A structure, as one is in every request: it is made without a call into Python.
    origin: "Origin"
    allowed: Allowed
    started_s: float
    said: bool = False

    def succeeded(self) -> None:
        """The origin answered."""
        if not self.said:
            self.said = True
            self.origin.breaker.succeeded(self.allowed)
            self.origin.retries.succeeded()

    def failed(self, error_code: str) -> None:
        """The origin failed."""
        if not self.said:
            self.said = True
            self.origin.breaker.failed(self.allowed, trio.current_time(), error_code)

    def abandoned(self) -> None:
        """Nothing was learnt."""
        if not self.said:
            self.said = True
            self.origin.breaker.abandoned(self.allowed)

    def answered(self, now_s: float) -> None:
        """The head of an answer is there; its latency is noted."""
        self.origin.latency_ms = (now_s - self.started_s) * 1000


class Origin:
    """One provider's."""

    def __init__(self, provider: Provider) -> None:
        settings = self.settings = provider.breaker
        self.address = provider.origin
        self.latency_ms: float | None = None
        self.retries = RetryBudget()
        self.breaker = Breaker(
            failure_threshold=settings.failure_threshold,
            success_threshold=settings.success_threshold,
            timeout_s=settings.timeout_s,
        )

    def ask_leave(self, now_s: float) -> Leave | Refused:
        """Leave to ask it once now, on Trio's clock."""
        allowed = self.breaker.ask_leave(now_s)
        return allowed if isinstance(allowed, Refused) else Leave(self, allowed, now_s)

    def cut_short(self, error_code: str) -> None:
        """An answer that had begun well was not finished."""
        self.breaker.failed(Allowed(probe=False), trio.current_time(), error_code)

    def statistics(self) -> OriginStatistics:
        """The figures now."""
        breaker = self.breaker.statistics()
        return OriginStatistics(
            address=self.address,
            state=breaker.state,
            latency_ms=self.latency_ms,
            last_error=breaker.last_error,
            failures=breaker.failures,
            retries_withheld=self.retries.statistics().withheld,
        )


class Origins:
    """All of them, made when first spoken of."""

    def __init__(self) -> None:
        self._origins: dict[str, Origin] = {}

    def of(self, provider: Provider) -> Origin:
        """The one of that provider; providers at one address share it, with the settings of the first."""
        origin = self._origins.get(provider.origin)
        if origin is None:
            origin = self._origins[provider.origin] = Origin(provider)
        return origin

    def kept_for(self, providers: Iterable[Provider]) -> "Origins":
        """The same origins, as far as these providers have them, with the same settings of the breaker."""
        kept = Origins()
        for provider in providers:
            origin = self._origins.get(provider.origin)
            if origin is not None and origin.settings == provider.breaker:
                kept._origins.setdefault(provider.origin, origin)
        return kept

    def healthy(self, address: str) -> bool:
        """A request to that origin (`scheme://host:port`) would be let through now."""
        origin = self._origins.get(address)
        return origin is None or origin.breaker.would_allow(trio.current_time())

    def statistics(self) -> list[OriginStatistics]:
        """One entry for each origin spoken of."""
        return [origin.statistics() for origin in self._origins.values()]
