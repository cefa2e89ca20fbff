"""Reading a caller's JSON with types: each function takes a value and the path to blame. Pure.

Everything here raises BadRequest that names the path, what was got and what was expected, and never the value.
"""

import msgspec

from securellm.errors import BadRequest, UnsupportedField
from securellm.wire.words import JSONObject

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

_KINDS = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    type(None): "null",
}


def read_document(body: bytes) -> JSONObject:
    """The body as an object. Raises BadRequest, also for half of a surrogate pair."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise BadRequest(f"the body is not valid json: {_reason(exc)}") from exc
    return mapping(document, "body")


def mapping(value: object, param: str) -> JSONObject:
    """An object."""
    if not isinstance(value, dict):
        raise wrong(value, param, "an object")
    return value


def array(value: object, param: str) -> list[object]:
    """An array; null reads as empty."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong(value, param, "an array")
    return value


def string(value: object, param: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise wrong(value, param, "a string")
    return value


def maybe_string(value: object, param: str) -> str | None:
    """A string or null."""
    return None if value is None else string(value, param)


def maybe_boolean(value: object, param: str) -> bool | None:
    """A boolean or null."""
    if value is None or isinstance(value, bool):
        return value
    raise wrong(value, param, "a boolean")


def maybe_integer(value: object, param: str) -> int | None:
    """An integer or null; 3.0 is an integer, too."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong(value, param, "an integer")
    return value


def maybe_number(value: object, param: str) -> float | None:
    """A number or null; an integer stays one."""
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise wrong(value, param, "a number")
    return value


def maybe_mapping(value: object, param: str) -> JSONObject | None:
    """An object or null."""
    return None if value is None else mapping(value, param)


def strings(value: object, param: str) -> tuple[str, ...]:
    """A string or an array of strings, as a tuple; null reads as empty."""
    if isinstance(value, str):
        return (value,)
    return tuple(string(item, f"{param}[{number}]") for number, item in enumerate(array(value, param)))


def read_effort(value: object, param: str) -> str | None:
    """How hard to think, in the words that both families share, or null."""
    effort = maybe_string(value, param)
    if effort is not None and effort not in EFFORTS:
        raise BadRequest(f"{param}: expected one of {', '.join(EFFORTS)}", param=param)
    return effort


def arguments_object(text: str, param: str) -> JSONObject:
    """The arguments of a tool call, which must be the text of a JSON object; nothing at all is no arguments."""
    if not text.strip():
        return {}
    try:
        document = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise BadRequest(f"{param} is not valid json: {_reason(exc)}", param=param) from exc
    return mapping(document, param)


def wrong(value: object, param: str, expected: str) -> BadRequest:
    """The error for a value of the wrong kind."""
    return BadRequest(f"{param}: got {_KINDS.get(type(value), 'something else')}, expected {expected}", param=param)


def refuse(param: str, why: str) -> UnsupportedField:
    """The error for something that the chosen provider's dialect cannot express."""
    return UnsupportedField(f"{param}: {why}", param=param)


def named_kind(kind: str) -> str:
    """The `type` of a part for a message, where it looks like one; else nothing that the caller wrote."""
    return kind if len(kind) <= 40 and kind.replace("_", "").isalnum() and kind.isascii() else "this type"


def _reason(exc: Exception) -> str:
    return "nested too deeply" if isinstance(exc, RecursionError) else str(exc).lower()
