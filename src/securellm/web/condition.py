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

    @property
    def ready(self) -> bool:
        """Requests can be served."""
        return self.database.status == "healthy" and bool(self.providers)

    @property
    def status(self) -> str:
        """`healthy`; `degraded` when some part is unwell; `unhealthy` when no request could succeed."""
        if not self.ready or all(provider.status == "unhealthy" for provider in self.providers):
            return "unhealthy"
        return "healthy" if all(provider.status == "healthy" for provider in self.providers) else "degraded"


def condition_of(runtime: Any) -> Condition:
    """The condition now."""
    providers = []
    for name, provider in runtime.providers.items():
        figures = runtime.origins.of(provider).statistics()
        state = figures.state.name.lower()
        latency_ms = _rounded(figures.latency_ms)
        providers.append(ProviderCondition(name, PROVIDER_STATUS[state], state, latency_ms, figures.last_error))
    return Condition(providers, _store_condition(runtime.accounts), PartCondition("disabled"))


def _store_condition(accounts: Any) -> PartCondition:
    figures = accounts.statistics()
    latency_ms = _rounded(figures.latency_ms)
    if figures.fresh:
        return PartCondition("healthy", latency_ms)
    return PartCondition("unhealthy", latency_ms, figures.error or "the last read of the keys is too old")


def _rounded(latency_ms: float | None) -> float | None:
    return round(latency_ms, 3) if latency_ms is not None else None
