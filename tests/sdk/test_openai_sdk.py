"""OpenAI's own Python SDK drives the running gateway, as a program would."""

import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import openai
import pytest
import trio

from rig import doors, pairs, script, speech
from rig.speech import INPUT_TOKENS, OUTPUT_TOKENS, Tool

T = TypeVar("T")
_MESSAGES: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello"}]
_CALLS = (Tool("look", '{"at":"the sky"}'), Tool("wait", "{}"))
_TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": "x", "parameters": {"type": "object"}}}
    for name in ("look", "wait")
]
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
_CHAT_PAIRS = [pair for pair in pairs.PAIRS if pair.door is doors.CHAT]


@pytest.fixture
def client(gateway) -> Iterator[openai.OpenAI]:
    """The SDK as the documentation shows it, pointed at the gateway, without retries of its own."""
    with openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key=gateway.key, max_retries=0) as made:
        yield made


async def in_thread(call: Callable[[], T]) -> T:
    """The SDK is blocking: run it beside the gateway, and give up on it when the test's time is over."""
    with trio.fail_after(30):
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True)


@pytest.mark.parametrize("pair", _CHAT_PAIRS, ids=str)
async def test_chat(client, provider, pair):
    """A chat completion, whole and streamed, from every kind of provider."""
    provider.choose = lambda request: pair.answers(
        "Hello", stream_it=b'"stream":true' in request.body.replace(b" ", b"")
    )

    def chat() -> None:
        whole = client.chat.completions.create(model=pair.model, messages=_MESSAGES)
        assert whole.choices[0].message.content == "Hello"
        assert whole.choices[0].finish_reason == "stop"
        assert whole.usage is not None
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (INPUT_TOKENS, OUTPUT_TOKENS)
        chunks = list(
            client.chat.completions.create(
                model=pair.model, messages=_MESSAGES, stream=True, stream_options={"include_usage": True}
            )
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello"
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == INPUT_TOKENS + OUTPUT_TOKENS

    await in_thread(chat)


@pytest.mark.parametrize("pair", _CHAT_PAIRS, ids=str)
async def test_tools(client, provider, pair):
    """Tool calls, whole and by the SDK's accumulating stream, and a second turn with their results."""
    provider.choose = lambda request: pair.answers(
        "", _CALLS, stream_it=b'"stream":true' in request.body.replace(b" ", b"")
    )

    def tools() -> None:
        whole = client.chat.completions.create(model=pair.model, messages=_MESSAGES, tools=_TOOLS)
        with client.chat.completions.stream(model=pair.model, messages=_MESSAGES, tools=_TOOLS) as stream:
            streamed = stream.get_final_completion()
        for message in (whole.choices[0].message, streamed.choices[0].message):
            assert message.tool_calls is not None
            calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]
            assert calls == [(tool.name, json.loads(tool.arguments)) for tool in _CALLS]
        assert whole.choices[0].finish_reason == streamed.choices[0].finish_reason == "tool_calls"
        assert whole.choices[0].message.tool_calls is not None
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": "done"} for call in whole.choices[0].message.tool_calls
        ]
        turns = [*_MESSAGES, whole.choices[0].message.model_dump(exclude_none=True), *results]
        assert client.chat.completions.create(model=pair.model, messages=turns, tools=_TOOLS).choices

    await in_thread(tools)
    last = provider.asked[-1].body
    assert b"done" in last
    assert b"look" in last


@pytest.mark.parametrize("pair", _CHAT_PAIRS, ids=str)
async def test_vision(client, provider, pair):
    """An image part reaches every kind of provider with all of its bytes."""
    provider.default = pair.answers()
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PIXEL}"}},
    ]

    def vision() -> None:
        client.chat.completions.create(model=pair.model, messages=[{"role": "user", "content": parts}])  # type: ignore[misc,list-item]

    await in_thread(vision)
    (asked,) = provider.asked
    assert asked.body.count(_PIXEL.encode()) == 1
    (message,) = asked.json()["messages"]
    if pair.provider == "anthropic":
        (image,) = [block for block in message["content"] if block["type"] == "image"]
        assert image["source"] == {"type": "base64", "media_type": "image/png", "data": _PIXEL}
    elif pair.provider == "ollama":
        assert message["images"] == [_PIXEL]
    else:
        assert message["content"] == parts


_RAISED = (
    (400, openai.BadRequestError),
    (404, openai.NotFoundError),
    (409, openai.ConflictError),
    (422, openai.UnprocessableEntityError),
    (429, openai.RateLimitError),
    (500, openai.InternalServerError),
    (503, openai.InternalServerError),
    (401, openai.InternalServerError),  # the operator's key, so not the caller's AuthenticationError
)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("pair", _CHAT_PAIRS, ids=str)
async def test_provider_errors_raise_the_right_class(serving, provider, pair, stream):
    """The class that the SDK raises for a provider's error is that of its status, in both modes."""
    calm = {"circuit_breaker": {"failure_threshold": 1000}}
    gateway = await serving({pair.provider: provider}, providers={pair.provider: calm})
    for status, _ in _RAISED:
        provider.enqueue(*script.answer(status, pair.speech.error(status, "scripted words"), {"retry-after": "3"}))

    def ask() -> None:
        with openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key=gateway.key, max_retries=0) as client:
            for status, raised in _RAISED:
                with pytest.raises(raised) as caught:
                    client.chat.completions.create(model=pair.model, messages=_MESSAGES, stream=stream)
                check(status, caught.value)

    def check(status: int, error: openai.APIStatusError) -> None:
        if status != 401:
            assert "scripted words" in error.message
            assert error.response.headers["retry-after"] == "3"

    await in_thread(ask)


async def test_our_own_errors_raise_the_right_class(gateway, client, provider):
    """Wrong key, unknown model, malformed request: the SDK's own classes, with our codes."""

    def ask() -> None:
        with openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key="slb_wrong", max_retries=0) as stranger:
            with pytest.raises(openai.AuthenticationError) as unknown_key:
                stranger.chat.completions.create(model="openai/m1", messages=_MESSAGES)
            assert unknown_key.value.code == "invalid_api_key"
        with pytest.raises(openai.NotFoundError) as unknown_model:
            client.chat.completions.create(model="nobody/m1", messages=_MESSAGES)
        assert unknown_model.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as destination:
            client.chat.completions.create(
                model="openai/m1", messages=_MESSAGES, extra_body={"api_base": "http://127.0.0.1:1"}
            )
        assert destination.value.code == "destination_not_allowed"
        with pytest.raises(openai.BadRequestError) as no_endpoint:
            client.responses.create(model="anthropic/m1", input="x")
        assert no_endpoint.value.code == "unsupported_endpoint"

    await in_thread(ask)
    assert provider.asked == []


async def test_timeouts(serving, provider):
    """The SDK's own time-out raises its class and closes the provider's connection; ours is a 504."""
    provider.default = [script.never()]
    gateway = await serving(provider, timeouts={"total_s": 2.0})

    def ask(timeout_s: float) -> None:
        with openai.OpenAI(
            base_url=f"{gateway.base_url}/v1", api_key=gateway.key, max_retries=0, timeout=timeout_s
        ) as client:
            client.chat.completions.create(model="openai/m1", messages=_MESSAGES)

    with pytest.raises(openai.APITimeoutError):
        await in_thread(lambda: ask(1.0))  # time enough to ask the provider, however busy the machine is
    with trio.fail_after(5):
        await provider.asked[0].connection.closed.wait()
    with pytest.raises(openai.InternalServerError) as caught:
        await in_thread(lambda: ask(20))
    assert (caught.value.status_code, caught.value.code) == (504, "total_timeout")


async def test_the_sdk_honours_retry_after(gateway, provider):
    """The SDK's own retry waits as long as the provider's Retry-After says, because it arrives."""
    provider.enqueue(*script.answer(429, speech.CHAT.error(429), {"retry-after": "1"}))
    provider.default = script.answer(200, speech.CHAT.whole())

    def ask() -> None:
        with openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key=gateway.key, max_retries=1) as client:
            assert client.chat.completions.create(model="openai/m1", messages=_MESSAGES).choices

    await in_thread(ask)
    first, second = provider.asked
    assert second.arrived_s - first.arrived_s >= 0.95


@pytest.mark.parametrize("how", ["fin", "closed"])
@pytest.mark.parametrize("pair", _CHAT_PAIRS, ids=str)
async def test_a_dying_stream_raises(client, provider, pair, how):
    """A stream that dies upstream raises in the SDK after the text that came; it is never a finished answer."""
    events = pair.speech.events(("Hello",))
    first = next(number for number, event in enumerate(events) if b"Hello" in event)
    steps = script.stream(events[: first + 1], pair.speech.kind, ended=how == "closed")
    provider.enqueue(*steps, script.fin())
    seen: list[str] = []

    def ask() -> None:
        for chunk in client.chat.completions.create(model=pair.model, messages=_MESSAGES, stream=True):
            seen.extend(choice.delta.content or "" for choice in chunk.choices)

    with pytest.raises(openai.APIError):
        await in_thread(ask)
    assert "".join(seen) == "Hello"


async def test_embeddings(client, provider):
    """Embeddings, with the SDK's base64 decoding left out of play."""
    provider.default = script.answer(200, speech.EMBEDDINGS.whole())

    def embed() -> None:
        made = client.embeddings.create(model="openai/m1", input=["a", "b"], encoding_format="float")
        assert made.data[0].embedding == [0.5, -0.25]
        assert made.usage.prompt_tokens == INPUT_TOKENS

    await in_thread(embed)
    assert provider.asked[0].json()["input"] == ["a", "b"]


async def test_completions(client, provider):
    """Text completions, whole and streamed."""
    pair = next(pair for pair in pairs.PAIRS if pair.door is doors.COMPLETIONS)
    provider.enqueue(*pair.answers("Hello"))
    provider.enqueue(*pair.answers("Hello", stream_it=True))

    def complete() -> None:
        assert client.completions.create(model="openai/m1", prompt="Say").choices[0].text == "Hello"
        chunks = client.completions.create(model="openai/m1", prompt="Say", stream=True)
        assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "Hello"

    await in_thread(complete)


async def test_responses(client, provider):
    """Responses: created whole, streamed with typed events, and by the accumulating stream."""
    pair = next(pair for pair in pairs.PAIRS if pair.door is doors.RESPONSES)
    provider.enqueue(*pair.answers("Hello", _CALLS))
    for _ in range(2):
        provider.enqueue(*pair.answers("Hello", _CALLS, stream_it=True))

    def respond() -> None:
        whole = client.responses.create(model="openai/m1", input="Say hello")
        assert whole.output_text == "Hello"
        assert whole.usage is not None
        assert whole.usage.output_tokens == OUTPUT_TOKENS
        events = list(client.responses.create(model="openai/m1", input="Say hello", stream=True))
        assert events[-1].type == "response.completed"
        assert [event.sequence_number for event in events] == list(range(len(events)))
        with client.responses.stream(model="openai/m1", input="Say hello") as stream:
            final = stream.get_final_response()
        assert final.output_text == "Hello"
        assert [item.name for item in final.output if item.type == "function_call"] == ["look", "wait"]

    await in_thread(respond)


async def test_a_dying_response_fails(client, provider):
    """A Responses stream that dies ends in `response.failed`, with our code, for whoever reads the events."""
    events = speech.RESPONSES.events(("Hello",))
    first = next(number for number, event in enumerate(events) if b"output_text.delta" in event)
    provider.enqueue(*script.stream(events[: first + 1], ended=False), script.fin())

    def respond() -> list[Any]:
        seen: list[Any] = []
        try:
            for event in client.responses.create(model="openai/m1", input="Say hello", stream=True):
                seen.append(event)
        except (
            Exception
        ) as error:  # which one is the SDK's affair: its HTTP library's, about the cut body, comes through
            seen.append(error)
        return seen

    seen = await in_thread(respond)
    types = [getattr(event, "type", None) for event in seen]
    assert "response.completed" not in types
    failed = next(event for event in seen if getattr(event, "type", None) == "response.failed")
    assert failed.response.status == "failed"
    assert failed.sequence_number == first + 1


async def test_models(client, provider):
    """The list of models, and one of them by its id with a slash."""

    def ask() -> None:
        ids = {model.id for model in client.models.list()}
        assert ids
        assert all("/" in identity for identity in ids)
        one = next(identity for identity in sorted(ids) if identity.startswith("openai/"))
        found = client.models.retrieve(one)
        assert (found.id, found.object, found.owned_by) == (one, "model", "openai")
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nobody/nothing")

    await in_thread(ask)
