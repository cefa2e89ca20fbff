"""Request targets in canonical form: one spelling per endpoint, so that nobody reaches a route by another. Pure.

Hypercorn and werkzeug decode and merge freely (`//x`, `/%78`, `http://elsewhere/x` all match `/x`), while whatever
stands in front of us and judges paths may not. So every other spelling is refused before routing. The one exception
is the model's id after `/v1/models/`, in which the SDKs escape slashes: it is decoded once.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from securellm.errors import InvalidTarget

MODELS_PREFIX = "/v1/models/"

_PLAIN = re.compile(r"(?:/[A-Za-z0-9\-._~!$&'()*+,;=:@]+)+|/")  # RFC 3986 pchar without escapes, no empty segment
_TRAILING_SLASH = re.compile(r"(?:/[A-Za-z0-9\-._~!$&'()*+,;=:@]+)+/")
_ESCAPE = re.compile(r"%(?:[0-9A-Fa-f]{2})?")
_QUERY = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/?%\[\]|{}^`\"<>\\]*")  # lenient: a query never decides a route
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Target(NamedTuple):
    """A canonical target: `path` as it is routed (the model's id decoded), `query` raw without the question mark."""

    path: str
    query: str


def parse_target(raw: bytes) -> Target:
    """The canonical target, decoded once. Raises InvalidTarget for any other spelling of it."""
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError:
        raise InvalidTarget("the request target holds bytes outside ASCII; escape them") from None
    if not text.startswith("/"):
        raise InvalidTarget("the request target must be a path that begins with a slash, not a URL, a host or '*'")
    path, _, query = text.partition("?")
    if not _QUERY.fullmatch(query):
        raise InvalidTarget("the query holds a fragment mark or a control character")
    if path.startswith(MODELS_PREFIX) and len(path) > len(MODELS_PREFIX):
        return Target(MODELS_PREFIX + _decode_model_id(path[len(MODELS_PREFIX) :]), query)
    _require_plain(path)
    return Target(path, query)


def _require_plain(path: str) -> None:
    if "%" in path:
        raise InvalidTarget("no path here needs a percent escape, got one; send the path in its plain form")
    if not _PLAIN.fullmatch(path) and not _TRAILING_SLASH.fullmatch(path):
        raise InvalidTarget("the path has an empty segment or a character that paths do not have")
    if _has_dot_segment(path):
        raise InvalidTarget("the path has a '.' or '..' segment; send it resolved")


def _decode_model_id(raw: str) -> str:
    for escape in _ESCAPE.findall(raw):
        if len(escape) != 3:
            raise InvalidTarget("a percent sign in the model's id is not followed by two hexadecimal digits")
        if int(escape[1:], 16) in _UNRESERVED:
            raise InvalidTarget(f"the escape {escape} in the model's id stands for a character that needs none")
    _require_plain("/" + _ESCAPE.sub("x", raw))
    try:
        model = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidTarget("the model's id is not UTF-8 after its escapes are decoded") from None
    if not model.isprintable() or _has_dot_segment("/" + model):
        raise InvalidTarget("the model's id holds a control character or a '..' segment")
    return model


def _has_dot_segment(path: str) -> bool:
    return any(segment in {".", ".."} for segment in path.split("/"))
