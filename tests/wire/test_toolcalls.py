"""Calls of tools whose indexes cannot be relied on come out dense, unique and whole (guarantee 26)."""

import json
from typing import Any

import pytest

from rig.crossing import Called, Said, Spoken, openai_stream
from rig.sdk_accumulators import accumulate_anthropic, sse_payloads
from securellm.chat import Dialect, Endpoint
from securellm.errors import UpstreamInvalid
from securellm.wire.translate import TranslatingRelay, open_translating_relay

TWO = [("f", {"a": 1}), ("g", {"b": "two"})]


def entry(arguments: str | None = None, **head: Any) -> dict[str, Any]:
    function: dict[str, Any] = {}
    if "name" in head:
        function["name"] = head.pop("name")
    if arguments is not None:
        function["arguments"] = arguments
    return {**head, "function": function}


# Each vector is the entries of `delta.tool_calls`, one delta each, as some server sends two calls.
VECTORS: dict[str, list[dict[str, Any]]] = {
    "as OpenAI does": [
        entry("", index=0, id="a", name="f"),
        entry('{"a": ', index=0),
        entry("1}", index=0),
        entry("", index=1, id="b", name="g"),
        entry('{"b": "two"}', index=1),
    ],
    "same index, new id": [
        entry("", index=0, id="a", name="f"),
        entry('{"a": 1}', index=0),
        entry("", index=0, id="b", name="g"),
        entry('{"b": "two"}', index=0),
    ],
    "same index, no ids, new head after complete arguments": [
        entry('{"a": 1}', index=0, name="f"),
        entry('{"b": "two"}', index=0, name="g"),
    ],
    "no index": [
        entry("", id="a", name="f"),
        entry('{"a": 1}'),
        entry("", id="b", name="g"),
        entry('{"b": '),
        entry('"two"}'),
    ],
    "no index, no ids": [entry('{"a": 1}', name="f"), entry('{"b": "two"}', name="g")],
    "interleaved": [
        entry("", index=0, id="a", name="f"),
        entry("", index=1, id="b", name="g"),
        entry('{"a"', index=0),
        entry('{"b": ', index=1),
        entry(": 1}", index=0),
        entry('"two"}', index=1),
    ],
    "interleaved by id, no index": [
        entry("", id="a", name="f"),
        entry("", id="b", name="g"),
        entry('{"a"', id="a"),
        entry('{"b": ', id="b"),
        entry(": 1}", id="a"),
        entry('"two"}', id="b"),
    ],
    "index jump": [
        entry("", index=3, id="a", name="f"),
        entry('{"a": 1}', index=3),
        entry("", index=7, id="b", name="g"),
        entry('{"b": "two"}', index=7),
    ],
    "id and name with each delta": [
        entry('{"a"', index=0, id="a", name="f"),
        entry(": 1}", index=0, id="a", name="f"),
        entry('{"b": ', index=1, id="b", name="g"),
        entry('"two"}', index=1, id="b", name="g"),
    ],
    "name with each delta, no ids": [
        entry('{"a"', index=0, name="f"),
        entry(": 1}", index=0, name="f"),
        entry('{"b": ', index=1, name="g"),
        entry('"two"}', index=1, name="g"),
    ],
    "one id for both": [entry('{"a": 1}', index=0, id="x", name="f"), entry('{"b": "two"}', index=1, id="x", name="g")],
    "empty ids": [entry('{"a": 1}', index=0, id="", name="f"), entry('{"b": "two"}', index=1, id="", name="g")],
    "id after the head": [
        entry("", index=0, name="f"),
        entry('{"a": 1}', index=0, id="a"),
        entry('{"b": "two"}', index=1, name="g", id="b"),
    ],
    "arguments before the name": [
        entry('{"a"', index=0, id="a"),
        entry(": 1}", index=0, name="f"),
        entry('{"b": "two"}', index=1, id="b", name="g"),
    ],
    "arguments as an object": [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": {"a": 1}}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": {"b": "two"}}},
    ],
}


def relay() -> TranslatingRelay:
    return open_translating_relay(
        Endpoint.MESSAGES,
        Dialect.OPENAI,
        stream=True,
        show_usage=False,
        injected_usage=True,
        request_id="0190",
        model="p/m",
        created_s=1,
    )


def frames(deltas: list[dict[str, Any]], finish: str = "tool_calls") -> list[bytes]:
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    chunks = [b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\n" for choice in choices]
    return [*chunks, b"data: [DONE]\n\n"]


def accumulated(stream: list[bytes]) -> dict[str, Any]:
    open_relay = relay()
    out = [open_relay.feed(frame) for frame in stream]
    return accumulate_anthropic(b"".join(part.data + part.held for part in out))


def calls_of(message: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(block["name"], block["input"]) for block in message["content"] if block["type"] == "tool_use"]


@pytest.mark.parametrize("vector", list(VECTORS))
@pytest.mark.parametrize("together", [False, True], ids=["one a delta", "all in one delta"])
def test_two_calls_stay_two(vector: str, together: bool):
    """However a server numbers them, the client ends up with the two intended calls under two ids."""
    entries = VECTORS[vector]
    deltas = [{"tool_calls": entries}] if together else [{"tool_calls": [item]} for item in entries]
    message = accumulated(frames(deltas))
    assert calls_of(message) == TWO
    ids = [block["id"] for block in message["content"]]
    assert len(set(ids)) == 2
    assert all(ids)
    assert message["stop_reason"] == "tool_use"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_calls_without_arguments(count: int):
    """Calls with no arguments at all (no delta, or an empty one) are calls with an empty object."""
    entries = [entry("", index=n, id=f"c{n}", name="now") for n in range(count)]
    message = accumulated(frames([{"tool_calls": [item]} for item in entries]))
    assert calls_of(message) == [("now", {})] * count


def test_two_calls_of_one_tool_without_ids_or_indexes():
    """The same head again after complete arguments is another call."""
    entries = [entry('{"a": 1}', name="f"), entry('{"a": 2}', name="f")]
    message = accumulated(frames([{"tool_calls": [item]} for item in entries]))
    assert calls_of(message) == [("f", {"a": 1}), ("f", {"a": 2})]


def test_two_calls_of_one_tool_at_one_index_without_ids():
    """The same head again at the same index after complete arguments is another call, too."""
    entries = [entry('{"a": 1}', index=0, name="f"), entry('{"a": 2}', index=0, name="f")]
    message = accumulated(frames([{"tool_calls": [item]} for item in entries]))
    assert calls_of(message) == [("f", {"a": 1}), ("f", {"a": 2})]


def test_a_call_that_never_gets_a_name_is_shown():
    """Its arguments are not lost; the caller sees a call of a tool without a name."""
    message = accumulated(frames([{"tool_calls": [entry('{"a": 1}', index=0, id="x")]}]))
    assert calls_of(message) == [("", {"a": 1})]


def test_text_behind_a_call_is_a_block_of_its_own():
    """Text after a complete call closes it and streams; the order is kept."""
    deltas = [{"content": "a"}, {"tool_calls": [entry('{"a": 1}', index=0, id="x", name="f")]}, {"content": "b"}]
    message = accumulated(frames(deltas))
    assert [block["type"] for block in message["content"]] == ["text", "tool_use", "text"]
    assert message["content"][2]["text"] == "b"


def test_the_first_call_streams_while_it_is_open():
    """The head of the queue is not held back: its arguments are there as soon as they arrive."""
    open_relay = relay()
    first, second, *_ = frames([{"tool_calls": [item]} for item in VECTORS["as OpenAI does"]])
    open_relay.feed(first)
    payloads = [json.loads(payload) for payload in sse_payloads(open_relay.feed(second).data)]
    assert [payload["delta"]["partial_json"] for payload in payloads] == ['{"a": ']


def test_a_hundred_kilobytes_of_arguments():
    """Large arguments in small deltas arrive whole."""
    spoken = Spoken(
        (Said("x"), Called("c", "f", {"blob": "é" * 50_000}), Called("d", "f", {"blob": "y" * 100_000})), "tool_calls"
    )
    stream = openai_stream(spoken, lambda text: [text[n : n + 997] for n in range(0, len(text), 997)])
    message = accumulated([stream])
    assert calls_of(message) == [(call.name, call.arguments) for call in spoken.calls()]


def test_arguments_after_a_closed_call_are_an_error():
    """More arguments for a call that was complete and closed cannot be shown, so the answer is invalid."""
    entries = [*VECTORS["as OpenAI does"], entry('{"more": 1}', index=0)]
    stream = b"".join(frames([{"tool_calls": [item]} for item in entries]))
    open_relay = relay()
    assert b"partial_json" in open_relay.feed(stream).data
    with pytest.raises(UpstreamInvalid):
        open_relay.end()


@pytest.mark.parametrize(
    "cut", ['{"a": [1, {"b": "x', '{"a": 12', '{"a": "\\', "{", '{"a": 1, "b', '{"a": 1, "b": tr', '{"a":{"b":[]}']
)
def test_arguments_that_the_limit_cut(cut: str):
    """With `length`, half of an object is shown as far as it is certain, the same in a stream and in a whole."""
    delta = {"tool_calls": [entry(cut, index=0, id="a", name="f")]}
    streamed = accumulated(frames([delta], finish="length"))
    message = {"content": None, "tool_calls": delta["tool_calls"]}
    body = {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": "length"}]}
    whole = json.loads(relay().whole(json.dumps(body).encode()))
    assert whole["content"] == streamed["content"]
    assert whole["stop_reason"] == streamed["stop_reason"] == "max_tokens"


@pytest.mark.parametrize("arguments", ["[1]", "nonsense", '{"a": 1'])
def test_arguments_that_are_no_object_are_invalid(arguments: str):
    """A whole answer whose arguments cannot be an Anthropic input is an invalid answer, not a guess."""
    message = {"content": None, "tool_calls": [entry(arguments, id="a", name="f")]}
    body = {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    with pytest.raises(UpstreamInvalid):
        relay().whole(json.dumps(body).encode())
