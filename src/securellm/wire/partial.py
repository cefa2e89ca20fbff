"""The arguments of a tool call that the token limit cut short: as much of the object as is certain. Pure.

The official Anthropic SDK shows the same to whoever accumulates the stream (jiter, partial mode): a string, a literal
or a key that is not finished is left out, what stands before it is kept.
"""

import msgspec

from securellm.wire.words import JSONObject

_CLOSERS = {"{": "}", "[": "]"}


def partial_object(text: str) -> JSONObject | None:
    """The object that `text` is the beginning of; None when it cannot be one."""
    open_brackets, in_string, safe_end = _scan(text)
    candidates = [] if in_string else [text + open_brackets]
    if safe_end:
        candidates.append(text[:safe_end] + _scan(text[:safe_end])[0])
    for candidate in candidates:
        try:
            value = msgspec.json.decode(candidate.encode())
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            continue
        return value if isinstance(value, dict) else None
    return None if text.strip() else {}


def _scan(text: str) -> tuple[str, bool, int]:
    """What closes the brackets still open, whether the end is inside a string, and where the last whole value ends."""
    closers: list[str] = []
    in_string = escaped = False
    safe_end = 0
    for position, character in enumerate(text):
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in _CLOSERS:
            closers.append(_CLOSERS[character])
            safe_end = position + 1
        elif character in "}]":
            if closers:
                closers.pop()
            safe_end = position + 1
        elif character == ",":
            safe_end = position
    return "".join(reversed(closers)), in_string, safe_end
