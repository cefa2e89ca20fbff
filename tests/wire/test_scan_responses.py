"""Responses read while they pass: terminal events, sequence numbers, what counts, errors, whole bodies."""

import json
from typing import Any

import pytest

from securellm.chat import Usage
from securellm.errors import IdleTimeout
from securellm.wire.scan_responses import ResponsesScan

USAGE = {"input_tokens": 9, "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 12}


def scan() -> ResponsesScan:
    """A relay."""
    return ResponsesScan(hide_usage=False, request_id="rid", model="p/m", created_s=5)


def event(kind: str, **fields: Any) -> bytes:
    """One event."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


@pytest.mark.parametrize(
    ("response", "finish", "native"),
    [
        ({"status": "completed", "output": [{"type": "message"}]}, "stop", "completed"),
        (
            {"status": "completed", "output": [{"type": "reasoning"}, {"type": "function_call"}]},
            "tool_calls",
            "completed",
        ),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            "length",
            "max_output_tokens",
        ),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
            "content_filter",
            "content_filter",
        ),
        ({"status": "incomplete", "incomplete_details": {"reason": "tomorrow"}}, "tomorrow", "tomorrow"),
        ({"status": "incomplete", "incomplete_details": None}, None, "incomplete"),
    ],
)
def test_terminal_events(response: dict[str, Any], finish: str | None, native: str) -> None:
    """completed and incomplete end a stream; finish and usage are the response's last state, as in a whole body."""
    terminal = event(f"response.{response['status']}", response={**response, "usage": USAGE})
    relay, whole = scan(), scan()
    assert relay.feed(terminal).held == terminal
    whole.whole(json.dumps({**response, "usage": USAGE}).encode())
    assert relay.terminal
    for seen in (relay, whole):
        assert seen.failure is None
        assert (seen.meter.finish_reason, seen.meter.native_finish) == (finish, native)
        assert seen.meter.usage == Usage(input_tokens=9, output_tokens=3, reasoning_tokens=1)


def test_failed_is_terminal_and_a_failure() -> None:
    """response.failed ends the stream and has the status of its code."""
    failed = event(
        "response.failed", response={"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "m"}}
    )
    relay = scan()
    assert relay.feed(failed).held == failed
    assert relay.terminal
    assert relay.failure is not None
    assert (relay.failure.status, relay.failure.message) == (429, "m")


def test_an_error_event_before_failed_is_the_failure_and_both_are_held() -> None:
    """The first error told is the failure; the terminal event behind it still counts as one."""
    error = event("error", sequence_number=2, error={"code": "server_error", "message": "first", "param": None})
    failed = event("response.failed", response={"status": "failed", "error": {"code": "x", "message": "second"}})
    relay = scan()
    held = [relay.feed(error).held, relay.feed(failed + b"data: [DONE]\n\n").held]
    assert b"".join(held) == error + failed + b"data: [DONE]\n\n"
    assert relay.terminal
    assert relay.failure is not None
    assert (relay.failure.status, relay.failure.message) == (500, "first")


@pytest.mark.parametrize("kind", ["response.completed", "response.in_progress", "response.mcp_call.tomorrow"])
def test_only_its_own_name_is_terminal(kind: str) -> None:
    """An unknown event passes and ends nothing, even with a completed response in it."""
    relay = scan()
    passed = relay.feed(event(kind, response={"status": "completed"}))
    assert relay.terminal is (kind == "response.completed")
    assert (passed.data == b"") is relay.terminal


@pytest.mark.parametrize(
    ("semantic", "size", "said"),
    [
        (False, 0, event("response.created", response={"id": "r1"})),
        (False, 0, event("response.in_progress", response={"id": "r1"})),
        (False, 0, event("keepalive", sequence_number=4)),
        (False, 0, b'data: {"no":"type"}\n\n'),
        (False, 0, event("response.output_item.added", item={"type": "message", "content": []})),
        (False, 0, event("response.output_item.added", item={"type": "reasoning", "summary": []})),
        (False, 0, event("response.content_part.added", part={"type": "output_text", "text": ""})),
        (False, 0, event("response.reasoning_summary_part.added", part={"type": "summary_text", "text": ""})),
        (False, 0, event("response.output_text.delta", delta="")),
        (True, 2, event("response.output_item.added", item={"type": "function_call", "name": "go", "arguments": ""})),
        (True, 2, event("response.output_text.delta", delta="hi")),
        (True, 2, event("response.reasoning_summary_text.delta", delta="hm")),
        (True, 4, event("response.function_call_arguments.delta", delta='{"x"')),
        (True, 0, event("response.output_text.done", text="all of it again")),
        (True, 0, event("response.web_search_call.searching", item_id="w")),
    ],
)
def test_what_is_semantic_and_how_much_it_says(semantic: bool, size: int, said: bytes) -> None:
    """Deltas and tool calls are, unknown events too; openings and keep-alives are not; repeated text counts once."""
    relay = scan()
    assert relay.feed(said).semantic is semantic
    assert relay.meter.output_bytes == size


def test_our_own_failure_goes_on_with_the_stream() -> None:
    """response.failed with the next sequence number and the id, time and model that were shown (guarantee 31)."""
    relay = scan()
    relay.feed(event("response.created", sequence_number=0, response={"id": "r1", "created_at": 77, "model": "gpt-x"}))
    relay.feed(event("response.output_text.delta", sequence_number=1, delta="hi"))
    said = json.loads(relay.fail(IdleTimeout("idle")).split(b"data: ")[1])
    assert (said["type"], said["sequence_number"]) == ("response.failed", 2)
    response = said["response"]
    assert (response["id"], response["created_at"], response["model"]) == ("r1", 77, "gpt-x")
    assert response["error"] == {"code": "idle_timeout", "message": "idle"}


def test_our_own_failure_of_a_stream_that_said_nothing() -> None:
    """Before the first event: sequence number 0 and ids of our own."""
    said = json.loads(scan().fail(IdleTimeout("idle")).split(b"data: ")[1])
    response = said["response"]
    assert (said["sequence_number"], response["id"], response["created_at"]) == (0, "resp_rid", 5)
    assert response["model"] == "p/m"


def test_whole_bodies() -> None:
    """Text, summaries and tool calls are counted; a failed response is a failure."""
    relay = scan()
    output = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "content": [{"type": "output_text", "text": "hey"}]},
        {"type": "function_call", "name": "go", "arguments": "{}"},
    ]
    body = json.dumps({"id": "r1", "model": "m", "status": "completed", "error": None, "output": output}).encode()
    assert relay.whole(body) is body
    assert (relay.meter.output_bytes, relay.meter.upstream_id, relay.failure) == (9, "r1", None)
    failed = scan()
    failed.whole(b'{"status":"failed","error":{"code":"server_error","message":"m"}}')
    assert failed.failure is not None
    assert failed.failure.status == 500
