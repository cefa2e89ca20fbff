"""Providers that do not keep to the script: other framings, other content types, things that are not HTTP at all."""

import json

import pytest
import trio

from rig import doors, script, speech
from rig.pairs import FAMILIES, PAIRS, Pair
from securellm.chat import Status


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "cut"])
@pytest.mark.parametrize("pair", FAMILIES, ids=str)
async def test_streams_that_end_with_the_connection(gateway, provider, pair: Pair, complete: bool):
    """A stream without chunks ends with its connection: whole if its terminal event came, truncated if not."""
    assert pair.speech.events is not None
    events = pair.speech.events(("Hel", "lo"))
    if not complete:
        events = events[: next(number for number, event in enumerate(events) if b"lo" in event[-90:]) + 1][:-1]
        events = events or pair.speech.events(("Hel", "lo"))[:1]
    head = script.head(200, {"content-type": script.HEADERS_OF_STREAMS[pair.speech.kind], "connection": "close"})
    provider.enqueue(head, *(script.raw(event) for event in events), script.fin())
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=True))
        settlement = await gateway.only_settlement()
        if complete:
            assert (response.status, response.cut) == (200, None)
            assert pair.door.text_of_stream is not None
            assert pair.door.text_of_stream(response.body) == "Hello"
            assert settlement.outcome.status is Status.SUCCESS
        else:
            assert settlement.outcome.status is Status.TRUNCATED
            assert pair.door.terminal not in response.body


@pytest.mark.parametrize(
    "pair", [pair for pair in PAIRS if pair.provider in {"openai", "anthropic", "ollama"}], ids=str
)
async def test_whole_answers_that_end_with_the_connection(gateway, provider, pair: Pair):
    """A whole body without a length, closed by the connection, is an answer."""
    body = json.dumps(pair.speech.whole("Hello")).encode()
    provider.enqueue(script.head(200, {"content-type": "application/json"}), script.raw(body), script.fin())
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model))
        assert response.status == 200, response
        if pair.same_dialect:
            assert response.body == body
        assert (await gateway.only_settlement()).outcome.status is Status.SUCCESS


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: application/json\r\n\r\nZZ\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
    ],
    ids=["ssh", "tls", "no status", "two lengths", "no chunk", "endless head"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_is_not_http(gateway, provider, garbage: bytes, stream: bool):
    """Bytes that are no HTTP answer are 502 in the door's envelope, once; the provider's connection is closed."""
    provider.enqueue(script.raw(garbage), script.fin())
    with trio.fail_after(10):
        response = await gateway.ask(doors.CHAT, doors.CHAT.body("openai/m1", stream=stream))
        assert response.status == 502, response
        assert doors.CHAT.error_of(response)["code"] in {"upstream_invalid", "upstream_truncated"}
        assert (await gateway.only_settlement()).outcome.status in {Status.FAILED, Status.TRUNCATED}
        assert len(provider.asked) == 1
        await provider.asked[0].connection.closed.wait()


async def test_informational_answers_are_passed_over(gateway, provider):
    """A provider that sends 100 and 103 before its answer is understood."""
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    provider.enqueue(script.raw(early), *script.answer(200, speech.CHAT.whole("Hello")))
    with trio.fail_after(10):
        response = await gateway.ask(doors.CHAT, doors.CHAT.body("openai/m1"))
        assert response.status == 200, response


@pytest.mark.parametrize("content_type", ["text/event-stream;charset=UTF-8", "TEXT/EVENT-STREAM", "text/plain", None])
async def test_streams_under_other_content_types(gateway, provider, content_type: str | None):
    """A stream is relayed as one whatever its provider calls it, short of JSON."""
    headers = {"transfer-encoding": "chunked", **({"content-type": content_type} if content_type else {})}
    events = speech.CHAT.events(("Hel", "lo"))
    provider.enqueue(script.head(200, headers), *map(script.chunk, events), script.end_chunks())
    with trio.fail_after(10):
        response = await gateway.ask(doors.CHAT, doors.CHAT.body("openai/m1", stream=True))
        assert response.status == 200, response
        assert doors.CHAT.text_of_stream is not None
        assert doors.CHAT.text_of_stream(response.body) == "Hello"
        assert (await gateway.only_settlement()).outcome.status is Status.SUCCESS


async def test_a_whole_answer_where_a_stream_was_asked_for(gateway, provider):
    """In the same dialect a provider that ignores `stream` gives its caller the whole body, as it would directly."""
    body = json.dumps(speech.CHAT.whole("Hello")).encode()
    provider.enqueue(*script.answer(200, body))
    with trio.fail_after(10):
        response = await gateway.ask(doors.CHAT, doors.CHAT.body("openai/m1", stream=True))
        assert (response.status, response.body) == (200, body)
        assert (response.header("content-type") or "").startswith("application/json")
        settlement = await gateway.only_settlement()
        assert settlement.outcome.status is Status.SUCCESS
        assert settlement.usage is not None


@pytest.mark.parametrize("pair", FAMILIES, ids=str)
async def test_the_terminal_event_ends_the_answer(gateway, provider, pair: Pair):
    """A provider that keeps its connection open after the terminal event does not keep the caller waiting."""
    assert pair.speech.events is not None
    provider.enqueue(*script.stream(pair.speech.events(("Hello",)), pair.speech.kind, ended=False), script.never())
    with trio.fail_after(10):
        started_s = trio.current_time()
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=True))
        assert trio.current_time() - started_s < 5
        assert (response.status, response.cut) == (200, None)
        assert response.body.count(pair.door.terminal) == 1
        assert (await gateway.only_settlement()).outcome.status is Status.SUCCESS
        await provider.asked[0].connection.closed.wait()


@pytest.mark.parametrize("pair", [pair for pair in FAMILIES if not pair.same_dialect], ids=str)
async def test_nothing_after_the_terminal_event_is_shown(gateway, provider, pair: Pair):
    """Words after the terminal event are no part of a translated answer."""
    assert pair.speech.events is not None
    events = pair.speech.events(("Hello",))
    late = next(event for event in pair.speech.events(("too late",)) if b"too late" in event)
    provider.enqueue(*script.stream([*events, late], pair.speech.kind))
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=True))
        assert pair.door.text_of_stream is not None
        assert pair.door.text_of_stream(response.body) == "Hello"
        assert response.body.count(pair.door.terminal) == 1


@pytest.mark.parametrize("size_bytes", [1_000_000, 20_000_000])
async def test_large_bodies_both_ways(gateway, provider, size_bytes: int):
    """Megabytes go up and come down unchanged."""
    text = "é" * (size_bytes // 2)
    answer = json.dumps(speech.CHAT.whole(text), ensure_ascii=False).encode()
    provider.enqueue(*script.answer(200, answer))
    with trio.fail_after(30):
        body = doors.CHAT.body("m1", messages=[{"role": "user", "content": text}])
        response = await gateway.ask(doors.CHAT, body, {"x-provider": "openai"})
        assert response.status == 200
        assert response.body == answer
        assert provider.asked[0].body == body
        assert (await gateway.only_settlement()).bytes_in == len(body)


async def test_counting_without_a_counter(gateway, provider):
    """Where the provider cannot count tokens the count is an estimate that says so, and nobody is asked."""
    with trio.fail_after(10):
        body = doors.COUNT_TOKENS.body("openai/m1", system="Be brief. " * 100)
        response = await gateway.ask(doors.COUNT_TOKENS, body)
        assert response.status == 200, response
        assert 100 < response.json()["input_tokens"] < 2000
        assert response.header("x-securellm-usage-source") == "estimated"
        assert provider.asked == []
        assert (await gateway.only_settlement()).outcome.status is Status.SUCCESS


@pytest.mark.parametrize(
    ("provider_name", "missing"),
    [("anthropic", (doors.RESPONSES, doors.EMBEDDINGS, doors.COMPLETIONS)), ("deepseek", (doors.EMBEDDINGS,))],
)
async def test_doors_that_a_provider_has_not(gateway, provider, provider_name: str, missing):
    """A door that a provider cannot answer is refused by name, without asking it."""
    with trio.fail_after(10):
        for door in missing:
            response = await gateway.ask(door, door.body(f"{provider_name}/m1"))
            assert response.status == 400, response
            error = door.error_of(response)
            assert error["code"] == "unsupported_endpoint"
            assert provider_name in error["message"]
        assert provider.asked == []


async def test_context_window_of_ollama(serving, provider):
    """`num_ctx` goes up as an option; a prompt that fills the window is flagged, in header and record (28)."""
    full = {**speech.OLLAMA.whole("Hello"), "prompt_eval_count": 4096}
    provider.default = script.answer(200, full)
    with trio.fail_after(10):
        gateway = await serving({"ollama": provider}, providers={"ollama": {"num_ctx": 4096}})
        response = await gateway.ask(doors.CHAT, doors.CHAT.body("ollama/m1"))
        assert response.status == 200, response
        assert provider.asked[0].json()["options"]["num_ctx"] == 4096
        assert response.header("x-securellm-context-truncated") is not None
        assert (await gateway.only_settlement()).context_truncated is True


async def test_context_window_below_the_limit(serving, provider):
    """A prompt that fits is not flagged."""
    provider.default = script.answer(200, speech.OLLAMA.whole("Hello"))
    with trio.fail_after(10):
        gateway = await serving({"ollama": provider}, providers={"ollama": {"num_ctx": 8192}})
        response = await gateway.ask(doors.CHAT, doors.CHAT.body("ollama/m1"))
        assert provider.asked[0].json()["options"]["num_ctx"] == 8192
        assert response.header("x-securellm-context-truncated") is None
        assert (await gateway.only_settlement()).context_truncated is False
