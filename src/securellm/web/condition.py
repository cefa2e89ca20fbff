"""The condition of the parts: providers, store, redis; and what it makes of the whole. Read from memory only."""

from typing import Any

import msgspec

PROVIDER_STATUS = {"closed": "healthy", "half_open": "degraded", "open": "unhealthy"}  # by the breaker's state


class ProviderCondition(msgspec.Struct, frozen=True):
    """One provider, by its breaker."""

    name: str
    status: str
    circuit_breaker: str
    latency_ms: float | None
    last_error: str | None


class PartCondition(msgspec.Struct, frozen=True):
    """The store, or redis."""

    status: str
    latency_ms: float | None = None
    error: str | None = None


class Condition(msgspec.Struct, frozen=True):
    """All of it. `ready`: the store can be asked and one provider is there."""

    providers: list[ProviderCondition]
    database: PartCondition
    redis: PartCondition
    audit: PartCondition
    audit_strict: bool = True  # nothing is answered that cannot be recorded

    @property
    def ready(self) -> bool:
        """Requests can be served."""
        return self.database.status == "healthy" and bool(self.providers)

    @property
    def status(self) -> str:
        """`healthy`; `degraded` when some part is unwell; `unhealthy` when no request could succeed."""
        if not self.ready or all(provider.status == "unhealthy" for provider in self.providers):
            return "unhealthy"
        if self.audit.status == "unhealthy":
            return "unhealthy" if self.audit_strict else "degraded"
        parts = [provider.status for provider in self.providers] + [self.audit.status, self.redis.status]
        return "healthy" if all(status in ("healthy", "disabled") for status in parts) else "degraded"


def condition_of(runtime: Any) -> Condition:
    """The condition now."""
    providers = []
    for name, provider in runtime.providers.items():
        figures = runtime.origins.of(provider).statistics()
        state = figures.state.name.lower()
        latency_ms = _rounded(figures.latency_ms)
        providers.append(ProviderCondition(name, PROVIDER_STATUS[state], state, latency_ms, figures.last_error))
    return Condition(
        providers,
        _store_condition(runtime.accounts),
        _redis_condition(runtime.redis),
        _audit_condition(runtime),
        runtime.config.audit.mode == "strict",
    )


def _store_condition(accounts: Any) -> PartCondition:
    figures = accounts.statistics()
    latency_ms = _rounded(figures.latency_ms)
    if figures.fresh:
        return PartCondition("healthy", latency_ms)
    return PartCondition("unhealthy", latency_ms, figures.error or "the last read of the keys is too old")


def _redis_condition(figures: Any) -> PartCondition:
    """Redis is never in the way: whatever ails it, requests are served."""
    if figures is None:
        return PartCondition("disabled")
    return PartCondition(figures.status, _rounded(figures.latency_ms), figures.error)


def _rounded(latency_ms: float | None) -> float | None:
    return round(latency_ms, 3) if latency_ms is not None else None


def _audit_condition(runtime: Any) -> PartCondition:
    """`degraded` when records were lost (relaxed mode), `unhealthy` when none can be taken."""
    figures = runtime.gateway.statistics().ledger.audit
    if figures is None:
        return PartCondition("disabled")
    if not figures.available:
        return PartCondition("unhealthy", figures.last_commit_ms, figures.last_error)
    lost = f"{figures.gap} records were lost" if figures.gap else None
    return PartCondition("degraded" if lost else "healthy", figures.last_commit_ms, lost)
