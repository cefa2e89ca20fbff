"""What is counted, under the names that dashboards know. One registry of our own per process, children looked up once.

Labels hold only what the configuration bounds: providers' names, endpoints, statuses. Never a model, which callers
choose.
"""

import functools

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from securellm.chat import Attempt, Settlement

DURATION_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
# From our own refusals (milliseconds) to timeouts.total_s, the longest that a request may take.

BREAKER_VALUES = {"closed": 0, "open": 1, "half_open": 2}

NUSD_PER_USD = 1_000_000_000

NO_PROVIDER = "none"  # the label of a request that was refused before a provider was chosen


class Metrics:
    """The process's counters. `settled` is called by the ledger, the rest by the endpoint that shows them."""

    def __init__(self) -> None:
        # Else each counter has a second series with the time of its first count.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library does not annotate it
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter(
            "securellm_requests",
            "Requests settled, by endpoint and outcome.",
            ["endpoint", "status"],
            registry=registry,
        )
        self._duration = Histogram(
            "securellm_request_duration_seconds",
            "From the request's head to its settlement.",
            ["endpoint"],
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        self._first_token = Histogram(
            "securellm_first_token_seconds",
            "From the request's head to the first semantic event of a stream.",
            ["provider"],
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        self._provider_requests = Counter(
            "securellm_provider_requests", "Attempts sent to a provider.", ["provider"], registry=registry
        )
        self._provider_errors = Counter(
            "securellm_provider_errors", "Attempts that ended in an error.", ["provider"], registry=registry
        )
        self._breaker = Gauge(
            "securellm_circuit_breaker_state", "0 closed, 1 open, 2 half-open.", ["provider"], registry=registry
        )
        self._tokens = Counter(
            "securellm_token_usage", "Tokens used, as far as is known.", ["provider", "type"], registry=registry
        )
        self._cost = Counter(
            "securellm_cost_usd",
            "Cost in US dollars, at the prices in force.",
            ["provider"],
            registry=registry,
        )
        self._cache_hits = Counter(
            "securellm_cache_hits", "Answers from the cache; there is none in this version.", registry=registry
        )
        self._cache_misses = Counter(
            "securellm_cache_misses", "Requests that the cache could not answer.", registry=registry
        )
        self._audit_available = Gauge(
            "securellm_audit_available", "1 when the audit log takes records.", registry=registry
        )
        self._audit_pending = Gauge(
            "securellm_audit_pending_records", "Records that wait for the disk.", registry=registry
        )
        self._audit_gap = Gauge(
            "securellm_audit_lost_records", "Records lost since the start, relaxed mode only.", registry=registry
        )
        self._audit_commit = Gauge(
            "securellm_audit_commit_seconds", "How long the last commit took.", registry=registry
        )
        # A child looked up by its labels costs more than counting on it.
        self._counter = functools.cache(_counter_child)
        self._histogram = functools.cache(_histogram_child)

    def settled(self, settlement: Settlement) -> None:
        """Count one request and its attempts. Waits for nothing."""
        endpoint = settlement.endpoint.value
        self._counter(self._requests, endpoint, settlement.outcome.status.value).inc()
        self._histogram(self._duration, endpoint).observe(settlement.duration_ms / 1000)
        for attempt in settlement.attempts:
            self._attempted(attempt)
        provider = settlement.provider or NO_PROVIDER
        if settlement.first_token_ms is not None:
            self._histogram(self._first_token, provider).observe(settlement.first_token_ms / 1000)
        if settlement.cost_nusd is not None:
            self._counter(self._cost, provider).inc(settlement.cost_nusd / NUSD_PER_USD)
        if settlement.usage is not None:
            self._counter(self._tokens, provider, "prompt").inc(settlement.usage.prompt_tokens)
            self._counter(self._tokens, provider, "completion").inc(settlement.usage.completion_tokens)

    def audited(self, *, available: bool, pending: int, gap: int, last_commit_ms: float) -> None:
        """Show how the audit log goes: whether it takes records, how many wait for the disk, how many were lost."""
        self._audit_available.set(available)
        self._audit_pending.set(pending)
        self._audit_gap.set(gap)
        self._audit_commit.set(last_commit_ms / 1000)

    def breaker(self, provider: str, state: str) -> None:
        """Show a provider's circuit breaker as `closed`, `open` or `half_open`."""
        self._breaker.labels(provider).set(BREAKER_VALUES[state])

    def expose(self) -> bytes:
        """Everything in Prometheus's text format. Takes tens of milliseconds with many series: call it in a thread."""
        return generate_latest(self.registry)

    def _attempted(self, attempt: Attempt) -> None:
        if attempt.skipped is None:
            self._counter(self._provider_requests, attempt.provider).inc()
            if attempt.error_code is not None and attempt.error_code != "cancelled":
                self._counter(self._provider_errors, attempt.provider).inc()


def _counter_child(metric: Counter, *labels: str) -> Counter:
    return metric.labels(*labels)


def _histogram_child(metric: Histogram, *labels: str) -> Histogram:
    return metric.labels(*labels)
