"""A whole answer and its stream are the same answer, whichever of them was kept and whichever is asked for."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rig.accumulate import accumulate_chat, accumulate_messages
from rig.replay import CORPUS
from rig.sdk_accumulators import accumulate_anthropic, accumulate_openai
from securellm.cache.gather import CannotGather, gather
from securellm.cache.keeping import is_kept
from securellm.cache.replay import can_replay, replay
from securellm.chat import Endpoint, Usage

USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":"\\u00e9"}'}}
CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o",
    "system_fingerprint": "fp",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Olá\u2028", "refusal": None, "annotations": []},
            "logprobs": {
                "content": [{"token": "O", "logprob": -0.1, "bytes": [79], "top_logprobs": []}],
                "refusal": None,
            },
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}
TOOLS = {
    **CHAT,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "call_2"}]},
            "logprobs": None,
            "finish_reason": "tool_calls",
        },
        {"index": 1, "message": {"role": "assistant", "content": "x"}, "logprobs": None, "finish_reason": "length"},
    ],
}
TEXT = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "text": "abc", "logprobs": None, "finish_reason": "stop"}],
    "usage": USAGE,
}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "eA=="},
        {"type": "text", "text": "Olá", "citations": [{"type": "char_location", "cited_text": "x"}]},
        {"type": "text", "text": ""},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": [1, {"b": None}]}},
        {"type": "tool_use", "id": "toolu_2", "name": "g", "input": {}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 7, "service_tier": "standard"},
}
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "m",
    "output": [
        {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "Olá", "annotations": [{"type": "file_path"}], "logprobs": []},
                {"type": "refusal", "refusal": "no"},
            ],
        },
        {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"},
    ],
    "usage": {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12},
}
WHOLES = {
    "chat": (Endpoint.CHAT, CHAT),
    "calls": (Endpoint.CHAT, TOOLS),
    "text": (Endpoint.COMPLETIONS, TEXT),
    "message": (Endpoint.MESSAGES, MESSAGE),
    "response": (Endpoint.RESPONSES, RESPONSE),
}


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("name", WHOLES)
def test_what_is_replayed_gathers_to_the_same(name: str) -> None:
    """Whole to stream to whole is the identity, field by field."""
    endpoint, whole = WHOLES[name]
    stream = replay(endpoint, encoded(whole), include_usage=True)
    assert json.loads(gather(endpoint, stream, None)) == whole


def test_the_official_sdks_read_a_replayed_stream() -> None:
    """Their own accumulators put the same answer together."""
    read = accumulate_openai(replay(Endpoint.CHAT, encoded(CHAT), include_usage=True))
    assert read["choices"][0]["message"]["content"] == "Olá\u2028"
    assert read["usage"] == USAGE
    calls = accumulate_openai(replay(Endpoint.CHAT, encoded(TOOLS), include_usage=False))["choices"][0]["message"]
    assert [call["function"]["arguments"] for call in calls["tool_calls"]] == ['{"a":"\\u00e9"}'] * 2
    no_citations = [{name: item for name, item in block.items() if name != "citations"} for block in MESSAGE["content"]]
    plain = {**MESSAGE, "content": [block for block in no_citations if block["type"] != "redacted_thinking"]}
    read = accumulate_anthropic(replay(Endpoint.MESSAGES, encoded(plain), include_usage=False))
    assert read["content"] == plain["content"]
    assert read["usage"]["output_tokens"] == 7


def test_usage_is_shown_to_who_asks_for_it() -> None:
    """With include_usage every chunk has the field and the last one the figures; without, none has it."""
    shown = _chunks(replay(Endpoint.CHAT, encoded(CHAT), include_usage=True))
    assert [chunk["usage"] for chunk in shown] == [None, None, USAGE]
    assert shown[-1]["choices"] == []
    assert all("usage" not in chunk for chunk in _chunks(replay(Endpoint.CHAT, encoded(CHAT), include_usage=False)))


def test_usage_that_the_stream_did_not_show_is_put_in() -> None:
    """A stream without figures becomes a whole answer that has them."""
    stream = replay(Endpoint.CHAT, encoded(CHAT), include_usage=False)
    usage = json.loads(gather(Endpoint.CHAT, stream, Usage(input_tokens=5, output_tokens=7)))["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (5, 7, 12)


def test_events_of_a_response_are_numbered_and_nest() -> None:
    """sequence_number counts up from 0; every part and item that is added is done, and the last event has all of it."""
    stream = replay(Endpoint.RESPONSES, encoded(RESPONSE), include_usage=False)
    events = [json.loads(line[6:]) for line in stream.decode().split("\n") if line.startswith("data: ")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    for kind in ("output_item", "content_part", "reasoning_summary_part"):
        assert kinds.count(f"response.{kind}.added") == kinds.count(f"response.{kind}.done") > 0
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert events[-1]["response"] == RESPONSE


@pytest.mark.parametrize("name", WHOLES)
def test_a_stream_that_was_cut_is_not_gathered(name: str) -> None:
    """Whatever event is missing at its end, it is no complete answer."""
    endpoint, whole = WHOLES[name]
    frames = replay(endpoint, encoded(whole), include_usage=True).split(b"\n\n")[:-1]
    for length in range(len(frames)):
        with pytest.raises(CannotGather):
            gather(endpoint, b"".join(frame + b"\n\n" for frame in frames[:length]), None)


@pytest.mark.parametrize(
    ("endpoint", "frame"),
    [
        (Endpoint.CHAT, b'data: {"error":{"message":"x"}}\n\n'),
        (Endpoint.CHAT, b'data: {"choices":[{"index":0,"delta":{"video":"x"}}]}\n\n'),
        (Endpoint.CHAT, b'data: {"choices":[{"index":9,"delta":{"content":"x"}}]}\n\n'),
        (Endpoint.CHAT, b"data: [1]\n\n"),
        (Endpoint.CHAT, b"data: {\n\n"),
        (Endpoint.MESSAGES, b'data: {"type":"error","error":{"type":"overloaded_error"}}\n\n'),
        (Endpoint.MESSAGES, b'data: {"type":"content_block_delta","index":0,"delta":{"type":"new_delta"}}\n\n'),
        (Endpoint.MESSAGES, b'data: {"type":"content_block_start","index":7,"content_block":{"type":"text"}}\n\n'),
    ],
)
def test_what_has_no_certain_place_is_not_gathered(endpoint: Endpoint, frame: bytes) -> None:
    """An error, a field or an event that is not known, a choice that has not ended."""
    whole = CHAT if endpoint is Endpoint.CHAT else MESSAGE
    frames = replay(endpoint, encoded(whole), include_usage=True).split(b"\n\n")[:-1]
    with pytest.raises(CannotGather):
        gather(endpoint, b"".join(part + b"\n\n" for part in frames[:1]) + frame + _rest(frames), None)


def _rest(frames: list[bytes]) -> bytes:
    return b"".join(part + b"\n\n" for part in frames[1:])


@given(pieces=st.lists(st.text(max_size=5), max_size=6), arguments=st.lists(st.text(max_size=4), max_size=4))
def test_pieces_of_chat_are_joined(pieces: list[str], arguments: list[str]) -> None:
    """However the provider cuts text and arguments, the whole is what a client would put together."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": piece} for piece in pieces]
    deltas += [
        {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]}
    ]
    deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in arguments]
    chunks = [{"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    stream = b"".join(b"data: " + encoded(chunk) + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    message = json.loads(gather(Endpoint.CHAT, stream, None))["choices"][0]["message"]
    assert message["content"] == ("".join(pieces) if pieces else None)
    assert message["tool_calls"][0]["function"]["arguments"] == "".join(arguments)
    assert message["tool_calls"] == accumulate_chat(stream)["choices"][0]["message"]["tool_calls"] or not pieces


@pytest.mark.parametrize(
    ("endpoint", "answer", "tools", "kept"),
    [
        (Endpoint.CHAT, CHAT, False, True),
        (Endpoint.CHAT, TOOLS, False, False),
        (Endpoint.CHAT, TOOLS, True, True),
        (Endpoint.CHAT, {**CHAT, "error": {"message": "x"}}, True, False),
        (Endpoint.CHAT, {**CHAT, "choices": []}, True, False),
        (Endpoint.CHAT, {**CHAT, "choices": [{**CHAT["choices"][0], "finish_reason": "content_filter"}]}, True, False),
        (Endpoint.CHAT, {**CHAT, "choices": [{**CHAT["choices"][0], "finish_reason": None}]}, True, False),
        (Endpoint.COMPLETIONS, TEXT, False, True),
        (Endpoint.MESSAGES, MESSAGE, False, False),
        (Endpoint.MESSAGES, MESSAGE, True, True),
        (Endpoint.MESSAGES, {**MESSAGE, "stop_reason": "pause_turn"}, True, False),
        (Endpoint.MESSAGES, {**MESSAGE, "stop_reason": "refusal"}, True, False),
        (Endpoint.MESSAGES, {"type": "error", "error": {"type": "x"}}, True, False),
        (Endpoint.RESPONSES, RESPONSE, False, False),
        (Endpoint.RESPONSES, RESPONSE, True, True),
        (Endpoint.RESPONSES, {**RESPONSE, "status": "incomplete"}, True, False),
        (Endpoint.EMBEDDINGS, {"object": "list", "data": [{"embedding": [0.1]}]}, False, True),
        (Endpoint.EMBEDDINGS, {"object": "list", "data": []}, False, False),
        (Endpoint.CHAT, [], True, False),
        (Endpoint.CHAT, "text", True, False),
        (Endpoint.COUNT_TOKENS, {"input_tokens": 3}, True, False),
    ],
)
def test_what_is_kept(endpoint: Endpoint, answer: Any, tools: bool, kept: bool) -> None:
    """Complete answers that ended as answers do; calls of tools only where that is set."""
    assert is_kept(endpoint, encoded(answer), tools=tools) is kept


def test_what_is_no_json_is_not_kept() -> None:
    """Nor is what is nested too deeply to be read."""
    assert not is_kept(Endpoint.CHAT, b"", tools=True)
    assert not is_kept(Endpoint.CHAT, b"[" * 100_000, tools=True)


@pytest.mark.corpus
def test_recorded_streams_survive_a_round_trip() -> None:
    """What is gathered from a recorded stream and replayed reads as the recording does; most can be gathered."""
    gathered = left = 0
    for path in sorted(CORPUS.rglob("*.sse")):
        stream = path.read_bytes()
        endpoint = _endpoint_of(stream)
        if endpoint is None:
            continue
        try:
            whole = gather(endpoint, stream, None)
        except CannotGather:
            left += 1
            continue
        gathered += 1
        again = replay(endpoint, whole, include_usage=True)
        assert json.loads(gather(endpoint, again, None)) == json.loads(whole), path
        if endpoint is Endpoint.MESSAGES:
            assert accumulate_messages(again)["content"] == accumulate_messages(stream)["content"], path
        elif endpoint is Endpoint.CHAT:
            assert _said(accumulate_chat(again)) == _said(accumulate_chat(stream)), path
    print(f"{gathered} gathered, {left} left alone")
    assert gathered > left


@pytest.mark.corpus
def test_recorded_answers_survive_a_round_trip() -> None:
    """Nearly all recorded whole answers can be replayed; clients then put the same text and calls together."""
    tried = replayed = 0
    for path in sorted(CORPUS.rglob("response.json")):
        body = path.read_bytes()
        for endpoint in (Endpoint.CHAT, Endpoint.MESSAGES, Endpoint.RESPONSES):
            if is_kept(endpoint, body, tools=True):
                tried += 1
                if not can_replay(endpoint, body):
                    continue
                replayed += 1
                stream = replay(endpoint, body, include_usage=False)
                if endpoint is Endpoint.CHAT:
                    assert _said(accumulate_chat(stream)) == _said(json.loads(body)), path
                elif endpoint is Endpoint.MESSAGES:
                    assert accumulate_messages(stream)["content"] == json.loads(body)["content"], path
    print(f"{replayed} of {tried} answers")
    assert replayed > 0.9 * tried > 50


def test_what_has_no_place_in_a_stream_is_not_replayed() -> None:
    """An answer with a field that no stream of its dialect carries is served whole only."""
    assert all(can_replay(endpoint, encoded(whole)) for endpoint, whole in WHOLES.values())
    strange = {**CHAT["choices"][0], "message": {**CHAT["choices"][0]["message"], "hologram": {"x": 1}}}
    assert not can_replay(Endpoint.CHAT, encoded({**CHAT, "choices": [strange]}))
    assert not can_replay(Endpoint.CHAT, encoded({**CHAT, "choices": [{"index": 0, "finish_reason": "stop"}]}))
    assert not can_replay(Endpoint.EMBEDDINGS, b'{"data":[1]}')


def _said(completion: dict[str, Any]) -> list[Any]:
    """Finish and message of each choice; some providers number calls in whole answers, too."""
    said = []
    for choice in completion["choices"]:
        message = {name: value for name, value in choice["message"].items() if value}
        for call in message.get("tool_calls", []):
            call.pop("index", None)
            call.setdefault("type", "function")
        said.append((choice["finish_reason"], message))
    return said


def _endpoint_of(stream: bytes) -> Endpoint | None:
    if b'"chat.completion.chunk"' in stream:
        return Endpoint.CHAT
    if b'"message_start"' in stream:
        return Endpoint.MESSAGES
    return Endpoint.RESPONSES if b'"response.created"' in stream else None


def _chunks(stream: bytes) -> list[dict[str, Any]]:
    lines = [line[6:] for line in stream.split(b"\n") if line.startswith(b"data: {")]
    return [json.loads(line) for line in lines]
