"""A stream put together by the official SDKs' own accumulators, and checks of its form on the way."""

import json
from typing import Any

from anthropic.lib.streaming._messages import accumulate_event
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

_OPENERS = {"thinking_delta": "thinking", "signature_delta": "thinking", "text_delta": "text"}


def sse_payloads(stream: bytes) -> list[bytes]:
    """The data of each event of a stream that we wrote: one `data` line an event."""
    payloads = []
    for frame in stream.split(b"\n\n"):
        if frame:
            payloads.append(frame.split(b"data: ", 1)[1])
    return payloads


def accumulate_openai(stream: bytes) -> dict[str, Any]:
    """The completion that the openai SDK ends up with. Fails unless the stream ends in exactly one [DONE]."""
    payloads = sse_payloads(stream)
    assert payloads.count(b"[DONE]") == 1, "exactly one [DONE]"
    assert payloads[-1] == b"[DONE]", "[DONE] comes last"
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for payload in payloads[:-1]:
        state.handle_chunk(ChatCompletionChunk.model_validate(json.loads(payload)))
    return state.current_completion_snapshot.to_dict()


def accumulate_anthropic(stream: bytes) -> dict[str, Any]:
    """The message that the anthropic SDK ends up with. Fails unless blocks nest strictly and the stream is closed."""
    payloads = [json.loads(payload) for payload in sse_payloads(stream)]
    _check_nesting(payloads)
    message: Any = None
    buffers: dict[int, bytes] = {}
    for payload in payloads:
        message = accumulate_event(event=payload, current_snapshot=message, json_bufs=buffers)
    return message.to_dict()


def _check_nesting(payloads: list[dict[str, Any]]) -> None:
    assert payloads[0]["type"] == "message_start", "message_start comes first"
    assert [payload["type"] for payload in payloads[-2:]] == ["message_delta", "message_stop"], "the closing events"
    assert sum(payload["type"] == "message_stop" for payload in payloads) == 1, "one message_stop"
    open_kind, next_index = None, 0
    for payload in payloads[1:-2]:
        match payload["type"]:
            case "content_block_start":
                assert open_kind is None, "a block starts inside another"
                assert payload["index"] == next_index, "block indexes are dense"
                open_kind = payload["content_block"]["type"]
            case "content_block_delta":
                assert payload["index"] == next_index, "a delta belongs to the open block"
                expected = _OPENERS.get(payload["delta"]["type"], "tool_use")
                assert open_kind == expected, "a delta is of its block's kind"
            case "content_block_stop":
                assert open_kind is not None, "a block that stops is open"
                assert payload["index"] == next_index, "the block that stops is the open one"
                open_kind, next_index = None, next_index + 1
            case other:
                raise AssertionError(f"an unexpected event: {other}")
    assert open_kind is None, "every block stops"
