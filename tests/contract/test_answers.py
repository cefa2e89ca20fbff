"""Every front door in front of every provider it can reach: good answers, whole and streamed."""

import json
import re

import pytest
import trio

from rig import pairs
from rig.pairs import PAIRS, STREAMED, Pair
from rig.raw_client import events_of
from rig.speech import INPUT_TOKENS, MODEL, OUTPUT_TOKENS, Tool
from securellm.chat import Status

_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_SEPARATORS = "a\u2028b\u2029c\u0085d\ve\ff\x1cg é 漢 🙂"
_CALLS = (Tool("look", '{"at":"é\u2028x","n":[1,2]}'), Tool("wait", "{}"))
_WITH_TOOLS = tuple(pair for pair in STREAMED if pair.door.name in {"chat", "messages", "responses"})


@pytest.mark.parametrize("pair", PAIRS, ids=str)
async def test_whole(gateway, provider, pair: Pair):
    """A whole answer arrives with its text, its headers and one settlement that knows the provider's usage."""
    provider.enqueue(*pair.answers("Hello"))
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model))
        assert response.status == 200, response
        assert response.cut is None
        assert (response.header("content-type") or "").startswith("application/json")
        assert pair.door.text_of_whole(response.json()) == pair.door.text_of_whole(_own(pair))
        _assert_headers(pair, response)
        (asked,) = provider.asked
        assert asked.path == pair.path
        settlement = await gateway.only_settlement()
        _assert_settled(pair, settlement, response, stream=False)


@pytest.mark.parametrize("pair", STREAMED, ids=str)
async def test_streamed(gateway, provider, pair: Pair):
    """A streamed answer arrives with its text, ends in its terminal event once, and is settled once."""
    provider.enqueue(*pair.answers("Hello", stream_it=True))
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=True))
        assert (response.status, response.cut) == (200, None), response
        assert (response.header("content-type") or "").startswith("text/event-stream")
        assert pair.door.text_of_stream is not None
        assert pair.door.text_of_stream(response.body) == "Hello"
        assert response.body.count(pair.door.terminal) == 1
        _assert_headers(pair, response)
        settlement = await gateway.only_settlement()
        _assert_settled(pair, settlement, response, stream=True)
        assert settlement.first_token_ms is not None


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("pair", _WITH_TOOLS, ids=str)
async def test_tool_calls(gateway, provider, pair: Pair, stream: bool):
    """Parallel tool calls, one without arguments, arrive complete, in order and with distinct ids."""
    provider.enqueue(*pair.answers("Hello", _CALLS, stream_it=stream))
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=stream))
        assert response.status == 200, response
        calls = _calls_of_stream(pair, response.body) if stream else _calls_of_whole(pair, response.json())
        assert [(name, json.loads(arguments)) for _, name, arguments in calls] == [
            (tool.name, json.loads(tool.arguments)) for tool in _CALLS
        ]
        assert len({identity for identity, _, _ in calls}) == len(_CALLS)
        settlement = await gateway.only_settlement()
        assert settlement.outcome.status is Status.SUCCESS
        if pair.door.name != "responses":
            assert settlement.finish_reason == "tool_calls"


@pytest.mark.parametrize("pair", STREAMED, ids=str)
async def test_unicode_line_separators(gateway, provider, pair: Pair):
    """Characters that Python's text tools take for line ends pass through streams, cut at every byte (guarantee 55)."""
    from rig import script

    assert pair.speech.events is not None
    data = b"".join(pair.speech.events((_SEPARATORS,)))
    provider.enqueue(*script.stream(script.cut(data, *range(1, len(data))), pair.speech.kind))
    with trio.fail_after(20):
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=True))
        assert pair.door.text_of_stream is not None
        assert pair.door.text_of_stream(response.body) == _SEPARATORS
        assert (await gateway.only_settlement()).outcome.status is Status.SUCCESS


@pytest.mark.parametrize("pair", [pair for pair in STREAMED if not pair.same_dialect], ids=str)
async def test_streams_never_invent_an_answer(gateway, provider, pair: Pair):
    """A whole 200 where a stream was asked for is an error with a real status, not an empty stream."""
    from rig import script

    provider.enqueue(*script.answer(200, b"this is neither a stream nor JSON", {"content-type": "text/plain"}))
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=True))
        assert response.status == 502, response
        pair.door.error_of(response)
        assert (await gateway.only_settlement()).outcome.status is not Status.SUCCESS


def _own(pair: Pair) -> object:
    """What the same-dialect provider of this door would have said."""
    same = next(other for other in PAIRS if other.door is pair.door and other.same_dialect)
    return same.speech.whole("Hello")


def _assert_headers(pair: Pair, response) -> None:
    assert _UUID7.fullmatch(response.header("x-request-id") or ""), response.headers
    if pair.door.dialect == "anthropic":
        assert response.header("request-id") == response.header("x-request-id")
    assert response.header("x-securellm-provider") == pair.provider
    assert response.header("x-securellm-model") in {MODEL, pair.model}
    assert response.header("x-securellm-attempts") == "1"
    assert response.header("x-securellm-error-source") is None


def _assert_settled(pair: Pair, settlement, response, *, stream: bool) -> None:
    assert settlement.request_id == response.header("x-request-id")
    assert settlement.outcome.status is Status.SUCCESS, settlement
    assert settlement.outcome.http_status == 200
    assert (settlement.provider, settlement.model) == (pair.provider, MODEL)
    assert settlement.requested_model == pair.model
    assert settlement.stream is stream
    assert [attempt.number for attempt in settlement.attempts] == [1]
    assert settlement.bytes_out == len(response.body)
    if pair.speech.name == "count_tokens":
        return  # a count of tokens uses none
    assert settlement.usage is not None
    assert settlement.usage.prompt_tokens == INPUT_TOKENS
    assert settlement.usage.completion_tokens == (0 if pair.speech.name == "embeddings" else OUTPUT_TOKENS)
    assert settlement.usage_source == "reported"


def _calls_of_whole(pair: Pair, body) -> list[tuple[str, str, str]]:
    if pair.door.name == "chat":
        calls = body["choices"][0]["message"]["tool_calls"]
        return [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls]
    if pair.door.name == "messages":
        blocks = [block for block in body["content"] if block["type"] == "tool_use"]
        return [(block["id"], block["name"], json.dumps(block["input"])) for block in blocks]
    items = [item for item in body["output"] if item["type"] == "function_call"]
    return [(item["call_id"], item["name"], item["arguments"]) for item in items]


def _calls_of_stream(pair: Pair, body: bytes) -> list[tuple[str, str, str]]:
    values = [json.loads(data) for _, data in events_of(body) if data != "[DONE]"]
    if pair.door.name == "responses":
        return _calls_of_whole(pair, values[-1]["response"])
    calls: dict[int, list[str]] = {}
    for value in values:
        if pair.door.name == "chat":
            for choice in value.get("choices", []):
                for call in choice["delta"].get("tool_calls", []):
                    entry = calls.setdefault(call["index"], ["", "", ""])
                    entry[0] = call.get("id") or entry[0]
                    entry[1] = call["function"].get("name") or entry[1]
                    entry[2] += call["function"].get("arguments") or ""
        elif value["type"] == "content_block_start" and value["content_block"]["type"] == "tool_use":
            calls[value["index"]] = [value["content_block"]["id"], value["content_block"]["name"], ""]
        elif value["type"] == "content_block_delta" and value["delta"]["type"] == "input_json_delta":
            calls[value["index"]][2] += value["delta"]["partial_json"]
    if pair.door.name == "chat":
        assert sorted(calls) == list(range(len(calls))), calls
    return [(identity, name, arguments or "{}") for _, (identity, name, arguments) in sorted(calls.items())]


def test_the_table_is_used():
    """Every pair of the table is a case of this suite, streamed where its provider streams."""
    assert {str(pair) for pair in PAIRS if pair in STREAMED or pair.speech.events is None} == set(map(str, pairs.PAIRS))
