"""The translating relay: what it holds, meters, refuses and raises; and which pairs cross at all."""

import contextlib
import json
from typing import Any

import pytest

from rig.crossing import Called, Said, Spoken, Thought, anthropic_stream, anthropic_whole, openai_stream, openai_whole
from rig.sdk_accumulators import sse_payloads
from securellm.chat import Dialect, Endpoint, Usage
from securellm.errors import (
    BadRequest,
    IdleTimeout,
    ProviderAnswered,
    UnsupportedEndpoint,
    UpstreamInvalid,
    UpstreamTruncated,
)
from securellm.wire.relay import open_relay
from securellm.wire.translate import TranslatingRelay, open_translating_relay, translate_request

ANSWER = Spoken((Thought("hm", "sig"), Said("Hello"), Called("t1", "f", {"a": 1})), "tool_calls")


def relay(door: Endpoint, dialect: Dialect, *, show_usage: bool = False) -> TranslatingRelay:
    return open_translating_relay(
        door,
        dialect,
        stream=True,
        show_usage=show_usage,
        injected_usage=not show_usage,
        request_id="0190-ab",
        model="p/m",
        created_s=7,
    )


def whole_pieces(text: str) -> list[str]:
    return [text] if text else []


def event(name: str, **fields: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()


@pytest.mark.parametrize("show_usage", [False, True])
def test_usage_is_shown_when_asked_for(show_usage: bool):
    """The usage chunk has no choices and comes only when asked; the meter knows either way (guarantee 13)."""
    opened = relay(Endpoint.CHAT, Dialect.ANTHROPIC, show_usage=show_usage)
    relayed = opened.feed(anthropic_stream(ANSWER, whole_pieces))
    chunks = [json.loads(payload) for payload in sse_payloads(relayed.data)]
    assert [chunk for chunk in chunks if not chunk["choices"]] == (chunks[-1:] if show_usage else [])
    assert all(("usage" in chunk) is show_usage for chunk in chunks)
    assert opened.meter.usage == Usage(input_tokens=8, cache_read_tokens=3, output_tokens=7)
    if show_usage:
        usage = chunks[-1]["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (11, 7, 18)
        assert usage["prompt_tokens_details"]["cached_tokens"] == 3
        assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_the_terminal_frame_is_held():
    """Only [DONE] and message_stop wait for the outcome; everything before them goes out at once."""
    relayed = relay(Endpoint.CHAT, Dialect.ANTHROPIC).feed(anthropic_stream(ANSWER, whole_pieces))
    assert relayed.held == b"data: [DONE]\n\n"
    relayed = relay(Endpoint.MESSAGES, Dialect.OPENAI).feed(openai_stream(ANSWER, whole_pieces))
    assert relayed.held == b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def test_the_meter_learns_the_answer():
    """Finish, native finish, ids, model and bytes of output (text, thinking, arguments) are metered."""
    opened = relay(Endpoint.CHAT, Dialect.ANTHROPIC)
    opened.feed(anthropic_stream(ANSWER, whole_pieces))
    meter = opened.meter
    assert (meter.finish_reason, meter.native_finish) == ("tool_calls", "tool_use")
    assert (meter.upstream_id, meter.upstream_model) == ("msg_up", "claude-x")
    assert meter.output_bytes == len("hm") + len("Hello") + len('{"a": 1}')
    assert opened.terminal
    streamed = meter.semantic_events
    whole = relay(Endpoint.CHAT, Dialect.ANTHROPIC)
    whole.whole(anthropic_whole(ANSWER))
    assert (whole.meter.usage, whole.meter.finish_reason) == (meter.usage, meter.finish_reason)
    assert streamed > 0


def test_openings_and_pings_are_not_semantic():
    """message_start, an empty block's start and pings neither commit the 200 nor feed the idle timer."""
    opened = relay(Endpoint.CHAT, Dialect.ANTHROPIC)
    start = event("message_start", message={"id": "m", "usage": {"input_tokens": 1}})
    block = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    assert not opened.feed(start + event("ping") + block + b": comment\n\n").semantic
    delta = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"})
    assert opened.feed(delta).semantic
    opened = relay(Endpoint.MESSAGES, Dialect.OPENAI)
    opening = {"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    assert not opened.feed(b"data: " + json.dumps(opening).encode() + b"\n\n").semantic


def test_an_error_of_anthropics_in_the_stream():
    """Anthropic's error event becomes OpenAI's, held, with the status it would have had; no [DONE] follows."""
    opened = relay(Endpoint.CHAT, Dialect.ANTHROPIC)
    stream = event("message_start", message={"id": "m"}) + event(
        "error", error={"type": "overloaded_error", "message": "Overloaded"}
    )
    relayed = opened.feed(stream + event("message_stop"))
    assert json.loads(relayed.held.removeprefix(b"data: "))["error"]["message"] == "Overloaded"
    assert isinstance(opened.failure, ProviderAnswered)
    assert opened.failure.status == 529
    assert not opened.terminal
    assert opened.end() == (b"", b"", False)


@pytest.mark.parametrize(
    "frame", [b'data: {"error":{"message":"no","code":503}}\n\n', b'event: error\ndata: {"message":"no"}\n\n']
)
def test_an_error_of_openais_in_the_stream(frame: bytes):
    """An error chunk, or an event of that name, becomes Anthropic's error event, held."""
    opened = relay(Endpoint.MESSAGES, Dialect.OPENAI)
    relayed = opened.feed(frame + b"data: [DONE]\n\n")
    assert relayed.held.startswith(b"event: error\ndata: ")
    assert b'"message":"no"' in relayed.held
    assert b"message_stop" not in relayed.held
    assert opened.failure is not None


@pytest.mark.parametrize("tail", [b"data: [DONE]", b"data: [DONE]\n", b'data: {"error":{"message":"no"}}'])
def test_a_terminal_event_without_its_blank_line_counts(tail: bytes):
    """At the end of the connection only the blank line may be missing."""
    opened = relay(Endpoint.MESSAGES, Dialect.OPENAI)
    opened.feed(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n' + tail)
    assert opened.end().held.startswith(b"event: error" if b"error" in tail else b"event: message_stop")


def test_a_finish_without_done_is_truncated():
    """The provider's own terminal event is [DONE]; a finish_reason is not one, and none is invented."""
    opened = relay(Endpoint.MESSAGES, Dialect.OPENAI)
    relayed = opened.feed(b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n')
    assert b"message_delta" not in relayed.data
    with pytest.raises(UpstreamTruncated):
        opened.end()


@pytest.mark.parametrize(
    "broken", [b"data: {oops}\n\n", b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n', b"data: 5\n\n"]
)
def test_a_broken_frame_is_invalid(broken: bytes):
    """A frame that is not a JSON object, half of a surrogate pair included, is UpstreamInvalid and not a crash."""
    with pytest.raises(UpstreamInvalid):
        relay(Endpoint.MESSAGES, Dialect.OPENAI).feed(broken)


def test_fail_and_refused_speak_the_callers_dialect():
    """Our own error after the commit point is the door's event; a provider's error body is translated."""
    chat, messages = relay(Endpoint.CHAT, Dialect.ANTHROPIC), relay(Endpoint.MESSAGES, Dialect.OPENAI)
    assert json.loads(chat.fail(IdleTimeout("quiet")).removeprefix(b"data: "))["error"]["code"] == "idle_timeout"
    assert messages.fail(IdleTimeout("quiet")).startswith(b"event: error\n")
    refused = chat.refused(429, b'{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}')
    assert json.loads(refused)["error"]["message"] == "slow down"
    refused = messages.refused(429, b'{"error":{"message":"slow down","type":"rate_limit"}}')
    assert json.loads(refused)["error"] == {
        "type": "rate_limit_error",
        "message": "slow down",
        "code": "rate_limit",
        "upstream_status": 429,
    }


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"choices":[]}', b'{"choices":[{"message":{"content":"\\ud800"}}]}']
)
def test_a_whole_that_is_no_answer_is_invalid(body: bytes):
    """A 200 that cannot be understood is UpstreamInvalid."""
    with pytest.raises(UpstreamInvalid):
        relay(Endpoint.MESSAGES, Dialect.OPENAI).whole(body)


def test_a_whole_that_is_an_error_says_so():
    """An error in a 200 body is encoded for the caller and sets `failure`."""
    opened = relay(Endpoint.MESSAGES, Dialect.OPENAI)
    body = json.loads(opened.whole(b'{"error":{"message":"upstream broke","code":502}}'))
    assert (body["type"], body["error"]["message"]) == ("error", "upstream broke")
    assert opened.failure is not None
    assert not opened.terminal


def test_the_stop_that_fired_is_shown():
    """Anthropic says which of the caller's stops it met; OpenAI's shape has an extra field for it."""
    body = {"type": "message", "content": [], "stop_reason": "stop_sequence", "stop_sequence": "END"}
    answer = json.loads(relay(Endpoint.CHAT, Dialect.ANTHROPIC).whole(json.dumps(body).encode()))
    choice = answer["choices"][0]
    assert (choice["finish_reason"], choice["native_stop_sequence"]) == ("stop", "END")
    assert choice["message"]["content"] == ""


@pytest.mark.parametrize("depth", range(100, 2000, 60))
def test_deep_nesting_is_an_error_and_not_a_crash(depth: int):
    """However deep the JSON on either side, it is translated or refused, never a RecursionError."""
    deep = '{"a":' * depth + "1" + "}" * depth
    tools = '[{"function":{"name":"f","parameters":' + deep + "}}]"
    request = '{"messages":[{"role":"user","content":"q"}],"tools":' + tools + "}"
    with contextlib.suppress(BadRequest):
        translate_request(Endpoint.CHAT, Dialect.ANTHROPIC, request.encode(), model="m", max_output_tokens=9)
    message = '{"type":"message","content":[{"type":"tool_use","id":"t","name":"f","input":' + deep + "}]}"
    with contextlib.suppress(UpstreamInvalid):
        relay(Endpoint.CHAT, Dialect.ANTHROPIC).whole(message.encode())
    start = 'data: {"type":"message_start","message":{"usage":' + deep + "}}\n\n"
    with contextlib.suppress(UpstreamInvalid):
        relay(Endpoint.CHAT, Dialect.ANTHROPIC).feed(start.encode())


def test_openai_answers_have_its_shape():
    """The ids, the object and the order of fields that clients look at; thinking in both its fields."""
    body = json.loads(relay(Endpoint.CHAT, Dialect.ANTHROPIC).whole(anthropic_whole(ANSWER)))
    assert (body["id"], body["object"], body["created"], body["model"]) == (
        "chatcmpl-0190ab",
        "chat.completion",
        7,
        "p/m",
    )
    message = body["choices"][0]["message"]
    assert message["reasoning_content"] == "hm"
    assert message["securellm_thinking"] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig", "index": 0, "text_before": 0, "tool_calls_before": 0}
    ]
    assert message["tool_calls"] == [
        {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    ]


def test_anthropic_answers_have_its_shape():
    """The message's id, type, role and model are ours; thinking without a seal has an empty one."""
    body = json.loads(relay(Endpoint.MESSAGES, Dialect.OPENAI).whole(openai_whole(ANSWER)))
    assert (body["id"], body["type"], body["role"], body["model"]) == ("msg_0190ab", "message", "assistant", "p/m")
    assert body["content"][0] == {"type": "thinking", "thinking": "hm", "signature": ""}
    assert body["stop_sequence"] is None


def test_mistrals_parts_are_read():
    """Content as an array of parts, thinking among them, is thinking and text."""
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "so"}]}, {"type": "text", "text": "4"}]
    body = {"choices": [{"message": {"content": parts}, "finish_reason": "stop"}]}
    answer = json.loads(relay(Endpoint.MESSAGES, Dialect.OPENAI).whole(json.dumps(body).encode()))
    assert [block["type"] for block in answer["content"]] == ["thinking", "text"]


def test_reasoning_details_are_read():
    """OpenRouter's details are thinking where it sends nothing else."""
    message = {"content": "4", "reasoning_details": [{"type": "reasoning.text", "text": "so"}]}
    body = {"choices": [{"message": message, "finish_reason": "stop"}]}
    answer = json.loads(relay(Endpoint.MESSAGES, Dialect.OPENAI).whole(json.dumps(body).encode()))
    assert answer["content"][0]["thinking"] == "so"


def test_blocks_of_anthropics_servers_are_passed_over():
    """A block that has no words in the other dialect leaves the rest of the answer whole."""
    content = [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, {"type": "text", "text": "a"}]
    body = json.dumps({"type": "message", "content": content, "stop_reason": "end_turn"}).encode()
    answer = json.loads(relay(Endpoint.CHAT, Dialect.ANTHROPIC).whole(body))
    assert answer["choices"][0]["message"]["content"] == "a"


def test_open_relay_opens_it():
    """The choice of relay by dialects leads here."""
    opened = open_relay(
        Endpoint.CHAT,
        Dialect.OLLAMA,
        stream=True,
        show_usage=False,
        injected_usage=False,
        request_id="r",
        model="p/m",
        created_s=1,
        num_ctx=4096,
    )
    assert isinstance(opened, TranslatingRelay)


@pytest.mark.parametrize("door", [Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS, Endpoint.RESPONSES, Endpoint.COUNT_TOKENS])
@pytest.mark.parametrize("dialect", [Dialect.ANTHROPIC, Dialect.OPENAI, Dialect.OLLAMA])
def test_other_doors_do_not_cross(door: Endpoint, dialect: Dialect):
    """Only chat completions and messages are translated."""
    with pytest.raises(UnsupportedEndpoint):
        translate_request(door, dialect, b"{}", model="m", max_output_tokens=1)
    with pytest.raises(UnsupportedEndpoint):
        relay(door, dialect)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"messages":[{"role":"user","content":"\\ud83d"}]}', b"[" * 5000, b'{"messages":"\xff"}'],
)
def test_a_body_that_cannot_be_read_is_a_bad_request(body: bytes):
    """Malformed, not an object, half of a surrogate pair, too deep, not UTF-8: each is 400 and not a crash."""
    with pytest.raises(BadRequest):
        translate_request(Endpoint.CHAT, Dialect.ANTHROPIC, body, model="m", max_output_tokens=1)


def test_half_of_a_surrogate_pair_inside_arguments():
    """Arguments are JSON in JSON; a broken escape inside them is named with its path."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "\\ud83d"}'}}
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}]
    with pytest.raises(BadRequest) as caught:
        translate_request(
            Endpoint.CHAT,
            Dialect.ANTHROPIC,
            json.dumps({"messages": messages}).encode(),
            model="m",
            max_output_tokens=1,
        )
    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"


def test_only_the_first_choice_counts():
    """One answer was asked for; a second choice that a server adds all the same is not mixed into it."""
    choices = [{"index": 1, "delta": {"content": "other"}}, {"index": 0, "delta": {"content": "mine"}}]
    relayed = relay(Endpoint.MESSAGES, Dialect.OPENAI).feed(
        b"data: " + json.dumps({"choices": choices}).encode() + b"\n\n"
    )
    assert b"mine" in relayed.data
    assert b"other" not in relayed.data
