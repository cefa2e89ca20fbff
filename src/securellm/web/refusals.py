"""Refusals that the edge itself makes: an error in the dialect of the path that was asked for. Pure.

The gateway makes its own; these are for requests that never reach it: unknown paths, wrong methods, malformed HTTP.
"""

from typing import NamedTuple

from securellm.chat import Dialect, Headers, RequestId
from securellm.errors import SecureLLMError
from securellm.wire.envelope import encode_error, error_headers


class Refusal(NamedTuple):
    """A complete error answer."""

    status: int
    headers: Headers
    body: bytes


def refusal(path: str, request_headers: Headers, error: SecureLLMError, request_id: RequestId) -> Refusal:
    """The answer that tells a caller of `path` about `error`."""
    dialect = dialect_of(path, request_headers)
    body = encode_error(dialect, error, request_id)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode("ascii")),
        *id_headers(dialect, request_id),
        *error_headers(error),
    ]
    return Refusal(error.status, headers, body)


def dialect_of(path: str, request_headers: Headers) -> Dialect:
    """The dialect in which a path answers; the models are listed in both, by the `anthropic-version` header."""
    if path.startswith("/v1/messages"):
        return Dialect.ANTHROPIC
    if path.startswith("/v1/models") and any(name.lower() == b"anthropic-version" for name, _ in request_headers):
        return Dialect.ANTHROPIC
    return Dialect.OPENAI


def id_headers(dialect: Dialect, request_id: RequestId) -> Headers:
    """The request's id, under Anthropic's name, too, on Anthropic's doors."""
    value = request_id.encode("ascii")
    if dialect is Dialect.ANTHROPIC:
        return [(b"x-request-id", value), (b"request-id", value)]
    return [(b"x-request-id", value)]
