"""Answers of the edge as Quart responses, with exactly the headers that were asked for."""

from typing import Any

import msgspec
from quart.wrappers import Response

from securellm.chat import Headers

JSON = (b"content-type", b"application/json")
NOT_STORED = (b"cache-control", b"no-store")  # answers that depend on who asks, and when


def answer_with(body: Any, status: int, headers: Headers) -> Response:
    """A response with these headers and no others; `body` is bytes or a Quart ResponseBody."""
    response = Response(body, status=status)
    response.headers.clear()
    for name, value in headers:
        response.headers.add(name.decode("ascii"), value.decode("latin-1"))
    return response


def whole(body: bytes, status: int, headers: Headers) -> Response:
    """A complete body with its length."""
    return answer_with(body, status, [*headers, (b"content-length", str(len(body)).encode("ascii"))])


def json_answer(content: Any, status: int = 200) -> Response:
    """Anything that msgspec can encode, as JSON."""
    return whole(msgspec.json.encode(content), status, [JSON, NOT_STORED])


def empty(status: int, headers: Headers | None = None) -> Response:
    """No body at all; a 204 has no length either (RFC 9110, 8.6)."""
    make = answer_with if status == 204 else whole
    return make(b"", status, [*(headers or []), NOT_STORED])
