"""Recorded requests and answers through the translators themselves, without a gateway around them.

Requests keep the other provider's rules with every part counted, or are refused by name; streams give the same bytes
for any cutting and are accepted by the official SDKs' accumulators.
"""

import json
import random
from collections import Counter
from typing import Any

import pytest

from rig.replay import Recording, corpus_is_there, load_recordings
from rig.sdk_accumulators import accumulate_anthropic, accumulate_openai
from rig.strict import (
    anthropic_complaints,
    anthropic_parts,
    ollama_complaints,
    ollama_parts,
    openai_complaints,
    openai_parts,
)
from securellm.chat import Dialect, Endpoint
from securellm.errors import BadRequest, UpstreamTruncated
from securellm.wire.translate import TranslatingRelay, open_translating_relay, translate_request

pytestmark = pytest.mark.corpus

DOORS = {"chat.completions": Endpoint.CHAT, "messages": Endpoint.MESSAGES}
COMPLAINTS = {
    Dialect.ANTHROPIC: anthropic_complaints,
    Dialect.OPENAI: openai_complaints,
    Dialect.OLLAMA: ollama_complaints,
}
PARTS = {Dialect.ANTHROPIC: anthropic_parts, Dialect.OPENAI: openai_parts, Dialect.OLLAMA: ollama_parts}
# What every provider refuses by itself and no translation can mend: two conversations that begin with the assistant.
ASKED_WRONG = {"messages: the first message must be the user's", "the first message must be the user's"}
REQUESTS = [(Endpoint.CHAT, Dialect.ANTHROPIC), (Endpoint.CHAT, Dialect.OLLAMA)]
REQUESTS += [(Endpoint.MESSAGES, Dialect.OPENAI), (Endpoint.MESSAGES, Dialect.OLLAMA)]
ANSWERS = [
    ("messages", Dialect.ANTHROPIC, Endpoint.CHAT),
    ("ollama.chat", Dialect.OLLAMA, Endpoint.CHAT),
    ("ollama.chat", Dialect.OLLAMA, Endpoint.MESSAGES),
    ("chat.completions", Dialect.OPENAI, Endpoint.MESSAGES),
]


def recordings(endpoint: str) -> list[Recording]:
    return (
        [recording for recording in load_recordings(endpoint) if recording.status == 200] if corpus_is_there() else []
    )


def relay(door: Endpoint, dialect: Dialect) -> TranslatingRelay:
    return open_translating_relay(
        door,
        dialect,
        stream=True,
        show_usage=True,
        injected_usage=False,
        request_id="0190-ab",
        model="p/m",
        created_s=1,
    )


def counted(dialect: Dialect, body: dict[str, Any]) -> Counter[str]:
    """The parts that every dialect counts alike; Ollama joins texts, and reasoning may be dropped and listed."""
    counts = PARTS[dialect](body)
    return +Counter({kind: counts[kind] for kind in ("image", "tool_use", "tool_result")})


@pytest.mark.parametrize(("door", "dialect"), REQUESTS, ids=lambda value: value.name)
def test_recorded_requests_cross_or_are_refused(door: Endpoint, dialect: Dialect):
    """Every recorded request of a family: nothing lost, the other's rules kept, or the reason in `param`."""
    endpoint = next(name for name, named in DOORS.items() if named is door)
    wrong: list[tuple[str, Any]] = []
    crossed = refused = 0
    for recording in recordings(endpoint):
        try:
            translated = translate_request(
                door, dialect, recording.request, model="claude-opus-4-8", max_output_tokens=4096, num_ctx=8192
            )
        except BadRequest as error:
            refused += 1
            if not error.param:
                wrong.append((recording.id, error))
            continue
        crossed += 1
        out = json.loads(translated.body)
        complaints = set(COMPLAINTS[dialect](out)) - ASKED_WRONG
        if complaints:
            wrong.append((recording.id, complaints))
        if counted(dialect, out) != counted(door.dialect, recording.asked):
            wrong.append((recording.id, counted(dialect, out)))
    assert wrong == []
    assert crossed > refused > 0


@pytest.mark.parametrize(("endpoint", "dialect", "door"), ANSWERS, ids=str)
def test_recorded_streams_are_cut_anywhere(endpoint: str, dialect: Dialect, door: Endpoint):
    """One piece or many give the same bytes; a complete stream is a complete answer to the official SDK."""
    accumulate = accumulate_openai if door is Endpoint.CHAT else accumulate_anthropic
    complete = 0
    for recording in recordings(endpoint):
        if not recording.streamed:
            continue
        at_once = relay(door, dialect)
        relayed = at_once.feed(recording.response)
        expected = relayed.data + relayed.held
        chance = random.Random(recording.id)
        pieces = relay(door, dialect)
        out, start = b"", 0
        while start < len(recording.response):
            end = start + chance.randint(1, 400)
            piece = pieces.feed(recording.response[start:end])
            out += piece.data + piece.held
            start = end
        assert out == expected, recording.id
        if at_once.terminal:
            complete += 1
            accumulate(expected)
        elif at_once.failure is None:
            with pytest.raises(UpstreamTruncated):
                at_once.end()
    assert complete > 5


@pytest.mark.parametrize(("endpoint", "dialect", "door"), ANSWERS, ids=str)
def test_recorded_wholes_are_answers(endpoint: str, dialect: Dialect, door: Endpoint):
    """Every whole answer is one on the other door, with usage and a finish on the meter."""
    seen = 0
    for recording in recordings(endpoint):
        if recording.streamed or recording.kind != "json":
            continue
        opened = relay(door, dialect)
        body = json.loads(opened.whole(recording.response))
        assert body["model"] == "p/m"
        assert opened.failure is not None or opened.meter.usage is not None or "usage" not in recording.features
        seen += 1
    assert seen > 5


@pytest.mark.parametrize("door", [Endpoint.CHAT, Endpoint.MESSAGES], ids=lambda door: door.name)
def test_recorded_ollama_streams_byte_by_byte(door: Endpoint):
    """Split at every byte offset, each of Ollama's recordings is the same stream (guarantee 27)."""
    seen: set[str] = set()
    for recording in recordings("ollama.chat"):
        stream = recording.response.rstrip(b"\n") + b"\n"
        at_once, slowly = relay(door, Dialect.OLLAMA).feed(stream), relay(door, Dialect.OLLAMA)
        pieces = [slowly.feed(stream[place : place + 1]) for place in range(len(stream))]
        assert b"".join(piece.data + piece.held for piece in pieces) == at_once.data + at_once.held, recording.id
        seen |= recording.features
    assert {"tool_calls_out", "thinking", "finish:stop", "usage"} <= seen
