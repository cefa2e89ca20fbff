"""Spoil what a provider or a caller says, in every way short of meaning: for tests that nothing of it may break us."""

import json
import random
from collections.abc import Sequence
from typing import Any

_DEEP: Any = "x"
for _ in range(300):
    _DEEP = [_DEEP]

_WRONG: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 10**30, -(2**63), 1e308, "", "x", "\ud83d\ude00", "\ud800", "\x00", "[DONE]", [], {},
    [None], [[]], [{}], {"": None}, {"a": {"b": []}}, [1, "a", None], "9" * 400, _DEEP,
)  # fmt: skip


def spoil_json(chance: random.Random, value: Any) -> Any:
    """The value with one place changed: another type, removed, doubled or with a key nobody knows."""
    spoiled = _copied(value)
    places = list(_places(spoiled))
    if not places:
        return chance.choice(_WRONG)
    holder, key = chance.choice(places)
    match chance.randrange(5):
        case 0 if isinstance(holder, dict):
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.insert(key, _copied(holder[key]))
        case 2 if isinstance(holder, dict):
            holder["unknown_to_all"] = chance.choice(_WRONG)
        case _:
            holder[key] = _copied(chance.choice(_WRONG))
    return spoiled


def spoil_stream(chance: random.Random, events: Sequence[bytes]) -> bytes:
    """The frames with one or two of them changed, dropped, doubled, moved, cut or followed by noise."""
    frames = list(events)
    for _ in range(chance.choice([1, 1, 2])):
        at = chance.randrange(len(frames))
        match chance.randrange(8):
            case 0:
                del frames[at]
            case 1:
                frames.insert(at, frames[at])
            case 2:
                other = chance.randrange(len(frames))
                frames[at], frames[other] = frames[other], frames[at]
            case 3:
                frames[at] = frames[at][: chance.randrange(len(frames[at]) or 1)]
            case 4:
                frames.insert(at, chance.choice(_NOISE))
            case _:
                frames[at] = _spoil_frame(chance, frames[at])
        if not frames:
            return b""
    return b"".join(frames)


_NOISE = (
    b"\xff\xfe\n\n", b"data: \xc3\x28\n\n", b"data:\n\n", b"data: {\n\n", b"data: null\n\n", b"data: []\n\n", b"{}\n",
    b"null\n", b"event: error\ndata: {}\n\n", b"event: ping\n\n", b"\x00\n\n", b"id: 1\nretry: 5\n\n", b"data: 7\n\n",
    b'data: {"error": null}\n\n', b'data: {"error": "words"}\n\n', b'{"error": 5}\n', b"data: [DONE]\n\n", b"\n" * 50,
    b'data: {"type": 5}\n\n', b'event: content_block_delta\ndata: {"type":"content_block_delta","index":99}\n\n',
)  # fmt: skip


def _copied(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _spoil_frame(chance: random.Random, frame: bytes) -> bytes:
    """The frame's JSON spoiled, its framing kept."""
    start, end = frame.find(b"{"), frame.rfind(b"}")
    try:
        value = spoil_json(chance, json.loads(frame[start : end + 1]))
    except ValueError:
        return frame[:-1]  # spoiled already, or no JSON: lose the line's end
    return frame[:start] + json.dumps(value).encode() + frame[end + 1 :]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in the value."""
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        holder = todo.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            found.append((holder, key))
            todo.append(holder[key])
    return found
