"""How an error looks on the wire, in each caller's dialect, and what a provider's error says. Pure.

OpenAI doors, Responses included: `{"error":{"message","type","param","code"}}`. Anthropic doors:
`{"type":"error","error":{"type","message","code"},"request_id"}`, where `code` is ours and extra. An error that the
provider answered also has `upstream_status`, and the provider's own code where it gave one.

Providers' errors come in many shapes: an `error` object or string, the same in an array, `message` or `detail` at the
top, pages of HTML. `parse_error` understands what it can and never repeats a body that is not one of these.
"""

import math
from typing import Any

import msgspec

from securellm.chat import Dialect, Headers
from securellm.errors import ProviderAnswered, RateLimited, SecureLLMError

_MAX_MESSAGE_CHARACTERS = 4000  # of a provider's message that is repeated

# Our words for a status that a provider answered; 4xx that are not here are the request's fault.
_TYPE_OF_STATUS = {
    402: "provider_error",
    404: "not_found",
    413: "payload_too_large",
    429: "rate_limit_exceeded",
    504: "timeout",
}
# Anthropic's names (docs.anthropic.com, errors, 2026-11); other 4xx are invalid_request_error, other 5xx api_error.
_ANTHROPIC_OF_STATUS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
# The statuses that in-band errors would have had as answers, by type or code.
_STATUS_OF_NAME = {
    "api_error": 500,
    "authentication_error": 401,
    "billing_error": 402,
    "context_length_exceeded": 400,
    "insufficient_quota": 429,
    "internal_error": 500,
    "internal_server_error": 500,
    "invalid_api_key": 401,
    "invalid_prompt": 400,
    "invalid_request_error": 400,
    "model_not_found": 404,
    "not_found_error": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "rate_limited": 429,
    "request_too_large": 413,
    "server_error": 500,
    "server_is_overloaded": 503,
    "service_unavailable": 503,
    "slow_down": 503,
    "timeout_error": 504,
    "tokens": 429,  # OpenAI's type for a limit on tokens
    "tool_use_failed": 400,
}
_UNKNOWN_IN_BAND_STATUS = 502


def encode_error(dialect: Dialect, error: SecureLLMError, request_id: str) -> bytes:
    """The JSON body of an error answer."""
    if dialect is Dialect.ANTHROPIC:
        return msgspec.json.encode(_anthropic_error(error, request_id))
    return msgspec.json.encode({"error": _openai_error(error)})


def encode_error_event(
    dialect: Dialect,
    error: SecureLLMError,
    request_id: str,
    *,
    sequence_number: int = 0,
    response_id: str | None = None,
    created_s: int = 0,
    model: str = "",
) -> bytes:
    """The event that ends a stream with an error; the keywords are for Responses, as its stream has shown them."""
    if dialect is Dialect.ANTHROPIC:
        return b"event: error\ndata: " + encode_error(dialect, error, request_id) + b"\n\n"
    if dialect is not Dialect.RESPONSES:
        return b"data: " + encode_error(dialect, error, request_id) + b"\n\n"
    failed = {
        "type": "response.failed",
        "sequence_number": sequence_number,
        "response": {
            "id": response_id or f"resp_{request_id}",
            "object": "response",
            "created_at": created_s,
            "status": "failed",
            "error": {"code": _code(error), "message": error.message},
            "incomplete_details": None,
            "model": model,
            "output": [],
            "usage": None,
        },
    }
    return b"event: response.failed\ndata: " + msgspec.json.encode(failed) + b"\n\n"


def error_headers(error: SecureLLMError) -> Headers:
    """The headers that an error adds to its answer; Retry-After is rounded up to whole seconds."""
    headers: Headers = [(b"x-securellm-error-source", error.source.encode("ascii"))]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(math.ceil(error.retry_after_s), 0)))
    if isinstance(error, RateLimited):
        headers.extend(error.headers)
    return headers


def parse_error(dialect: Dialect, status: int, body: bytes) -> ProviderAnswered:
    """What a provider's error body says, whatever its shape; `dialect` names the provider's in the message."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = None
    return _answered(said, status, f"the {dialect.value} provider answered {status} and no reason that can be read")


def parse_in_band_error(said: object) -> ProviderAnswered:
    """What an error event inside a 200 stream says; the status is the one such an error is answered with."""
    return _answered(said, None, "the provider ended its stream with an error and gave no reason that can be read")


def _answered(said: Any, status: int | None, otherwise: str) -> ProviderAnswered:
    if isinstance(said, list) and said:  # Gemini wraps its error in an array
        said = said[0]
    outer = said if isinstance(said, dict) else {}
    inner = outer.get("error")
    if isinstance(inner, str):
        inner = {"message": inner, "code": outer.get("code")}
    if not isinstance(inner, dict):
        inner = outer
    message = _message(inner)
    kind, code = _word(inner.get("type") or inner.get("status")), _word(inner.get("code"))
    return ProviderAnswered(
        message[:_MAX_MESSAGE_CHARACTERS] or otherwise,
        status=status if status is not None else _in_band_status(kind, code),
        kind=kind,
        native_code=code,
        param=_word(inner.get("param")),
    )


def _message(inner: dict[str, Any]) -> str:
    """The reason in an error object; validators put a list of objects with `msg` there."""
    for name in ("message", "detail"):
        value = inner.get(name)
        if isinstance(value, dict):
            value = value.get("detail", value.get("message"))
        if isinstance(value, list):
            value = "; ".join(str(item["msg"]) for item in value if isinstance(item, dict) and "msg" in item)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ""


def _word(value: object) -> str | None:
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _in_band_status(kind: str | None, code: str | None) -> int:
    if code is not None and len(code) == 3 and code.isascii() and code.isdigit() and code[0] in "45":
        return int(code)
    for name in (code, kind):
        if name is not None and name.lower() in _STATUS_OF_NAME:
            return _STATUS_OF_NAME[name.lower()]
    return _UNKNOWN_IN_BAND_STATUS


def _openai_error(error: SecureLLMError) -> dict[str, object]:
    encoded: dict[str, object] = {
        "message": error.message,
        "type": _openai_type(error),
        "param": error.param,
        "code": _code(error),
    }
    if isinstance(error, ProviderAnswered):
        encoded["upstream_status"] = error.status
    return encoded


def _anthropic_error(error: SecureLLMError, request_id: str) -> dict[str, object]:
    otherwise = "invalid_request_error" if error.status < 500 else "api_error"
    inner: dict[str, object] = {
        "type": _ANTHROPIC_OF_STATUS.get(error.status, otherwise),
        "message": error.message,
        "code": _code(error),
    }
    if isinstance(error, ProviderAnswered):
        inner["upstream_status"] = error.status
    return {"type": "error", "error": inner, "request_id": request_id}


def _openai_type(error: SecureLLMError) -> str:
    if not isinstance(error, ProviderAnswered):
        return error.type
    return _TYPE_OF_STATUS.get(error.status, "bad_request" if error.status < 500 else error.type)


def _code(error: SecureLLMError) -> str:
    if isinstance(error, ProviderAnswered):
        return error.native_code or error.kind or error.code
    return error.code
