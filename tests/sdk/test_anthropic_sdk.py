"""Anthropic's own Python SDK drives the running gateway, as Claude Code and others would."""

import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import anthropic
import pytest
import trio

from rig import doors, pairs, script, speech
from rig.speech import INPUT_TOKENS, OUTPUT_TOKENS, Tool

T = TypeVar("T")
_TURN: list[Any] = [{"role": "user", "content": "Say hello"}]
_CALLS = (Tool("look", '{"at":"the sky"}'), Tool("wait", "{}"))
_TOOLS: list[Any] = [
    {"name": name, "description": "x", "input_schema": {"type": "object"}} for name in ("look", "wait")
]
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
_MESSAGE_PAIRS = [pair for pair in pairs.PAIRS if pair.door is doors.MESSAGES]


@pytest.fixture
def client(gateway) -> Iterator[anthropic.Anthropic]:
    """The SDK pointed at the gateway, without retries of its own."""
    with anthropic.Anthropic(base_url=gateway.base_url, api_key=gateway.key, max_retries=0) as made:
        yield made


async def in_thread(call: Callable[[], T]) -> T:
    """The SDK is blocking: run it beside the gateway, and give up on it when the test's time is over."""
    with trio.fail_after(30):
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True)


def _wants_stream(body: bytes) -> bool:
    return json.loads(body).get("stream") is True


@pytest.mark.parametrize("pair", _MESSAGE_PAIRS, ids=str)
async def test_messages(client, provider, pair):
    """A message, whole and by the accumulating stream, from every kind of provider."""
    provider.choose = lambda request: pair.answers("Hello", stream_it=_wants_stream(request.body))

    def ask() -> None:
        whole = client.messages.create(model=pair.model, max_tokens=50, system="Be brief.", messages=_TURN)
        with client.messages.stream(model=pair.model, max_tokens=50, system="Be brief.", messages=_TURN) as stream:
            assert "".join(stream.text_stream) == "Hello"
            streamed = stream.get_final_message()
        for message in (whole, streamed):
            assert [block.text for block in message.content if block.type == "text"] == ["Hello"]
            assert message.stop_reason == "end_turn"
            assert (message.usage.input_tokens, message.usage.output_tokens) == (INPUT_TOKENS, OUTPUT_TOKENS)

    await in_thread(ask)
    assert all(b"Be brief." in request.body for request in provider.asked)


@pytest.mark.parametrize("pair", _MESSAGE_PAIRS, ids=str)
async def test_tools(client, provider, pair):
    """Tool use, whole and streamed, equal; and a second turn with the results."""
    provider.choose = lambda request: pair.answers("", _CALLS, stream_it=_wants_stream(request.body))

    def ask() -> None:
        whole = client.messages.create(model=pair.model, max_tokens=50, tools=_TOOLS, messages=_TURN)
        with client.messages.stream(model=pair.model, max_tokens=50, tools=_TOOLS, messages=_TURN) as stream:
            streamed = stream.get_final_message()
        for message in (whole, streamed):
            used = [(block.name, block.input) for block in message.content if block.type == "tool_use"]
            assert used == [(tool.name, json.loads(tool.arguments)) for tool in _CALLS]
            assert message.stop_reason == "tool_use"
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "done"}
            for block in whole.content
            if block.type == "tool_use"
        ]
        said = [block.model_dump(exclude_none=True) for block in whole.content]
        turns = [*_TURN, {"role": "assistant", "content": said}, {"role": "user", "content": results}]
        assert client.messages.create(model=pair.model, max_tokens=50, tools=_TOOLS, messages=turns).content

    await in_thread(ask)
    assert b"done" in provider.asked[-1].body


@pytest.mark.parametrize("pair", _MESSAGE_PAIRS, ids=str)
async def test_vision(client, provider, pair):
    """An image block reaches every provider that takes images with all of its bytes."""
    provider.default = pair.answers()
    source = {"type": "base64", "media_type": "image/png", "data": _PIXEL}
    blocks: list[Any] = [{"type": "text", "text": "What is it?"}, {"type": "image", "source": source}]

    def ask() -> None:
        client.messages.create(model=pair.model, max_tokens=50, messages=[{"role": "user", "content": blocks}])

    if pair.provider == "deepseek":  # takes text only, so the image is refused by name instead of being lost
        with pytest.raises(anthropic.BadRequestError, match="takes text only"):
            await in_thread(ask)
        assert provider.asked == []
        return
    await in_thread(ask)
    assert provider.asked[0].body.count(_PIXEL.encode()) == 1


def _thinking_events() -> list[bytes]:
    """A stream that thinks, signs its thoughts, and then speaks."""
    plain = speech.MESSAGES.events(("Hello",))
    deltas: list[dict[str, Any]] = [
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "thinking", "thinking": "", "signature": ""},
        },
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hmm. "}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2lnbmVk"}},
        {"type": "content_block_stop", "index": 0},
    ]
    thought = [f"event: {delta['type']}\ndata: {json.dumps(delta)}\n\n".encode() for delta in deltas]
    shifted = [event.replace(b'"index":0', b'"index":1') for event in plain[2:]]
    return [*plain[:2], *thought, *shifted]


async def test_thinking(client, provider):
    """Thinking and its signature come through a stream untouched and go back up byte for byte (guarantee 11)."""
    provider.enqueue(*script.stream(_thinking_events()))
    provider.enqueue(*script.answer(200, speech.MESSAGES.whole("Bye")))

    def ask() -> None:
        thinking = {"type": "enabled", "budget_tokens": 1024}
        with client.messages.stream(
            model="anthropic/m1",
            max_tokens=2000,
            thinking=thinking,
            messages=_TURN,  # type: ignore[arg-type]
        ) as stream:
            message = stream.get_final_message()
        thought = message.content[0]
        assert thought.type == "thinking"
        assert (thought.thinking, thought.signature) == ("Hmm. ", "c2lnbmVk")
        turns = [*_TURN, {"role": "assistant", "content": [block.model_dump() for block in message.content]}, *_TURN]
        client.messages.create(model="anthropic/m1", max_tokens=2000, messages=turns)

    await in_thread(ask)
    first, second = provider.asked
    assert first.json()["thinking"] == {"type": "enabled", "budget_tokens": 1024}
    block = second.json()["messages"][1]["content"][0]
    assert (block["type"], block["thinking"], block["signature"]) == ("thinking", "Hmm. ", "c2lnbmVk")


async def test_count_tokens(client, provider):
    """count_tokens is the provider's own where it has one."""
    provider.default = script.answer(200, speech.COUNT_TOKENS.whole())

    def ask() -> None:
        assert client.messages.count_tokens(model="anthropic/m1", messages=_TURN).input_tokens == INPUT_TOKENS

    await in_thread(ask)
    assert provider.asked[0].path == "/v1/messages/count_tokens"


_RAISED = (
    (400, anthropic.BadRequestError),
    (404, anthropic.NotFoundError),
    (413, anthropic.RequestTooLargeError),
    (422, anthropic.UnprocessableEntityError),
    (429, anthropic.RateLimitError),
    (500, anthropic.InternalServerError),
    (529, anthropic.OverloadedError),
    (401, anthropic.InternalServerError),  # the operator's key, so not the caller's AuthenticationError
)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("pair", _MESSAGE_PAIRS, ids=str)
async def test_provider_errors_raise_the_right_class(serving, provider, pair, stream):
    """The class that the SDK raises for a provider's error is that of its status, in both modes."""
    calm = {"circuit_breaker": {"failure_threshold": 1000}}
    gateway = await serving({pair.provider: provider}, providers={pair.provider: calm})
    for status, _ in _RAISED:
        provider.enqueue(*script.answer(status, pair.speech.error(status, "scripted words"), {"retry-after": "3"}))

    def ask() -> None:
        with anthropic.Anthropic(base_url=gateway.base_url, api_key=gateway.key, max_retries=0) as client:
            for status, raised in _RAISED:
                with pytest.raises(raised) as caught:
                    client.messages.create(model=pair.model, max_tokens=50, messages=_TURN, stream=stream)
                check(status, caught.value)

    def check(status: int, error: anthropic.APIStatusError) -> None:
        assert error.request_id is not None
        if status != 401:
            assert "scripted words" in str(error.body)
            assert error.response.headers["retry-after"] == "3"

    await in_thread(ask)


async def test_our_own_errors_raise_the_right_class(gateway, client, provider):
    """Wrong key, unknown model, a destination: the SDK's own classes."""

    def ask() -> None:
        with anthropic.Anthropic(base_url=gateway.base_url, api_key="slb_wrong", max_retries=0) as stranger:
            with pytest.raises(anthropic.AuthenticationError):
                stranger.messages.create(model="anthropic/m1", max_tokens=50, messages=_TURN)
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(model="nobody/m1", max_tokens=50, messages=_TURN)
        with pytest.raises(anthropic.BadRequestError):
            client.messages.create(
                model="anthropic/m1", max_tokens=50, messages=_TURN, extra_body={"base_url": "http://127.0.0.1:1"}
            )

    await in_thread(ask)
    assert provider.asked == []


async def test_bearer_is_accepted_too(gateway, provider):
    """The Messages door takes `Authorization: Bearer` as well as `x-api-key` (guarantee 29)."""
    provider.default = script.answer(200, speech.MESSAGES.whole("Hello"))

    def ask() -> None:
        with anthropic.Anthropic(
            base_url=gateway.base_url, api_key=None, auth_token=gateway.key, max_retries=0
        ) as client:
            assert client.messages.create(model="anthropic/m1", max_tokens=50, messages=_TURN).content

    await in_thread(ask)


async def test_timeout(serving, provider):
    """The SDK's own time-out raises its class and closes the provider's connection."""
    provider.default = [script.never()]
    gateway = await serving(provider)

    def ask() -> None:
        with anthropic.Anthropic(base_url=gateway.base_url, api_key=gateway.key, max_retries=0, timeout=0.3) as client:
            client.messages.create(model="anthropic/m1", max_tokens=50, messages=_TURN)

    with pytest.raises(anthropic.APITimeoutError):
        await in_thread(ask)
    with trio.fail_after(5):
        await provider.asked[0].connection.closed.wait()


@pytest.mark.parametrize("pair", _MESSAGE_PAIRS, ids=str)
async def test_a_dying_stream_raises(client, provider, pair):
    """A stream that dies upstream raises in the SDK after the text that came."""
    events = pair.speech.events(("Hello",))
    first = next(number for number, event in enumerate(events) if b"Hello" in event)
    provider.enqueue(*script.stream(events[: first + 1], pair.speech.kind, ended=False), script.fin())
    seen: list[str] = []

    def ask() -> None:
        with client.messages.stream(model=pair.model, max_tokens=50, messages=_TURN) as stream:
            seen.extend(stream.text_stream)

    with pytest.raises(anthropic.APIError):
        await in_thread(ask)
    assert "".join(seen) == "Hello"


async def test_models(client, provider):
    """The list of models in Anthropic's shape, and one of them by its id with a slash."""

    def ask() -> None:
        listed = list(client.models.list())
        assert listed
        assert all(model.type == "model" and "/" in model.id for model in listed)
        one = next(model.id for model in listed if model.id.startswith("anthropic/"))
        assert client.models.retrieve(one).id == one
        with pytest.raises(anthropic.NotFoundError):
            client.models.retrieve("nobody/nothing")

    await in_thread(ask)
