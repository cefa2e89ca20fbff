"""The names and figures that dashboards read."""

from pathlib import Path

import pytest

from securellm.chat import Attempt, Caller, Endpoint, KeyId, Outcome, RequestId, Settlement, Status, Usage
from securellm.telemetry.metrics import Metrics

KEPT_NAMES = [
    "securellm_requests_total",
    "securellm_request_duration_seconds",
    "securellm_provider_requests_total",
    "securellm_provider_errors_total",
    "securellm_circuit_breaker_state",
    "securellm_cache_hits_total",
    "securellm_cache_misses_total",
    "securellm_token_usage_total",
    "securellm_cost_usd_total",
]


def _settlement(**changes: object) -> Settlement:
    fields: dict[str, object] = {
        "request_id": RequestId("r"),
        "client_request_id": None,
        "endpoint": Endpoint.CHAT,
        "caller": None,
        "client_ip": "",
        "requested_model": "openai/m",
        "provider": "openai",
        "model": "m",
        "stream": True,
        "outcome": Outcome(Status.SUCCESS, 200),
        "attempts": (
            Attempt(1, "anthropic", "m", error_code="connect_failed"),
            Attempt(2, "deepseek", "m", skipped="circuit_open"),
            Attempt(3, "openai", "m", http_status=200),
        ),
        "usage": Usage(input_tokens=5, cache_read_tokens=2, output_tokens=3),
        "usage_source": "reported",
        "finish_reason": "stop",
        "first_token_ms": 30.0,
        "duration_ms": 70.0,
        "bytes_in": 1,
        "bytes_out": 1,
        "dropped": (),
        "upstream_request_id": None,
        "context_truncated": False,
        "config_epoch": "",
    }
    return Settlement(**(fields | changes))  # type: ignore[arg-type]


def _lines(metrics: Metrics) -> list[str]:
    return metrics.expose().decode("utf-8").splitlines()


def test_kept_names() -> None:
    """Every name of the contract is exposed from the start."""
    metrics = Metrics()
    text = metrics.expose().decode("utf-8")
    for name in KEPT_NAMES:
        assert f"# TYPE {name.removesuffix('_total')}" in text or f"# TYPE {name} " in text


def test_a_settlement_is_counted() -> None:
    """Attempts go to their providers, skipped ones to nobody, tokens to whoever answered."""
    metrics = Metrics()
    metrics.settled(_settlement())
    lines = _lines(metrics)
    assert 'securellm_requests_total{endpoint="chat.completions",status="success"} 1.0' in lines
    assert 'securellm_provider_requests_total{provider="anthropic"} 1.0' in lines
    assert 'securellm_provider_errors_total{provider="anthropic"} 1.0' in lines
    assert 'securellm_provider_requests_total{provider="openai"} 1.0' in lines
    assert not [line for line in lines if "deepseek" in line]
    assert 'securellm_token_usage_total{provider="openai",type="prompt"} 7.0' in lines
    assert 'securellm_token_usage_total{provider="openai",type="completion"} 3.0' in lines
    assert 'securellm_request_duration_seconds_bucket{endpoint="chat.completions",le="0.1"} 1.0' in lines
    assert 'securellm_request_duration_seconds_bucket{endpoint="chat.completions",le="0.05"} 0.0' in lines
    assert 'securellm_first_token_seconds_bucket{le="0.05",provider="openai"} 1.0' in lines


def test_a_cancelled_attempt_is_no_error_of_the_provider() -> None:
    """A caller who hangs up does not make the provider look unwell."""
    metrics = Metrics()
    metrics.settled(_settlement(attempts=(Attempt(1, "openai", "m", error_code="cancelled"),)))
    assert not [line for line in _lines(metrics) if line.startswith("securellm_provider_errors_total{")]


def test_what_callers_choose_is_no_label() -> None:
    """A model's name never becomes a series."""
    metrics = Metrics()
    metrics.settled(_settlement(requested_model="chosen-by-caller", model="chosen-by-caller", provider=None))
    assert "chosen-by-caller" not in metrics.expose().decode("utf-8")


def test_as_many_series_as_are_configured() -> None:
    """10,000 callers, models, addresses and ids of their choice make as many series as one."""
    metrics = Metrics()
    metrics.settled(_settlement())
    before = len(_lines(metrics))
    for number in range(10_000):
        name = f"chosen-{number}"
        caller = Caller(KeyId(name), None)
        metrics.settled(
            _settlement(
                request_id=RequestId(name), client_request_id=name, caller=caller, client_ip=name, requested_model=name
            )
        )
    assert len(_lines(metrics)) == before


def test_workers_are_shown_as_one(tmp_path: Path) -> None:
    """Whichever worker is asked shows the sum of counts and histograms, and gauges as a whole machine has them."""
    workers = [Metrics(tmp_path, slot) for slot in (1, 2, 3)]
    for number, worker in enumerate(workers):
        for _ in range(number + 1):
            worker.settled(_settlement())
        worker.breaker("openai", ("closed", "open", "half_open")[number])
    workers[0].audited(available=True, pending=3, gap=1, last_commit_ms=5)
    workers[1].audited(available=False, pending=4, gap=0, last_commit_ms=9)
    workers[2].counted("securellm_bookkeeper_failures", 2)
    workers[2].counted("securellm_bookkeeper_failures", 5)
    shown = [_lines(worker) for worker in workers]
    assert shown[0] == shown[1] == shown[2]
    for line in (
        'securellm_requests_total{endpoint="chat.completions",status="success"} 6.0',
        'securellm_request_duration_seconds_count{endpoint="chat.completions"} 6.0',
        'securellm_circuit_breaker_state{provider="openai"} 1.0',
        "securellm_audit_available 0.0",
        "securellm_audit_pending_records 7.0",
        "securellm_audit_lost_records 1.0",
        "securellm_audit_commit_seconds 0.009",
        "securellm_bookkeeper_failures_total 5.0",
    ):
        assert line in shown[0]


def test_a_wrong_name_or_label_is_refused() -> None:
    """What is not in the table of metrics cannot be counted by mistake."""
    metrics = Metrics()
    with pytest.raises(ValueError, match="is a counter with labels"):
        metrics.count("securellm_provider_requests")
    with pytest.raises(ValueError, match="is a gauge"):
        metrics.count("securellm_audit_available")


def test_breaker_states() -> None:
    """0 closed, 1 open, 2 half-open, as the contract says."""
    metrics = Metrics()
    for value, state in enumerate(("closed", "open", "half_open")):
        metrics.breaker("openai", state)
        assert f'securellm_circuit_breaker_state{{provider="openai"}} {value:.1f}' in _lines(metrics)
