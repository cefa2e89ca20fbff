"""The log's line of a request: who it is for, what it holds, what it never holds."""

import io
import json

import pytest

from securellm.chat import Attempt, Caller, Endpoint, KeyId, Outcome, RequestId, Settlement, Status
from securellm.telemetry.logs import open_logs
from securellm.telemetry.requests import log_settled


def _settlement(outcome: Outcome, requested_model: str = "auto") -> Settlement:
    return Settlement(
        request_id=RequestId("r-1"),
        client_request_id="theirs",
        endpoint=Endpoint.CHAT,
        caller=Caller(KeyId("abcdefgh"), None, "somebody"),
        client_ip="192.0.2.7",
        requested_model=requested_model,
        provider="openai",
        model="m",
        stream=True,
        outcome=outcome,
        attempts=(
            Attempt(1, "dead", "m", skipped="circuit_open"),
            Attempt(2, "groq", "m", error_code="connect_failed"),
            Attempt(3, "openai", "m", http_status=200),
        ),
        usage=None,
        usage_source=None,
        finish_reason=None,
        first_token_ms=None,
        duration_ms=12.34,
        bytes_in=1,
        bytes_out=1,
        dropped=(),
        upstream_request_id=None,
        context_truncated=False,
        config_epoch="",
    )


def _lines(level: str, outcome: Outcome, requested_model: str = "auto") -> list[dict[str, object]]:
    written = io.StringIO()
    with open_logs(level, stream=written):
        log_settled(_settlement(outcome, requested_model))
    return [json.loads(line) for line in written.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        (Outcome(Status.SUCCESS, 200), "debug"),
        (Outcome(Status.CANCELLED), "debug"),
        (Outcome(Status.REJECTED, 401, "invalid_api_key"), "debug"),
        (Outcome(Status.FAILED, 404, "upstream_error"), "info"),
        (Outcome(Status.RATE_LIMITED, 429, "bytes_in_flight"), "info"),
        (Outcome(Status.SHUTDOWN, 200, "shutting_down"), "info"),
        (Outcome(Status.FAILED, 502, "upstream_auth"), "warning"),
        (Outcome(Status.TIMEOUT, 504, "total_timeout"), "warning"),
        (Outcome(Status.TRUNCATED, 200, "upstream_truncated"), "warning"),
    ],
)
def test_level(outcome: Outcome, level: str) -> None:
    """What an operator should look into is a warning; a caller's own doing does not fill the log."""
    assert [line["level"] for line in _lines("debug", outcome)] == [level]
    assert len(_lines("info", outcome)) == (level != "debug")


def test_line() -> None:
    """The line says under the request's id how it ended and what each provider said; no message of anybody's."""
    (line,) = _lines("info", Outcome(Status.FAILED, 502, "upstream_auth", "the prompt was: a secret plan"))
    assert line["logger"] == "securellm.requests"
    assert line["request_id"] == "r-1"
    assert line["client_request_id"] == "theirs"
    assert line["error_code"] == "upstream_auth"
    assert line["key_id"] == "abcdefgh"
    assert line["attempts"] == ["circuit_open", "connect_failed", "answered"]
    assert "upstream_request_id" not in line
    assert "secret plan" not in json.dumps(line)


def test_a_name_as_long_as_a_body_does_not_fill_the_log() -> None:
    """What a caller may choose is cut: a model's name that was refused is logged with its beginning only."""
    (line,) = _lines("debug", Outcome(Status.REJECTED, 400, "invalid_request"), "x" * 1_000_000)
    assert line["requested_model"] == "x" * 512
