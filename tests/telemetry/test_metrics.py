"""The names and figures that dashboards read."""

from securellm.chat import Attempt, Endpoint, Outcome, RequestId, Settlement, Status, Usage
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


def test_breaker_states() -> None:
    """0 closed, 1 open, 2 half-open, as the contract says."""
    metrics = Metrics()
    for value, state in enumerate(("closed", "open", "half_open")):
        metrics.breaker("openai", state)
        assert f'securellm_circuit_breaker_state{{provider="openai"}} {value:.1f}' in _lines(metrics)
