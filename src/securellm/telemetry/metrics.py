"""What is counted, under the names that dashboards know: the sum over all workers, whichever of them is asked.

Labels hold only what the configuration bounds: providers' names, endpoints, statuses. Never a model, which callers
choose. How a gauge of several workers becomes one figure is written beside it.
"""

import bisect
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from securellm.chat import Endpoint, Settlement, Status
from securellm.telemetry.tally import Cells, Counter, Gauge, Histogram, Merge, merge, open_cells, read_others

DURATION_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
# From our own refusals (milliseconds) to timeouts.total_s, the longest that a request may take.

BREAKER_VALUES = {"closed": 0, "open": 1, "half_open": 2}

NUSD_PER_USD = 1_000_000_000

NO_PROVIDER = "none"  # the label of a request that was refused before a provider was chosen


def worst_breaker(states: Sequence[float]) -> float:
    """Open when it is open in any worker, else half-open when it is in any, else closed."""
    return 1.0 if 1.0 in states else max(states)


class Family(msgspec.Struct, frozen=True):
    """One metric: its name without `_total`, and what becomes of it when workers are put together."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: str = "counter"
    merge: Merge = math.fsum


FAMILIES = (
    Family("securellm_requests", "Requests settled, by endpoint and outcome.", ("endpoint", "status")),
    Family(
        "securellm_request_duration_seconds", "From the request's head to its settlement.", ("endpoint",), "histogram"
    ),
    Family(
        "securellm_first_token_seconds",
        "From the request's head to the first semantic event of a stream.",
        ("provider",),
        "histogram",
    ),
    Family("securellm_provider_requests", "Attempts sent to a provider.", ("provider",)),
    Family("securellm_provider_errors", "Attempts that ended in an error.", ("provider",)),
    Family("securellm_circuit_breaker_state", "0 closed, 1 open, 2 half-open.", ("provider",), "gauge", worst_breaker),
    Family("securellm_token_usage", "Tokens used, as far as is known.", ("provider", "type")),
    Family("securellm_cost_usd", "Cost in US dollars, at the prices in force.", ("provider",)),
    Family("securellm_cache_hits", "Answers from the cache."),
    Family("securellm_cache_misses", "Requests that the cache could not answer."),
    Family("securellm_redis_state", "0 usable or unused, 1 not asked, 2 being tried.", (), "gauge", worst_breaker),
    Family("securellm_redis_failures", "Lost connections to Redis, late answers, and probes that failed."),
    Family(
        "securellm_rate_limited",
        "Refusals by a limit, or what would be one in shadow mode.",
        ("scope", "measure", "shadow"),
    ),
    Family(
        "securellm_budget_exceeded", "Requests refused as they did not fit into a budget, by whose it is.", ("kind",)
    ),
    Family("securellm_budget_unavailable", "Requests refused as the store of budgets did not answer."),
    Family("securellm_budget_overruns", "Requests that cost more than was reserved for them."),
    Family("securellm_budget_overrun_usd", "What they cost beyond that, in US dollars."),
    Family("securellm_budget_stale", "Reservations that nobody settled in time, charged as estimated."),
    Family("securellm_budget_exchange_seconds", "How long the last exchange with the store took.", (), "gauge", max),
    Family("securellm_audit_available", "1 when the audit log takes records.", (), "gauge", min),
    Family("securellm_audit_pending_records", "Records that wait for the disk.", (), "gauge"),
    Family("securellm_audit_lost_records", "Records lost since the start, relaxed mode only.", (), "gauge"),
    Family("securellm_audit_commit_seconds", "How long the last commit took.", (), "gauge", max),
    Family("securellm_bookkeeper_failures", "Settlements that some bookkeeper (metrics, log) could not take."),
    Family("securellm_log_lines_dropped", "Lines of the log that nobody read in time."),
)


class Metrics:
    """The worker's counters. `settled` is called by the ledger, the rest by the endpoint that shows them.

    Use it in one thread only, but for `expose`. Without a directory it counts for a process that serves alone.
    """

    def __init__(self, run_dir: Path | None = None, slot: int = 1) -> None:
        self._run_dir = run_dir
        self._slot = slot
        self._cells: Cells = open_cells(run_dir, slot)
        self._families = {family.name: family for family in FAMILIES}
        self._told: dict[tuple[str, tuple[str, ...]], float] = {}
        self.registry = CollectorRegistry()
        self.registry.register(_Collector(self._collect))
        # A child looked up by its labels costs more than counting on it.
        self._counter = functools.cache(self._new_counter)
        self._gauge = functools.cache(self._new_gauge)
        self._histogram = functools.cache(self._new_histogram)
        self._places: dict[tuple[Endpoint, Status, str], _Places] = {}
        for family in FAMILIES:  # what has no labels is shown from the start
            if not family.labels and family.kind == "counter":
                self._counter(family.name)
            elif not family.labels:
                self._gauge(family.name)

    def __repr__(self) -> str:
        return f"<Metrics worker {self._slot} {self._cells!r}>"

    def settled(self, settlement: Settlement) -> None:
        """Count one request and its attempts. Waits for nothing."""
        # On the cells themselves: this is done for every request, and a call for each of them takes twice as long.
        values, provider = self._cells.values, settlement.provider or NO_PROVIDER
        kind = settlement.endpoint, settlement.outcome.status, provider
        places = self._places.get(kind)
        if places is None:
            places = self._places[kind] = self._new_places(*kind)
        values[places.requests] += 1.0
        duration_s = settlement.duration_ms / 1000
        values[places.durations + bisect.bisect_left(DURATION_BUCKETS_S, duration_s)] += 1.0
        values[places.durations_sum] += duration_s
        for attempt in settlement.attempts:
            if attempt.skipped is None:
                if attempt.provider != provider:
                    self._counter("securellm_provider_requests", attempt.provider).inc()
                else:
                    if not places.attempts:
                        places.attempts = self._counter("securellm_provider_requests", provider).at
                    values[places.attempts] += 1.0
                if attempt.error_code is not None and attempt.error_code != "cancelled":
                    self._counter("securellm_provider_errors", attempt.provider).inc()
        if settlement.cache != "off":
            self._counter("securellm_cache_hits" if settlement.cache == "hit" else "securellm_cache_misses").inc()
        if settlement.first_token_ms is not None:
            self._histogram("securellm_first_token_seconds", provider).observe(settlement.first_token_ms / 1000)
        if settlement.cost_nusd is not None:
            if not places.cost:
                places.cost = self._counter("securellm_cost_usd", provider).at
            values[places.cost] += settlement.cost_nusd / NUSD_PER_USD
        if settlement.usage is not None:
            if not places.completion:
                places.prompt = self._counter("securellm_token_usage", provider, "prompt").at
                places.completion = self._counter("securellm_token_usage", provider, "completion").at
            values[places.prompt] += settlement.usage.prompt_tokens
            values[places.completion] += settlement.usage.completion_tokens

    def count(self, name: str, *labels: str, amount: float = 1.0) -> None:
        """Add to a counter of FAMILIES, by its labels in their order."""
        self._counter(name, *labels).inc(amount)

    def counted(self, name: str, total: float, *labels: str) -> None:
        """Bring a counter of FAMILIES up to what this process has counted elsewhere."""
        self._counter(name, *labels).inc(total - self._told.get((name, labels), 0))
        self._told[name, labels] = total

    def show(self, name: str, *labels: str, value: float) -> None:
        """Set a gauge of FAMILIES, by its labels in their order."""
        self._gauge(name, *labels).set(value)

    def audited(self, *, available: bool, pending: int, gap: int, last_commit_ms: float) -> None:
        """Show how the audit log goes: whether it takes records, how many wait for the disk, how many were lost."""
        self.show("securellm_audit_available", value=available)
        self.show("securellm_audit_pending_records", value=pending)
        self.show("securellm_audit_lost_records", value=gap)
        self.show("securellm_audit_commit_seconds", value=last_commit_ms / 1000)

    def breaker(self, provider: str, state: str) -> None:
        """Show a provider's circuit breaker as `closed`, `open` or `half_open`."""
        self.show("securellm_circuit_breaker_state", provider, value=BREAKER_VALUES[state])

    def expose(self) -> bytes:
        """What all workers counted, in Prometheus's text format. Takes milliseconds: call it in a thread."""
        return generate_latest(self.registry)

    def _new_places(self, endpoint: Endpoint, status: Status, provider: str) -> "_Places":
        requests = self._counter("securellm_requests", endpoint.value, status.value)
        return _Places(requests.at, self._histogram("securellm_request_duration_seconds", endpoint.value).at)

    def _new_counter(self, name: str, *labels: str) -> Counter:
        return Counter(self._cells, self._key(name, "counter", labels))

    def _new_gauge(self, name: str, *labels: str) -> Gauge:
        return Gauge(self._cells, self._key(name, "gauge", labels))

    def _new_histogram(self, name: str, *labels: str) -> Histogram:
        return Histogram(self._cells, self._key(name, "histogram", labels), DURATION_BUCKETS_S)

    def _key(self, name: str, kind: str, labels: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        family = self._families[name]
        if family.kind != kind or len(family.labels) != len(labels):
            raise ValueError(f"{name} is a {family.kind} with labels {family.labels}, got a {kind} with {labels}")
        return name, labels

    def _collect(self) -> Iterator[Metric]:
        parts = [self._cells.read(), *read_others(self._run_dir, self._slot)]
        merged = merge(parts, {family.name: family.merge for family in FAMILIES})
        for family in FAMILIES:
            yield _metric(family, {key[1]: cells for key, cells in merged.items() if key[0] == family.name})


class _Places:
    """Which cells count the requests of one door, outcome and provider; 0: nothing was, and nothing is shown."""

    __slots__ = ("attempts", "completion", "cost", "durations", "durations_sum", "prompt", "requests")

    def __init__(self, requests: int, durations: int) -> None:
        self.requests = requests
        self.durations = durations  # the first of its buckets
        self.durations_sum = durations + len(DURATION_BUCKETS_S) + 1
        self.attempts = self.cost = self.prompt = self.completion = 0


class _Collector:
    """What the library asks for metrics."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self.collect = collect


def _metric(family: Family, series: dict[tuple[str, ...], list[float]]) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, (*buckets, total_s) in series.items():
            counted, cumulative = 0.0, []
            for bound, count in zip((*map(str, DURATION_BUCKETS_S), "+Inf"), buckets, strict=True):
                counted += count
                cumulative.append((bound, counted))
            histogram.add_metric(labels, buckets=cumulative, sum_value=total_s)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, (value,) in series.items():
        metric.add_metric(labels, value)
    return metric
