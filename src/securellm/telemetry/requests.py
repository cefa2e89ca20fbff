"""The operational log's line of each request: how it ended, for whoever is told the request's id.

One subscriber of the ledger among others; the line is no record. What an operator should look into is a warning,
other failures are information, and what went well, or failed by the caller's own doing, is shown at `debug` only.
Codes and figures are logged, no message: a provider's may repeat the prompt.
"""

import logging

from securellm.chat import Outcome, Settlement, Status

TROUBLE = frozenset({Status.FAILED, Status.TIMEOUT, Status.TRUNCATED})
UNREMARKABLE = frozenset({Status.SUCCESS, Status.CANCELLED, Status.REJECTED})

SHOWN_CHARACTERS = 512  # of one field

DEBUG = logging.DEBUG

_log = logging.getLogger("securellm.requests")


def log_settled(settlement: Settlement) -> None:
    """Log how a request ended. Waits for nothing but the log itself."""
    level = DEBUG if settlement.outcome.status in UNREMARKABLE else _level(settlement.outcome)
    if _log.isEnabledFor(level):
        status = settlement.outcome.status.value
        _log.log(level, "%s: %s", settlement.endpoint.value, status, extra={"fields": _fields(settlement)})


def _level(outcome: Outcome) -> int:
    answered_4xx = outcome.http_status is not None and 400 <= outcome.http_status < 500
    return logging.WARNING if outcome.status in TROUBLE and not answered_4xx else logging.INFO


def _fields(settlement: Settlement) -> dict[str, object]:
    """What is known of the request; what is not is left out."""
    outcome, caller = settlement.outcome, settlement.caller
    fields: dict[str, object] = {
        "request_id": settlement.request_id,
        "client_request_id": settlement.client_request_id,
        "upstream_request_id": settlement.upstream_request_id,
        "status": outcome.status.value,
        "http_status": outcome.http_status,
        "error_code": outcome.error_code,
        "key_id": caller.key_id if caller is not None else None,
        "client_ip": settlement.client_ip,
        "requested_model": settlement.requested_model,
        "provider": settlement.provider,
        "model": settlement.model,
        "attempts": [attempt.skipped or attempt.error_code or "answered" for attempt in settlement.attempts],
        "duration_ms": round(settlement.duration_ms, 1),
    }
    return {name: _cut(value) for name, value in fields.items() if value is not None}


def _cut(value: object) -> object:
    """Callers choose some of the texts, and a model's name that is refused may be as long as a body."""
    return value[:SHOWN_CHARACTERS] if isinstance(value, str) else value
