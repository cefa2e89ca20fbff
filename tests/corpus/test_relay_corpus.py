"""Recorded answers through the same-dialect relays: byte identity for any cutting, and what the meter reads of them."""

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rig.replay import CORPUS, RAW
from securellm.chat import Endpoint, Relay
from securellm.errors import UpstreamTruncated
from securellm.wire.body import peek, splice
from securellm.wire.relay import open_relay

pytestmark = pytest.mark.corpus

DOORS = {
    "chat.completions": Endpoint.CHAT,
    "completions": Endpoint.COMPLETIONS,
    "embeddings": Endpoint.EMBEDDINGS,
    "responses": Endpoint.RESPONSES,
    "messages": Endpoint.MESSAGES,
    "messages.count_tokens": Endpoint.COUNT_TOKENS,
}
# How many recordings there are, so that none goes missing unseen.
RAW_STREAMS = {"chat.completions": 71, "completions": 2, "messages": 29, "responses": 21}
WHOLE_BODIES = 417
REQUESTS = 689
# A provider that ended with [DONE] and never gave a finish_reason; nothing is invented for it.
WITHOUT_FINISH = {"openai/chat-completions--llm--tools-streaming-tools-streaming-variant-a--1of2"}


@cache
def recordings() -> list[tuple[dict[str, Any], bytes | None, bytes]]:
    """(meta, request, response) of every recording at one of the doors."""
    found = []
    for path in sorted((CORPUS / "dev").glob("*/*/meta.json")):
        meta = json.loads(path.read_text(encoding="utf-8"))
        if meta["endpoint"] in DOORS and meta["method"] == "POST":
            request = (path.parent / meta["request_file"]).read_bytes() if meta["request_file"] else None
            found.append((meta, request, (path.parent / meta["response_file"]).read_bytes()))
    return found


def streams(endpoint: str | None = None) -> list[tuple[dict[str, Any], bytes]]:
    """Every recorded event stream that was answered with 200."""
    return [
        (meta, response)
        for meta, _, response in recordings()
        if meta["response_file"].endswith(".sse") and endpoint in (None, meta["endpoint"])
    ]


def opened(endpoint: str, *, hide_usage: bool = False) -> Relay:
    """A relay with the same dialect on both sides."""
    door = DOORS[endpoint]
    asked = {"stream": True, "show_usage": not hide_usage, "injected_usage": hide_usage}
    return open_relay(door, door.dialect, **asked, request_id="rid", model="p/m", created_s=5)


def relayed(endpoint: str, pieces: list[bytes], *, hide_usage: bool = False) -> dict[str, Any]:
    """Everything that a relay says about a stream."""
    relay = opened(endpoint, hide_usage=hide_usage)
    parts = [relay.feed(piece) for piece in pieces]
    truncated = False
    try:
        parts.append(relay.end())
    except UpstreamTruncated:
        truncated = True
    return {
        "data": b"".join(part.data for part in parts),
        "held": b"".join(part.held for part in parts),
        "truncated": truncated,
        "terminal": relay.terminal,
        "failure": relay.failure and (relay.failure.status, relay.failure.message),
        "meter": {name: getattr(relay.meter, name) for name in relay.meter.__slots__},
    }


@pytest.mark.parametrize("endpoint", RAW_STREAMS)
def test_raw_streams_come_back_byte_for_byte(endpoint: str) -> None:
    """Every raw stream: bytes out are bytes in, an ending is found, and an answer has text and a finish."""
    raw = [(meta, stream) for meta, stream in streams(endpoint) if meta["fidelity"] in RAW]
    assert len(raw) == RAW_STREAMS[endpoint]
    for meta, stream in raw:
        result = relayed(endpoint, [stream])
        assert result["data"] + result["held"] == stream, meta["id"]
        assert result["terminal"] or result["failure"], meta["id"]
        assert not result["truncated"], meta["id"]
        meter = result["meter"]
        assert result["failure"] or meter["semantic_events"] > 1, meta["id"]
        assert result["failure"] or meter["finish_reason"] or meta["id"] in WITHOUT_FINISH, meta["id"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_cutting_of_a_recording_is_the_same(data: st.DataObject) -> None:
    """Bytes, meter and ending of every recorded stream, cut anywhere, with usage hidden or shown."""
    every = streams()
    meta, stream = every[data.draw(st.integers(0, len(every) - 1), label="recording")]
    hide_usage = data.draw(st.booleans(), label="hide_usage")
    size = data.draw(st.integers(1, 4096), label="size of a piece")
    first = data.draw(st.integers(0, size), label="size of the first")
    pieces = [stream[:first], *(stream[start : start + size] for start in range(first, len(stream), size))]
    expected = relayed(meta["endpoint"], [stream], hide_usage=hide_usage)
    assert relayed(meta["endpoint"], pieces, hide_usage=hide_usage) == expected


def test_hidden_usage_is_one_event_less_and_read_all_the_same() -> None:
    """Of the raw chat streams with a usage-only chunk exactly that chunk goes; the meter is the same."""
    removed = 0
    for meta, stream in streams("chat.completions"):
        shown, hidden = (relayed("chat.completions", [stream], hide_usage=hide) for hide in (False, True))
        assert shown["meter"] == hidden["meter"], meta["id"]
        whole, rest = shown["data"].split(b"\n\n"), hidden["data"].split(b"\n\n")
        gone = [event for event in whole if event not in rest]
        assert len(whole) - len(rest) == len(gone), meta["id"]
        for event in gone:
            chunk = json.loads(event.removeprefix(b"data: "))
            assert chunk["choices"] == [], meta["id"]
            assert chunk["usage"], meta["id"]
        removed += len(gone)
    assert removed > 40


def test_composed_endings_are_told_apart() -> None:
    """A recording cut short is truncated, one that ends in a quoted error is a failure."""
    for meta, stream in streams():
        if meta["fidelity"] == "composed":
            result = relayed(meta["endpoint"], [stream])
            cut_short = {"truncated_stream", "no_done_marker"} & set(meta["features"])
            assert result["truncated"] is bool(cut_short), meta["id"]
            assert (result["failure"] is not None) is not result["truncated"], meta["id"]


def test_whole_bodies_come_back_as_they_are() -> None:
    """Every recorded 200 body passes as the same object; what bills has usage, what ends has a finish."""
    seen = 0
    for meta, _, response in recordings():
        if meta["status"] != 200 or not meta["response_file"].endswith(".json"):
            continue
        seen += 1
        relay = opened(meta["endpoint"])
        assert relay.whole(response) is response
        if b'"usage"' in response and b'"choices"' in response:
            assert relay.meter.usage is not None, meta["id"]
            assert relay.meter.usage.total_tokens > 0, meta["id"]
            assert relay.meter.finish_reason, meta["id"]
    assert seen == WHOLE_BODIES


def test_recorded_requests_are_read_and_spliced_back() -> None:
    """Every recorded request is understood; another model and back again is the same bytes (guarantee 12)."""
    seen = 0
    for meta, request, _ in recordings():
        if request is None or not json.loads(request).get("model"):
            continue
        seen += 1
        endpoint = DOORS[meta["endpoint"]]
        peeked = peek(endpoint, request)
        body = json.loads(request)
        assert (peeked.model, peeked.stream) == (body["model"], bool(body.get("stream"))), meta["id"]
        other = splice(request, peeked, model="other/é")
        assert json.loads(other) == body | {"model": "other/é"}, meta["id"]
        again = splice(other, peek(endpoint, other), model=body["model"])
        start, end = peeked.model_span
        assert (again[:start], again[-(len(request) - end) or len(again) :]) == (request[:start], request[end:]), meta[
            "id"
        ]
    assert seen == REQUESTS
