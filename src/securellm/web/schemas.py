"""JSON Schemas of request and answer bodies, for the OpenAPI document. Pure.

They say what the gateway itself insists on. What only the provider judges is left open, because it is passed on as it
is.
"""

from typing import Any

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_ANYTHING: Schema = {}
_MODEL: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": 512,
    "description": "`<provider>/<model>`, a bare name with one owner, an alias, or `auto`",
}
_STREAM: Schema = {"type": "boolean", "description": "answer as server-sent events"}
_MESSAGES: Schema = {"type": "array", "items": {"type": "object"}, "minItems": 1}


def _request(required: list[str], **properties: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["model", *required],
        "properties": {"model": _MODEL, **properties},
        "additionalProperties": True,
    }


CHAT = _request(["messages"], messages=_MESSAGES, stream=_STREAM)
COMPLETIONS = _request(["prompt"], prompt=_ANYTHING, stream=_STREAM)
EMBEDDINGS = _request(["input"], input=_ANYTHING)
RESPONSES = _request([], input=_ANYTHING, stream=_STREAM)
MESSAGES = _request(["messages", "max_tokens"], messages=_MESSAGES, max_tokens={"type": "integer"}, stream=_STREAM)
COUNT_TOKENS = _request(["messages"], messages=_MESSAGES)

OBJECT: Schema = {"type": "object"}

OPENAI_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _STRING,
                "type": _STRING,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}

ANTHROPIC_ERROR: Schema = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": _STRING, "message": _STRING},
        },
        "request_id": _STRING,
    },
}

CANCELLED: Schema = {
    "type": "object",
    "required": ["request_id", "cancelled"],
    "properties": {"request_id": _STRING, "cancelled": {"const": True}},
}

ANY_ERROR: Schema = {"anyOf": [OPENAI_ERROR, ANTHROPIC_ERROR]}  # where a header of the request decides

COUNTED: Schema = {"type": "object", "required": ["input_tokens"], "properties": {"input_tokens": {"type": "integer"}}}

_OPENAI_MODEL: Schema = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {"id": _STRING, "object": {"const": "model"}, "created": {"type": "integer"}, "owned_by": _STRING},
}
_ANTHROPIC_MODEL: Schema = {
    "type": "object",
    "required": ["type", "id", "display_name", "created_at"],
    "properties": {"type": {"const": "model"}, "id": _STRING, "display_name": _STRING, "created_at": _STRING},
}
MODEL: Schema = {"anyOf": [_OPENAI_MODEL, _ANTHROPIC_MODEL]}
MODELS: Schema = {
    "anyOf": [
        {
            "type": "object",
            "required": ["object", "data"],
            "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": _OPENAI_MODEL}},
        },
        {
            "type": "object",
            "required": ["data", "has_more", "first_id", "last_id"],
            "properties": {
                "data": {"type": "array", "items": _ANTHROPIC_MODEL},
                "has_more": {"type": "boolean"},
                "first_id": {"type": ["string", "null"]},
                "last_id": {"type": ["string", "null"]},
            },
        },
    ]
}

_PART: Schema = {
    "type": "object",
    "required": ["status", "latency_ms", "error"],
    "properties": {
        "status": _STRING,
        "latency_ms": {"type": ["number", "null"]},
        "error": {"type": ["string", "null"]},
    },
}
HEALTH: Schema = {
    "type": "object",
    "required": ["status", "version", "uptime_seconds"],
    "properties": {
        "status": {"enum": ["healthy", "degraded", "unhealthy"]},
        "version": _STRING,
        "uptime_seconds": {"type": "integer"},
        "providers": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "status", "circuit_breaker", "latency_ms", "last_error"],
                "properties": {
                    "name": _STRING,
                    "status": _STRING,
                    "circuit_breaker": {"enum": ["closed", "open", "half_open"]},
                    "latency_ms": {"type": ["number", "null"]},
                    "last_error": {"type": ["string", "null"]},
                },
            },
        },
        "database": _PART,
        "redis": _PART,
        "audit": _PART,
        "workers": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["slot", "error", "pid", "uptime_s", "config_epoch", "open_requests"],
                "properties": {
                    "slot": {"type": "integer"},
                    "error": {"type": ["string", "null"]},
                    "pid": {"type": ["integer", "null"]},
                    "uptime_s": {"type": ["integer", "null"]},
                    "config_epoch": {"type": ["string", "null"]},
                    "open_requests": {"type": ["integer", "null"]},
                },
            },
        },
    },
}
SYNCED: Schema = {
    "type": "object",
    "required": ["providers"],
    "properties": {
        "providers": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["provider", "models", "error"],
                "properties": {
                    "provider": _STRING,
                    "models": {"type": ["integer", "null"]},
                    "error": {"type": ["string", "null"]},
                },
            },
        }
    },
}
ROOT: Schema = {
    "type": "object",
    "required": ["name", "version", "status", "documentation"],
    "properties": {"name": _STRING, "version": _STRING, "status": _STRING, "documentation": _STRING},
}
