"""The built-in provider: the same body always gives the same answer, in OpenAI's shapes."""

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securellm.chat import Endpoint
from securellm.providers.demo import MAX_LOREM_TOKENS, answer_demo, count_tokens, endpoint_at
from securellm.providers.demo_answers import instance_of
from securellm.providers.registry import ADAPTERS

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
        },
    },
}


def _ask(endpoint: Endpoint = Endpoint.CHAT, **body: object) -> tuple[int, Any]:
    answer = answer_demo(endpoint, json.dumps({"model": "echo", **body}).encode())
    return answer.status, json.loads(b"".join(answer.chunks))


def _say(text: str, **body: object) -> Any:
    status, answer = _ask(messages=[{"role": "user", "content": text}], **body)
    assert status == 200
    return answer


def _stream(endpoint: Endpoint = Endpoint.CHAT, **body: object) -> list[Any]:
    answer = answer_demo(endpoint, json.dumps({"model": "echo", "stream": True, **body}).encode())
    assert answer.status == 200
    assert (b"content-type", b"text/event-stream") in answer.headers
    frames = b"".join(answer.chunks).split(b"\n\n")
    assert frames[-2:] == [b"data: [DONE]", b""]
    return [json.loads(frame.removeprefix(b"data: ")) for frame in frames[:-2]]


def _joined(chunks: list[Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def test_echo_repeats_the_last_user_text() -> None:
    """The text of the last user message comes back as it is, from all of its text parts."""
    _, answer = _ask(
        messages=[
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "ok"},
            {"role": "user", "content": [{"type": "text", "text": "se"}, {"type": "text", "text": "cond\n"}]},
        ]
    )
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "second\n"}
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_answers_say_that_they_are_a_demo() -> None:
    """Model, id, fingerprint and a header say so, whole and streamed."""
    answer = answer_demo(Endpoint.CHAT, b'{"model":"echo","messages":[{"role":"user","content":"hi"}]}')
    assert (b"x-securellm-demo", b"true") in answer.headers
    whole = json.loads(b"".join(answer.chunks))
    chunks = _stream(messages=[{"role": "user", "content": "hi"}])
    for said in (whole, *chunks):
        assert said["model"] == "demo/echo"
        assert said["system_fingerprint"] == "demo"
        assert said["id"].startswith("demo-")


def test_usage_counts_words_and_signs() -> None:
    """A token is a run of word characters or one other sign; a message costs one more."""
    assert count_tokens("Hello, world! it's 3.14") == 10
    answer = _say("Hello, world!")
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}


@given(st.text(max_size=200), st.integers(1, 20) | st.none())
def test_streams_equal_whole_answers(text: str, limit: int | None) -> None:
    """A stream says the same text, ends the same way and reports the same usage as the whole answer."""
    body: dict[str, object] = {"messages": [{"role": "user", "content": text}], "max_completion_tokens": limit}
    _, whole = _ask(**body)
    chunks = _stream(**body, stream_options={"include_usage": True})
    assert _joined(chunks) == whole["choices"][0]["message"]["content"]
    assert chunks[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], whole["usage"])


def test_usage_in_a_stream_only_when_asked() -> None:
    """Without include_usage no chunk has the field; with it the others have null."""
    messages = [{"role": "user", "content": "a b"}]
    assert all("usage" not in chunk for chunk in _stream(messages=messages))
    chunks = _stream(messages=messages, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_the_same_body_gives_the_same_bytes() -> None:
    """Nothing but the body decides: no clock, no randomness."""
    body = b'{"model":"lorem","stream":true,"messages":[{"role":"user","content":"x"}]}'
    first, second = (b"".join(answer_demo(Endpoint.CHAT, body).chunks) for _ in range(2))
    assert first == second
    assert first != b"".join(answer_demo(Endpoint.CHAT, body.replace(b'"x"', b'"y"')).chunks)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_lorem_is_as_long_as_asked(field: str) -> None:
    """max_tokens decides the length exactly, and then the reason is `length`; without it a paragraph comes."""
    answer = _say("x", model="lorem", **{field: 1234})
    assert count_tokens(answer["choices"][0]["message"]["content"]) == answer["usage"]["completion_tokens"] == 1234
    assert answer["choices"][0]["finish_reason"] == "length"
    short = _say("x", model="lorem")
    assert (short["usage"]["completion_tokens"], short["choices"][0]["finish_reason"]) == (64, "stop")
    assert short["choices"][0]["message"]["content"].startswith("This is a demo answer lorem ipsum")


def test_lorem_is_bounded() -> None:
    """One request cannot make it talk for ever."""
    answer = _say("x", model="demo/lorem", max_tokens=10**9)
    assert answer["usage"]["completion_tokens"] == MAX_LOREM_TOKENS
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_echo_ends_at_max_tokens_and_at_stop() -> None:
    """Both bounds cut the text as a real provider would."""
    cut = _say("one two, three", max_tokens=3)
    assert (cut["choices"][0]["message"]["content"], cut["choices"][0]["finish_reason"]) == ("one two,", "length")
    stopped = _say("one two, three", stop=["three", ","])
    assert stopped["choices"][0]["message"]["content"] == "one two"
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert stopped["usage"]["completion_tokens"] == 2
    assert _say("a-b", stop="-")["choices"][0]["message"]["content"] == "a"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_forced_tool_is_called(choice: object) -> None:
    """tool_choice gets a call with the smallest arguments that the schema allows, the same streamed as whole."""
    answer = _say("weather?", tools=[WEATHER], tool_choice=choice)
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "demo", "unit": "C"}
    assert answer["choices"][0]["message"]["content"] is None
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    body = {"messages": [{"role": "user", "content": "weather?"}], "tools": [WEATHER], "tool_choice": choice}
    chunks = _stream(**body)
    deltas = [delta for chunk in chunks for delta in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert {delta["index"] for delta in deltas} == {0}
    assert deltas[0]["function"]["name"] == "get_weather"
    assert deltas[0]["id"]
    assert len(deltas) > 2
    assert "".join(delta["function"]["arguments"] for delta in deltas) == call["function"]["arguments"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_tools_that_are_not_forced_are_not_called() -> None:
    """Under `auto` the demo talks; a choice that names no tool is refused."""
    assert _say("hi", tools=[WEATHER], tool_choice="auto")["choices"][0]["message"]["content"] == "hi"
    status, answer = _ask(
        messages=[{"role": "user", "content": "x"}],
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "other"}},
    )
    assert (status, answer["error"]["param"]) == (400, "tool_choice")


def test_json_answers_fit_the_schema() -> None:
    """response_format gets JSON: an object, or the smallest value of the schema."""
    assert json.loads(_say("x", response_format={"type": "json_object"})["choices"][0]["message"]["content"]) == {
        "demo": True
    }
    schema = {
        "type": "object",
        "properties": {"n": {"type": "number"}, "tags": {"type": "array", "minItems": 2, "items": {"type": "string"}}},
        "required": ["n", "tags"],
    }
    answer = _say("x", response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}})
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"n": 1.0, "tags": ["demo", "demo"]}


def test_a_recursive_schema_ends() -> None:
    """A schema that asks for itself without end gets an end."""
    schema: dict[str, Any] = {"type": "object", "required": ["next"]}
    schema["properties"] = {"next": schema}
    depth, value = 0, instance_of(schema)
    while value:
        depth, value = depth + 1, value["next"]
    assert 1 < depth < 100


def test_text_completions() -> None:
    """The older endpoint echoes its prompt, whole and streamed."""
    status, answer = _ask(Endpoint.COMPLETIONS, prompt="once upon a time")
    assert (status, answer["object"], answer["choices"][0]["text"]) == (200, "text_completion", "once upon a time")
    chunks = _stream(Endpoint.COMPLETIONS, prompt=["once upon a time"])
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "once upon a time"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_embeddings() -> None:
    """Unit vectors that depend on the input alone, as numbers or as base64 of the same numbers."""
    _, answer = _ask(Endpoint.EMBEDDINGS, input=["a", "b", "a"], dimensions=20)
    vectors = [item["embedding"] for item in answer["data"]]
    assert [item["index"] for item in answer["data"]] == [0, 1, 2]
    assert vectors[0] == vectors[2] != vectors[1]
    assert len(vectors[0]) == 20
    assert sum(number * number for number in vectors[0]) == pytest.approx(1, abs=1e-5)
    _, packed = _ask(Endpoint.EMBEDDINGS, input="a", dimensions=20, encoding_format="base64")
    assert list(struct.unpack("<20f", base64.b64decode(packed["data"][0]["embedding"]))) == vectors[0]
    _, tokens = _ask(Endpoint.EMBEDDINGS, input=[1, 2, 3])
    assert (len(tokens["data"]), tokens["usage"]["prompt_tokens"]) == (1, 3)


def test_count_tokens() -> None:
    """Anthropic's counting endpoint counts system, messages, parts that are not text, and tools."""
    status, answer = _ask(
        Endpoint.COUNT_TOKENS,
        system=[{"type": "text", "text": "be brief"}],
        messages=[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this?"}]}],
    )
    assert (status, answer) == (200, {"input_tokens": 2 + 1 + 1 + 4})


@pytest.mark.parametrize(
    ("endpoint", "body", "param"),
    [
        (Endpoint.CHAT, b"{", None),
        (Endpoint.CHAT, b"[]", None),
        (Endpoint.CHAT, b"\xff", None),
        (Endpoint.CHAT, b'{"model":"echo"}', "messages"),
        (Endpoint.CHAT, b'{"model":"echo","messages":[]}', "messages"),
        (Endpoint.CHAT, b'{"model":"echo","messages":[1]}', "messages"),
        (Endpoint.CHAT, b'{"model":"echo","messages":[{"role":"user","content":"x"}],"n":2}', "n"),
        (Endpoint.CHAT, b'{"model":"echo","messages":[{"role":"user","content":"x"}],"max_tokens":0}', "max_tokens"),
        (Endpoint.CHAT, b'{"model":"echo","messages":[{"role":"user","content":"x"}],"stop":[1]}', "stop"),
        (Endpoint.CHAT, b'{"model":"echo","messages":[{"role":"user","content":"x"}],"tools":{"a":1}}', "tools"),
        (Endpoint.COMPLETIONS, b'{"model":"echo"}', "prompt"),
        (Endpoint.EMBEDDINGS, b'{"model":"echo","input":[]}', "input"),
        (Endpoint.EMBEDDINGS, b'{"model":"echo","input":"x","dimensions":99999}', "dimensions"),
    ],
)
def test_bad_bodies_are_refused(endpoint: Endpoint, body: bytes, param: str | None) -> None:
    """What is wrong is a 400 in OpenAI's shape that names the field."""
    answer = answer_demo(endpoint, body)
    error = json.loads(b"".join(answer.chunks))["error"]
    assert (answer.status, error["type"], error["param"]) == (400, "invalid_request_error", param)


def test_unknown_models_and_counting_errors() -> None:
    """An unknown model is 404; the counting endpoint's errors are Anthropic's."""
    status, answer = _ask(model="gpt-4o", messages=[{"role": "user", "content": "x"}])
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    status, answer = _ask(Endpoint.COUNT_TOKENS)
    assert (status, answer["type"], answer["error"]["type"]) == (400, "error", "invalid_request_error")


@given(st.binary(max_size=80) | st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists).map(repr))
def test_no_body_breaks_it(body: bytes | str) -> None:
    """Any bytes at any endpoint get an answer, never an exception."""
    for endpoint in ADAPTERS["demo"].endpoints:
        answer = answer_demo(endpoint, body if isinstance(body, bytes) else body.encode())
        b"".join(answer.chunks)
        assert answer.status in (200, 400, 404)


_FIELDS = ("messages", "prompt", "input", "tools", "tool_choice", "response_format", "stop", "stream_options", "system")
_ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "text", "type", "function", "name", "parameters", "schema"]), inner
        )
    ),
    max_leaves=8,
)


@given(st.sampled_from(list(ADAPTERS["demo"].endpoints)), st.dictionaries(st.sampled_from(_FIELDS), _ODD))
def test_no_shape_breaks_it(endpoint: Endpoint, fields: dict[str, Any]) -> None:
    """Any JSON in any field gets an answer, never an exception."""
    body = {"model": "echo", "messages": [{"role": "user", "content": "x"}], **fields}
    answer = answer_demo(endpoint, json.dumps(body).encode())
    b"".join(answer.chunks)
    assert answer.status in (200, 400)


def test_urls_lead_back_to_endpoints() -> None:
    """The client that answers in-process knows by the URL what is asked; Messages arrive as chat."""
    assert endpoint_at("demo://demo/v1/chat/completions") is Endpoint.CHAT
    assert endpoint_at("demo://demo/v1/completions") is Endpoint.COMPLETIONS
    assert endpoint_at("demo://demo/v1/embeddings") is Endpoint.EMBEDDINGS
    assert endpoint_at("demo://demo/v1/messages/count_tokens") is Endpoint.COUNT_TOKENS
