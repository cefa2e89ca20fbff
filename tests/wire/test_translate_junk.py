"""Nonsense anywhere in a request or an answer is somebody's mistake with a name, never a crash of ours."""

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rig.crossing import (
    Called,
    Said,
    Sealed,
    Spoken,
    Thought,
    anthropic_stream,
    anthropic_whole,
    ollama_stream,
    ollama_whole,
    openai_stream,
    openai_whole,
)
from securellm.chat import Dialect, Endpoint
from securellm.errors import CallerError, UpstreamInvalid, UpstreamTruncated
from securellm.wire.translate import TranslatingRelay, open_translating_relay, translate_request

_GONE = object()
JUNK = (None, True, -1, 1.5, 2**70, "", "x", [], [None], [{}], {}, {"a": 1}, {"type": []})
HYBRIDS = Path(__file__).with_name("hybrids")
BODIES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in HYBRIDS.glob("*.json")}
PAIRS = pytest.mark.parametrize(
    "pair",
    [
        (Endpoint.CHAT, Dialect.ANTHROPIC),
        (Endpoint.CHAT, Dialect.OLLAMA),
        (Endpoint.MESSAGES, Dialect.OLLAMA),
        (Endpoint.MESSAGES, Dialect.OPENAI),
    ],
    ids=lambda pair: f"{pair[0].name}-{pair[1].name}",
)
SPOKEN = Spoken(
    (Thought("hm", "s"), Sealed("z"), Said("hi"), Called("a", "f", {"x": 1}), Called("b", "g", {})), "tool_calls"
)
ANSWERS: dict[tuple[Endpoint, Dialect], tuple[bytes, bytes]] = {
    (Endpoint.CHAT, Dialect.ANTHROPIC): (anthropic_whole(SPOKEN), anthropic_stream(SPOKEN, list)),
    (Endpoint.CHAT, Dialect.OLLAMA): (ollama_whole(SPOKEN), ollama_stream(SPOKEN, list)),
    (Endpoint.MESSAGES, Dialect.OLLAMA): (ollama_whole(SPOKEN), ollama_stream(SPOKEN, list)),
    (Endpoint.MESSAGES, Dialect.OPENAI): (openai_whole(SPOKEN), openai_stream(SPOKEN, list)),
}


def spoiled(value: Any) -> Iterator[Any]:
    """The value with each of its places in turn taken away, and overwritten with each piece of junk."""
    for number in range(len(list(places(value)))):
        for junk in (_GONE, *JUNK):
            copied = copy.deepcopy(value)
            container, key = list(places(copied))[number]
            if junk is _GONE:
                del container[key]
            else:
                container[key] = copy.deepcopy(junk)
            yield copied


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value, as its container and key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from places(inner)


def relay(pair: tuple[Endpoint, Dialect]) -> TranslatingRelay:
    return open_translating_relay(
        *pair,
        stream=True,
        show_usage=True,
        injected_usage=False,
        request_id="r",
        model="p/m",
        created_s=1,
    )


@pytest.mark.parametrize("name", list(BODIES))
def test_spoiled_requests(name: str):
    """A request with nonsense at any one place is translated or refused as the caller's mistake."""
    door = Endpoint[BODIES[name]["door"]]
    dialects = {Dialect.ANTHROPIC, Dialect.OPENAI, Dialect.OLLAMA} - {door.dialect}
    for body in spoiled(BODIES[name]["body"]):
        encoded = json.dumps(body).encode()
        for dialect in dialects:
            with contextlib.suppress(CallerError):
                translate_request(door, dialect, encoded, model="m", max_output_tokens=9)


@PAIRS
def test_spoiled_answers(pair: tuple[Endpoint, Dialect]):
    """A whole answer with nonsense at any one place is translated or invalid."""
    for body in spoiled(json.loads(ANSWERS[pair][0])):
        with contextlib.suppress(UpstreamInvalid):
            relay(pair).whole(json.dumps(body).encode())


@PAIRS
def test_spoiled_streams(pair: tuple[Endpoint, Dialect]):
    """A stream with nonsense at any one place of any frame is translated, invalid or cut."""
    lines = ANSWERS[pair][1].split(b"\n")
    for number, line in enumerate(lines):
        head, brace, rest = line.partition(b"{")
        if not brace:
            continue
        for frame in spoiled(json.loads(brace + rest)):
            opened = relay(pair)
            changed = [*lines[:number], head + json.dumps(frame).encode(), *lines[number + 1 :]]
            with contextlib.suppress(UpstreamInvalid, UpstreamTruncated):
                opened.feed(b"\n".join(changed))
                opened.end()
