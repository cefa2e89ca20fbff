"""Where the members of a JSON object are in its bytes, whether one of them is there twice, and what they hold. Pure.

The object was decoded before, into (key, raw value) pairs of which a decoder keeps the last value of a repeated key at
the first one's place. So the pairs are walked along the bytes: where the key or the exact bytes of the value differ
from what is there, a key was repeated. JSON values delimit themselves, so a walk that reaches the closing brace proves
that there is none, and gives the place of every value.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

Span = tuple[int, int]  # first byte, byte after the last

TEXT, IMAGE = 0, 1  # the kinds of parts that a survey is told

_SPACE = re.compile(rb"[ \t\n\r]*")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')


class Survey(NamedTuple):
    """What one look at a request's body found. The body is valid, and no member is there twice."""

    spans: dict[str, Span]
    first_member: int  # the place after the brace
    images: int
    image_bytes: int  # of those that are in the body
    windowed: bool  # there is a part of a kind that is not known
    tool_types: list[str] | None  # of each of `tools`, None where that is no array


def survey(body: bytes, turns: frozenset[str], kinds: dict[str, int]) -> Survey | None:
    """Check and count in one pass; None: it is in doubt, and whoever asks decodes the body.

    Counted are the parts in the members `turns` that are arrays, as `wire/weight.py` does it; `kinds` are the types of
    parts that are texts and images. Here all is in doubt, as nothing would be faster than decoding.
    """
    return None


def locate(body: bytes, members: Mapping[str, msgspec.Raw], start: int = 0) -> tuple[dict[str, Span], int, str | None]:
    """The span of every value of the object at `start`, the place after its brace, and a key that is there twice.

    `body` holds valid JSON in UTF-8, `members` is what was decoded from the object. With a repeated key, which is None
    when there is none, the spans are those before it.
    """
    spans: dict[str, Span] = {}
    at = first_member = _after_space(body, start) + 1
    expected = iter(members.items())
    for number in range(len(members) + 1):
        at = _after_space(body, at)
        if body[at] == 0x7D:  # }
            break
        if number:
            at = _after_space(body, at + 1)  # the comma
        found = _STRING.match(body, at)
        assert found is not None, "a key of valid json"
        key = msgspec.json.decode(found.group(), type=str)
        name, raw = next(expected, (None, b""))
        at = _after_space(body, _after_space(body, found.end()) + 1)  # the colon
        value = memoryview(raw)
        if key != name or memoryview(body)[at : at + len(value)] != value:
            return spans, first_member, key
        spans[key] = (at, at + len(value))
        at += len(value)
    return spans, first_member, None


def _after_space(body: bytes, at: int) -> int:
    found = _SPACE.match(body, at)
    return found.end() if found is not None else at
