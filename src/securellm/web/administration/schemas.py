"""JSON Schemas of what administration takes and answers, for its document. Pure."""

from typing import Any

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_INTEGER: Schema = {"type": "integer"}
_MAYBE_STRING: Schema = {"type": ["string", "null"]}
_MAYBE_INTEGER: Schema = {"type": ["integer", "null"]}
_STRINGS: Schema = {"type": ["array", "null"], "items": _STRING}


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


def _whole(**properties: Schema) -> Schema:
    return _object(tuple(properties), **properties)


def _list(name: str, item: Schema) -> Schema:
    return _whole(**{name: {"type": "array", "items": item}})


_GRANTS = _object(models=_STRINGS, providers=_STRINGS, endpoints=_STRINGS, networks=_STRINGS)
_RATES: Schema = {
    "anyOf": [
        _object(rpm=_MAYBE_INTEGER, burst=_MAYBE_INTEGER, tpm=_MAYBE_INTEGER, concurrent=_MAYBE_INTEGER),
        {"type": "null"},
    ]
}
_OF_KEY: dict[str, Schema] = {
    "name": _STRING,
    "role": {"enum": ["user", "auditor", "operator", "admin"]},
    "expires_at_s": _MAYBE_INTEGER,
    "user_id": _MAYBE_STRING,
    "team_id": _MAYBE_STRING,
    "grants": _GRANTS,
    "rates": _RATES,
}
_SHOWN_KEY: dict[str, Schema] = {
    "id": _STRING,
    "state": {"enum": ["active", "expired", "revoked"]},
    **_OF_KEY,
    "created_at_s": _INTEGER,
    "revoked_at_s": _MAYBE_INTEGER,
    "previous_until_s": _MAYBE_INTEGER,
}
_STATE: Schema = {"enum": ["active", "disabled"]}
_OWNER: dict[str, Schema] = {
    "id": _STRING, "name": _STRING, "state": _STATE, "created_at_s": _INTEGER, "disabled_at_s": _MAYBE_INTEGER,
    "rates": _RATES,
}  # fmt: skip
_OF_BUDGET: dict[str, Schema] = {
    "kind": {"enum": ["key", "user", "team"]},
    "subject": _STRING,
    "window": {"enum": ["day", "month", "rolling"]},
    "rolling_s": _INTEGER,
    "limit_nusd": _MAYBE_INTEGER,
    "limit_tokens": _MAYBE_INTEGER,
}

NEW_KEY = _object((), **_OF_KEY)
KEY_CHANGES = NEW_KEY
DOCUMENT: Schema = {"type": "object"}
ROTATION = _object(overlap_s=_INTEGER)
KEY = _whole(**_SHOWN_KEY)
KEYS = _list("keys", KEY)
MADE_KEY = _whole(key={"type": "string", "description": "the key itself; shown in this answer only"}, **_SHOWN_KEY)

NEW_USER = _object(("id",), id=_STRING, name=_STRING, team_id=_MAYBE_STRING, rates=_RATES)
USER_CHANGES = _object(name=_STRING, team_id=_MAYBE_STRING, disabled={"type": "boolean"}, rates=_RATES)
USER = _whole(**_OWNER, team_id=_MAYBE_STRING)
USERS = _list("users", USER)
NEW_TEAM = _object(("id",), id=_STRING, name=_STRING, rates=_RATES)
TEAM_CHANGES = _object(name=_STRING, disabled={"type": "boolean"}, rates=_RATES)
TEAM = _whole(**_OWNER)
TEAMS = _list("teams", TEAM)
DELETED = _whole(id=_STRING, deleted={"const": True})

NEW_BUDGET = _object(("kind", "subject"), **_OF_BUDGET)
BUDGET = _whole(
    id=_STRING,
    **_OF_BUDGET,
    window_start_s=_INTEGER,
    window_end_s=_INTEGER,
    spent_nusd=_INTEGER,
    spent_tokens=_INTEGER,
    reserved_nusd=_INTEGER,
    reserved_tokens=_INTEGER,
    left_nusd=_MAYBE_INTEGER,
    left_tokens=_MAYBE_INTEGER,
)
BUDGETS = _list("budgets", BUDGET)
REMOVED = _whole(removed=_INTEGER)

REQUESTS = _whole(
    requests={"type": "array", "items": {"type": "object", "required": ["request_id", "age_s"]}},
    missing={"type": "array", "items": _STRING},
)
WORKERS = _list(
    "workers",
    _whole(
        slot=_INTEGER,
        error=_MAYBE_STRING,
        pid=_MAYBE_INTEGER,
        uptime_s=_MAYBE_INTEGER,
        config_epoch=_MAYBE_STRING,
        open_requests=_MAYBE_INTEGER,
    ),
)
_REFUSAL: Schema = {
    "anyOf": [
        _whole(code=_STRING, message=_STRING, param=_MAYBE_STRING, retry_after_s={"type": ["number", "null"]}),
        {"type": "null"},
    ]
}
LIMITS = _whole(
    key=_STRING,
    model=_MAYBE_STRING,
    limits={
        "type": "array",
        "items": _whole(
            scope=_STRING, subject=_STRING, measure=_STRING, limit=_INTEGER, burst=_INTEGER, period_s={"type": "number"}
        ),
    },
    refusal=_REFUSAL,
)
