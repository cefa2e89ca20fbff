"""What all same-dialect relays promise: bytes in are bytes out, for any cutting, and the truth about the ending."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securellm.chat import Endpoint, Relay
from securellm.errors import InternalError, UpstreamInvalid, UpstreamTruncated
from securellm.wire.relay import open_relay
from securellm.wire.scan import text_bytes
from securellm.wire.sse import MAX_EVENT_BYTES, SSESplitter


def chat(**fields: Any) -> bytes:
    """One chat chunk."""
    return b"data: " + json.dumps({"id": "c1", "model": "gpt", **fields}).encode() + b"\n\n"


def named(event: str, **fields: Any) -> bytes:
    """One event with its name, as Anthropic and Responses send them."""
    return f"event: {event}\ndata: {json.dumps({'type': event, **fields}, ensure_ascii=False)}\n\n".encode()


CHAT = b"".join(
    [
        b": OPENROUTER PROCESSING\n\n",
        chat(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}], usage=None),
        chat(choices=[{"index": 0, "delta": {"content": "Grüße \u2028"}}], usage=None),
        chat(choices=[{"index": 0, "delta": {"content": "!"}, "finish_reason": "stop"}], usage=None),
        chat(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}),
    ]
)
MESSAGES = b"".join(
    [
        named(
            "message_start", message={"id": "m1", "model": "claude", "usage": {"input_tokens": 9, "output_tokens": 1}}
        ),
        named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        named("ping"),
        named("content_block_delta", index=0, delta={"type": "text_delta", "text": "Grüße \u2028"}),
        named("content_block_stop", index=0),
        named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3}),
    ]
)
RESPONSES = b"".join(
    [
        named("response.created", sequence_number=0, response={"id": "r1", "model": "gpt", "created_at": 77}),
        named("response.output_text.delta", sequence_number=1, delta="Grüße \u2028"),
        named("response.something_new", sequence_number=2, delta={"x": 1}),
    ]
)
COMPLETED = named(
    "response.completed",
    sequence_number=3,
    response={
        "id": "r1",
        "status": "completed",
        "output": [],
        "usage": {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12},
    },
)

# door: (events before the end, terminal event, error event)
STREAMS = {
    Endpoint.CHAT: (CHAT, b"data: [DONE]\n\n", b'data: {"error":{"message":"m","type":"server_error"}}\n\n'),
    Endpoint.COMPLETIONS: (
        b'data: {"id":"c1","choices":[{"text":"hi"}]}\n\n',
        b"data: [DONE]\n\n",
        b'event: error\ndata: {"error":{"message":"m","code":"server_error"}}\n\n',
    ),
    Endpoint.MESSAGES: (
        MESSAGES,
        named("message_stop"),
        named("error", error={"type": "api_error", "message": "m"}),
    ),
    Endpoint.RESPONSES: (RESPONSES, COMPLETED, named("error", sequence_number=3, code="server_error", message="m")),
}
DOORS = list(STREAMS)


def opened(endpoint: Endpoint, *, show_usage: bool = True, injected_usage: bool = False) -> Relay:
    """A relay with the same dialect on both sides."""
    return open_relay(
        endpoint,
        endpoint.dialect,
        stream=True,
        show_usage=show_usage,
        injected_usage=injected_usage,
        request_id="rid",
        model="p/m",
        created_s=5,
    )


def relayed(endpoint: Endpoint, pieces: list[bytes], **asked: bool) -> dict[str, Any]:
    """Everything that a relay says about a stream that arrives in these pieces."""
    relay = opened(endpoint, **asked)
    parts = [relay.feed(piece) for piece in pieces]
    truncated = False
    try:
        parts.append(relay.end())
    except UpstreamTruncated:
        truncated = True
    return {
        "data": b"".join(part.data for part in parts),
        "held": b"".join(part.held for part in parts),
        "semantic": any(part.semantic for part in parts),
        "truncated": truncated,
        "terminal": relay.terminal,
        "failure": relay.failure and (relay.failure.status, relay.failure.message),
        "meter": {name: getattr(relay.meter, name) for name in relay.meter.__slots__},
        "fail": relay.fail(InternalError("x")),
    }


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The stream in pieces."""
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


def endings(endpoint: Endpoint) -> dict[str, bytes]:
    """The ways in which a stream of this door can end."""
    body, terminal, error = STREAMS[endpoint]
    return {
        "terminal": body + terminal,
        "terminal and more": body + terminal + b": bye\n\ndata: [DONE]\n\nrest",
        "terminal without its blank line": body + terminal[:-2],
        "error": body + error,
        "error and more": body + error + terminal + b"rest",
        "error without its blank line": body + error[:-1],
        "nothing": body,
        "cut": (body + terminal)[: len(body) + 9],
        "empty": b"",
        "another kind": b"<html>\n\nnot a stream\n\n",
        "crlf": (body + terminal).replace(b"\n", b"\r\n"),
    }


CASES = [(endpoint, ending) for endpoint in DOORS for ending in endings(Endpoint.CHAT)]


@pytest.mark.parametrize(("endpoint", "ending"), CASES)
def test_bytes_out_are_bytes_in(endpoint: Endpoint, ending: str) -> None:
    """Data and held together are the input, but for an unfinished event at the end of a cut stream."""
    stream = endings(endpoint)[ending]
    result = relayed(endpoint, [stream])
    splitter = SSESplitter()
    splitter.feed(stream)
    lost = splitter.tail() if result["truncated"] else b""
    if ending != "error and more":
        assert result["data"] + result["held"] + lost == stream
    assert stream.startswith(result["data"] + result["held"])


@pytest.mark.parametrize("endpoint", DOORS)
@pytest.mark.parametrize("ending", ["terminal", "terminal and more", "terminal without its blank line", "crlf"])
def test_the_terminal_event_ends_a_stream_and_is_held(endpoint: Endpoint, ending: str) -> None:
    """From the terminal event on every byte is held; end() has nothing to add and nothing to complain of."""
    stream = endings(endpoint)[ending]
    result = relayed(endpoint, [stream])
    assert result["terminal"]
    assert not result["truncated"]
    assert result["failure"] is None
    body = STREAMS[endpoint][0]
    assert result["data"] == (body.replace(b"\n", b"\r\n") if ending == "crlf" else body)
    assert result["semantic"]


@pytest.mark.parametrize("endpoint", DOORS)
@pytest.mark.parametrize("ending", ["error", "error and more", "error without its blank line"])
def test_an_error_event_ends_a_stream_and_is_held(endpoint: Endpoint, ending: str) -> None:
    """The provider's error is understood, held, and passed on unchanged."""
    body, _, error = STREAMS[endpoint]
    result = relayed(endpoint, [endings(endpoint)[ending]])
    assert result["failure"] == (500, "m")
    assert not result["truncated"]
    assert result["data"] == body
    assert result["held"].startswith(error[:-1])


@pytest.mark.parametrize("endpoint", DOORS)
def test_an_error_is_not_semantic(endpoint: Endpoint) -> None:
    """A stream that begins with an error has not committed to a 200."""
    relay = opened(endpoint)
    assert not relay.feed(STREAMS[endpoint][2]).semantic
    assert relay.meter.semantic_events == 0


@pytest.mark.parametrize("endpoint", DOORS)
@pytest.mark.parametrize("ending", ["nothing", "cut", "empty", "another kind"])
def test_an_end_without_terminal_event_is_truncated(endpoint: Endpoint, ending: str) -> None:
    """Guarantee 1: neither EOF, nor half a terminal event, nor an empty body is an ending."""
    result = relayed(endpoint, [endings(endpoint)[ending]])
    assert result["truncated"]
    assert not result["terminal"]
    assert result["held"] == b""


@pytest.mark.parametrize(("endpoint", "ending"), CASES)
def test_byte_by_byte_is_the_same(endpoint: Endpoint, ending: str) -> None:
    """The finest cutting gives the same bytes, meter, ending and error event as none."""
    stream = endings(endpoint)[ending]
    assert relayed(endpoint, [bytes([byte]) for byte in stream]) == relayed(endpoint, [stream])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(CASES), st.lists(st.integers(0, 5000), max_size=20), st.booleans(), st.booleans())
def test_any_cutting_is_the_same(
    case: tuple[Endpoint, str], places: list[int], show_usage: bool, injected_usage: bool
) -> None:
    """The pieces in which a stream arrives never show, usage hidden or not."""
    endpoint, ending = case
    stream = endings(endpoint)[ending]
    asked = {"show_usage": show_usage, "injected_usage": injected_usage}
    assert relayed(endpoint, cut(stream, places), **asked) == relayed(endpoint, [stream], **asked)


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.MESSAGES, Endpoint.RESPONSES])
def test_the_meter_of_a_complete_stream(endpoint: Endpoint) -> None:
    """Usage, finish, the provider's id and model, and the bytes of text, in every dialect."""
    meter = relayed(endpoint, [endings(endpoint)["terminal"]])["meter"]
    assert (meter["usage"].prompt_tokens, meter["usage"].completion_tokens) == (9, 3)
    assert meter["finish_reason"] == "stop"
    assert meter["upstream_id"] in ("c1", "m1", "r1")
    assert meter["upstream_model"] in ("gpt", "claude")
    assert meter["output_bytes"] == len("Grüße \u2028".encode()) + (1 if endpoint is Endpoint.CHAT else 0)


@pytest.mark.parametrize("endpoint", DOORS)
def test_every_cut_of_the_stream_is_truncated_or_complete(endpoint: Endpoint) -> None:
    """A provider that dies after any byte: truncated, and what was passed on is whole events; or the end was there."""
    body, terminal, _ = STREAMS[endpoint]
    stream = body + terminal
    for place in range(len(stream)):
        result = relayed(endpoint, [stream[:place]])
        if result["truncated"]:
            assert place < len(stream) - 1
            assert result["held"] == b""
            assert result["data"] == b"" or result["data"].endswith(b"\n\n")
            assert result["data"] + result["fail"] != stream
        else:
            assert place >= len(stream) - 2
            assert result["terminal"]


@pytest.mark.parametrize("endpoint", DOORS)
def test_junk_passes_unchanged(endpoint: Endpoint) -> None:
    """Events that are not JSON, or JSON of another shape, are the caller's to judge."""
    junk = b'data: {"half\n\ndata: []\n\ndata: "x"\n\ndata: 7\n\ndata: {"choices":{"a":[1]},"delta":3}\n\ndata:\n\n'
    junk += b'data: {"type":"message_start","message":[],"choices":[{"delta":"x"},7],"response":"x","item":1}\n\n'
    junk += b"data: \xff\xfe\n\ndata: " + b"[" * 50_000 + b"\n\n"
    relay = opened(endpoint)
    assert relay.feed(junk).data == junk
    assert not relay.terminal
    assert relay.failure is None
    assert relay.meter.usage is None


def test_an_event_without_end_is_invalid() -> None:
    """A provider that never ends an event cannot fill the memory."""
    relay = opened(Endpoint.CHAT)
    with pytest.raises(UpstreamInvalid):
        relay.feed(b"data: " + b"x" * MAX_EVENT_BYTES)


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_a_whole_body_that_is_no_object_is_invalid(endpoint: Endpoint) -> None:
    """A 2xx body must be a JSON object; what it holds is the caller's to judge."""
    for body in (b"", b"<html>", b"[]", b'{"id":"x"', b"[" * 100_000):
        with pytest.raises(UpstreamInvalid):
            opened(endpoint).whole(body)
    for body in (b"{}", b' {"id":7,"usage":[],"choices":null,"content":"x","output":{}} '):
        assert opened(endpoint).whole(body) is body


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_a_refusal_passes_unchanged(endpoint: Endpoint) -> None:
    """The provider's error body is the caller's in the same dialect."""
    body = b'{"error": {"message":"no"}}\n'
    assert opened(endpoint).refused(400, body) is body


def test_text_bytes() -> None:
    """Texts are counted in UTF-8, in lists of parts too; everything else is nothing."""
    assert text_bytes("aé") == 3
    assert text_bytes([{"type": "text", "text": "ab"}, {"type": "thinking", "thinking": [{"text": "c"}]}, "d"]) == 4
    assert text_bytes(None) == text_bytes(7) == text_bytes({"x": "y"}) == 0
