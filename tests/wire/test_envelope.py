"""Errors on the wire: one shape per dialect for every leaf of the tree, and providers' errors in all their shapes."""

import json
from typing import Any

import pytest

from securellm import errors
from securellm.chat import Dialect
from securellm.errors import ProviderAnswered, RateLimited, SecureLLMError, UpstreamTruncated
from securellm.wire.envelope import encode_error, encode_error_event, error_headers, parse_error, parse_in_band_error

ANTHROPIC_NAMES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    508: "api_error",
    529: "overloaded_error",
}


def every_class() -> list[type[SecureLLMError]]:
    """The whole tree."""
    found, todo = [], [SecureLLMError]
    while todo:
        cls = todo.pop()
        found.append(cls)
        todo += cls.__subclasses__()
    return sorted((cls for cls in found if cls.__module__ == errors.__name__), key=lambda cls: cls.__name__)


def made(cls: type[SecureLLMError]) -> SecureLLMError:
    """One error of the class."""
    if issubclass(cls, ProviderAnswered):
        return cls("went wrong", status=418, kind="teapot", native_code="short", param="pot")
    return cls("went wrong", param="pot")


@pytest.mark.parametrize("cls", every_class())
@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.RESPONSES])
def test_openai_shape_of_every_error(cls: type[SecureLLMError], dialect: Dialect) -> None:
    """message, type, param and code, and `upstream_status` for what the provider answered."""
    error = made(cls)
    expected: dict[str, Any] = {"message": "went wrong", "type": error.type, "param": "pot", "code": error.code}
    if isinstance(error, ProviderAnswered):
        expected |= {"type": "bad_request", "code": "short", "upstream_status": 418}
    assert json.loads(encode_error(dialect, error, "rid")) == {"error": expected}


@pytest.mark.parametrize("cls", every_class())
def test_anthropic_shape_of_every_error(cls: type[SecureLLMError]) -> None:
    """Anthropic's own name for the type, our code beside it, the request's id."""
    error = made(cls)
    inner: dict[str, Any] = {"message": "went wrong", "code": error.code}
    inner["type"] = ANTHROPIC_NAMES.get(error.status, "invalid_request_error")
    if isinstance(error, ProviderAnswered):
        inner |= {"code": "short", "upstream_status": 418}
    assert json.loads(encode_error(Dialect.ANTHROPIC, error, "rid")) == {
        "type": "error",
        "error": inner,
        "request_id": "rid",
    }


@pytest.mark.parametrize("cls", every_class())
def test_event_shape_of_every_error(cls: type[SecureLLMError]) -> None:
    """The event that ends a stream: complete, parsable, never a terminal event of success."""
    error = made(cls)
    openai = encode_error_event(Dialect.OPENAI, error, "rid")
    assert openai == b"data: " + encode_error(Dialect.OPENAI, error, "rid") + b"\n\n"
    anthropic = encode_error_event(Dialect.ANTHROPIC, error, "rid")
    assert anthropic == b"event: error\ndata: " + encode_error(Dialect.ANTHROPIC, error, "rid") + b"\n\n"
    responses = encode_error_event(
        Dialect.RESPONSES, error, "rid", sequence_number=7, response_id="resp_1", created_s=5, model="m"
    )
    head, data, end, nothing = responses.split(b"\n")
    assert (head, end, nothing) == (b"event: response.failed", b"", b"")
    said = json.loads(data.removeprefix(b"data: "))
    assert (said["type"], said["sequence_number"]) == ("response.failed", 7)
    assert said["response"]["error"] == {
        "code": "short" if isinstance(error, ProviderAnswered) else error.code,
        "message": "went wrong",
    }
    shown = (said["response"]["id"], said["response"]["created_at"], said["response"]["model"])
    assert shown == ("resp_1", 5, "m")
    assert said["response"]["status"] == "failed"


@pytest.mark.parametrize(("status", "name"), ANTHROPIC_NAMES.items())
def test_a_providers_status_has_anthropics_name(status: int, name: str) -> None:
    """What another provider answered is translated by its status."""
    body = encode_error(Dialect.ANTHROPIC, ProviderAnswered("x", status=status), "rid")
    assert json.loads(body)["error"]["type"] == name


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "bad_request"),
        (402, "provider_error"),
        (404, "not_found"),
        (413, "payload_too_large"),
        (422, "bad_request"),
        (429, "rate_limit_exceeded"),
        (500, "provider_error"),
        (503, "provider_error"),
        (504, "timeout"),
        (529, "provider_error"),
    ],
)
def test_a_providers_status_has_our_name(status: int, name: str) -> None:
    """On OpenAI doors the type is one of the contract's, and without a code of the provider's ours is told."""
    said = json.loads(encode_error(Dialect.OPENAI, ProviderAnswered("x", status=status), "rid"))["error"]
    assert (said["type"], said["code"], said["upstream_status"]) == (name, "upstream_error", status)


def test_headers_of_an_error() -> None:
    """Retry-After is rounded up; the source tells our faults from the provider's."""
    assert error_headers(RateLimited("x", retry_after_s=1.01)) == [
        (b"x-securellm-error-source", b"gateway"),
        (b"retry-after", b"2"),
    ]
    assert error_headers(UpstreamTruncated("x")) == [(b"x-securellm-error-source", b"upstream")]
    limited = RateLimited("x", retry_after_s=0.2)
    limited.headers = ((b"x-ratelimit-remaining-requests", b"0"),)
    assert error_headers(limited)[1:] == [(b"retry-after", b"1"), (b"x-ratelimit-remaining-requests", b"0")]


PROVIDERS_ERRORS: list[tuple[bytes, tuple[str, str | None, str | None, str | None]]] = [
    (
        b'{"error":{"message":"no such model","type":"invalid_request_error",'
        b'"param":"model","code":"model_not_found"}}',
        ("no such model", "invalid_request_error", "model_not_found", "model"),
    ),
    (
        b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"r"}',
        ("Overloaded", "overloaded_error", None, None),
    ),
    (b'{"error":"model \'x\' not found"}', ("model 'x' not found", None, None, None)),
    (b'{"code":"invalid-argument","error":"Model not found"}', ("Model not found", None, "invalid-argument", None)),
    (b'{"error":{"message":"Missing header","code":401}}', ("Missing header", None, "401", None)),
    (
        b'[{"error":{"code":429,"message":"exhausted","status":"RESOURCE_EXHAUSTED"}}]',
        ("exhausted", "RESOURCE_EXHAUSTED", "429", None),
    ),
    (
        b'{"object":"error","message":"Rate limit exceeded","type":"rate_limited","param":null,"code":"1300"}',
        ("Rate limit exceeded", "rate_limited", "1300", None),
    ),
    (
        b'{"object":"error","message":{"detail":[{"type":"x","msg":"Extra inputs are not permitted","input":3}]},'
        b'"type":"invalid_request_error","code":null}',
        ("Extra inputs are not permitted", "invalid_request_error", None, None),
    ),
    (b'{"detail":"Invalid API Key"}', ("Invalid API Key", None, None, None)),
    (b'{"message":"Requests rate limit exceeded"}', ("Requests rate limit exceeded", None, None, None)),
]


@pytest.mark.parametrize(("body", "expected"), PROVIDERS_ERRORS)
def test_providers_errors_are_understood(body: bytes, expected: tuple[str, str | None, str | None, str | None]) -> None:
    """Message, type, code and param out of every shape that providers have been seen to send."""
    error = parse_error(Dialect.OPENAI, 422, body)
    assert (error.message, error.kind, error.native_code, error.param) == expected
    assert error.status == 422


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>secret page</html>", b"\xff", b"null", b"[]", b'{"error":null}', b'{"error":{}}', b"[" * 100_000],
)
def test_what_is_not_understood_is_not_repeated(body: bytes) -> None:
    """A body of another kind gives a message of ours, never its text."""
    error = parse_error(Dialect.OLLAMA, 503, body)
    assert (error.status, error.message) == (503, "the ollama provider answered 503 and no reason that can be read")


def test_a_providers_message_is_bounded() -> None:
    """A provider cannot make us repeat a novel."""
    assert len(parse_error(Dialect.OPENAI, 400, json.dumps({"error": "x" * 100_000}).encode()).message) == 4000


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"error": {"type": "overloaded_error", "message": "x"}}, 529),
        ({"error": {"type": "rate_limit_error", "message": "x"}}, 429),
        ({"error": {"type": "invalid_request_error", "code": "rate_limit_exceeded"}}, 429),
        ({"error": {"type": "server_error", "code": None}}, 500),
        ({"error": {"code": 400, "message": "Token limit reached"}}, 400),
        ({"error": {"code": "529"}}, 529),
        ({"error": {"code": "99999", "type": "api_error"}}, 500),
        ({"error": {"code": "unknown-error", "message": "Foobar"}}, 502),
        ({"error": "just text"}, 502),
        (None, 502),
    ],
)
def test_in_band_errors_get_the_status_they_would_have_had(said: object, status: int) -> None:
    """An error inside a 200 stream is classed by its code, then by its type."""
    assert parse_in_band_error(said).status == status
