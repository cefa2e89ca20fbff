"""Messages read while they pass: cumulative usage, what counts, stop reasons, errors, whole bodies."""

import json
from typing import Any

import pytest

from securellm.chat import Usage
from securellm.errors import UpstreamTruncated
from securellm.wire.scan_anthropic import AnthropicScan


def scan() -> AnthropicScan:
    """A relay."""
    return AnthropicScan(hide_usage=False, request_id="rid", model="p/m", created_s=5)


def event(kind: str, **fields: Any) -> bytes:
    """One event."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def start(**block: Any) -> bytes:
    """content_block_start."""
    return event("content_block_start", index=0, content_block=block)


def delta(**said: Any) -> bytes:
    """content_block_delta."""
    return event("content_block_delta", index=0, delta=said)


def test_usage_is_cumulative() -> None:
    """Each field's last non-null value, from message_start and every message_delta; never a sum (guarantee 13)."""
    relay = scan()
    first = {"input_tokens": 4, "cache_creation_input_tokens": 1165, "cache_read_input_tokens": 0, "output_tokens": 1}
    relay.feed(event("message_start", message={"id": "m1", "model": "claude", "usage": first}))
    relay.feed(event("message_delta", delta={}, usage={"output_tokens": 10}))
    relay.feed(
        event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 25, "input_tokens": None})
    )
    assert relay.meter.usage == Usage(input_tokens=4, cache_write_5m_tokens=1165, output_tokens=25)
    assert (relay.meter.upstream_id, relay.meter.upstream_model) == ("m1", "claude")


@pytest.mark.parametrize(
    ("semantic", "size", "said"),
    [
        (False, 0, event("message_start", message={"id": "m1"})),
        (False, 0, event("ping")),
        (False, 0, b": comment\n\n"),
        (False, 0, start(type="text", text="")),
        (False, 0, start(type="thinking", thinking="", signature="")),
        (False, 0, event("content_block_stop", index=0)),
        (False, 0, delta(type="text_delta", text="")),
        (False, 0, delta(type="input_json_delta", partial_json="")),
        (False, 0, event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 2})),
        (True, 2, start(type="text", text="hi")),
        (True, 2, start(type="tool_use", id="t", name="go", input={})),
        (True, 0, start(type="redacted_thinking", data="opaque")),
        (True, 3, delta(type="text_delta", text="hié"[:2] + "x")),
        (True, 2, delta(type="thinking_delta", thinking="hm")),
        (True, 4, delta(type="input_json_delta", partial_json='{"x"')),
        (True, 0, delta(type="signature_delta", signature="opaque")),
        (True, 0, delta(type="delta_of_tomorrow", x=1)),
        (True, 0, event("event_of_tomorrow", x=1)),
        (True, 0, event("message_delta", delta={"stop_reason": "end_turn"})),
        (True, 0, event("message_stop")),
    ],
)
def test_what_is_semantic_and_how_much_it_says(semantic: bool, size: int, said: bytes) -> None:
    """Text, thinking, tools and a stop reason are; openings, pings and block ends are not."""
    relay = scan()
    assert relay.feed(said).semantic is semantic
    assert relay.meter.output_bytes == size


@pytest.mark.parametrize(
    ("native", "finish"),
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("reason_of_tomorrow", "reason_of_tomorrow"),
    ],
)
def test_stop_reasons(native: str, finish: str) -> None:
    """OpenAI's word in `finish_reason`, Anthropic's own beside it; in a stream and in a body."""
    relay, whole = scan(), scan()
    relay.feed(event("message_delta", delta={"stop_reason": native}))
    whole.whole(json.dumps({"type": "message", "stop_reason": native}).encode())
    for meter in (relay.meter, whole.meter):
        assert (meter.native_finish, meter.finish_reason) == (native, finish)


def test_an_overloaded_error_is_529() -> None:
    """The event `error` has the status of its type, also without an event name."""
    for name in (b"event: error\n", b""):
        relay = scan()
        relay.feed(
            name + b'data: {"type":"error","error":{"details":null,"type":"overloaded_error","message":"O"} }\n\n'
        )
        assert relay.failure is not None
        assert (relay.failure.status, relay.failure.kind, relay.failure.message) == (529, "overloaded_error", "O")


def test_done_is_not_an_ending_here() -> None:
    """`[DONE]` means nothing in this dialect."""
    relay = scan()
    relay.feed(b"data: [DONE]\n\n")
    with pytest.raises(UpstreamTruncated):
        relay.end()


def test_our_own_error_event() -> None:
    """`event: error` with the request's id and no message_stop."""
    sent = scan().fail(UpstreamTruncated("cut"))
    head, data, *_ = sent.split(b"\n")
    assert head == b"event: error"
    said = json.loads(data.removeprefix(b"data: "))
    assert (said["type"], said["error"]["type"], said["error"]["code"]) == ("error", "api_error", "upstream_truncated")
    assert said["request_id"] == "rid"


def test_whole_bodies() -> None:
    """Text, thinking and tool input are counted, usage is read, the body is the same object."""
    relay = scan()
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "opaque"},
        {"type": "text", "text": "hey"},
        {"type": "tool_use", "id": "t", "name": "go", "input": {"x": 1}},
    ]
    usage = {"input_tokens": 3, "output_tokens": 7}
    body = json.dumps({"type": "message", "id": "m1", "model": "c", "content": content, "usage": usage}).encode()
    assert relay.whole(body) is body
    assert relay.meter.usage == Usage(input_tokens=3, output_tokens=7)
    assert relay.meter.output_bytes == 2 + 3 + 2 + len('{"x":1}')


def test_count_tokens_uses_nothing() -> None:
    """The body of count_tokens tells no usage of its own."""
    relay = scan()
    assert relay.whole(b'{"input_tokens":14}') == b'{"input_tokens":14}'
    assert relay.meter.usage is None


def test_a_whole_error_with_status_200_is_a_failure() -> None:
    """An error body is one, whatever its status was."""
    relay = scan()
    relay.whole(b'{"type":"error","error":{"type":"api_error","message":"m"}}')
    assert relay.failure is not None
    assert relay.failure.status == 500
