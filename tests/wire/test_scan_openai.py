"""Chat completions, completions and embeddings read while they pass: usage, the one removal, errors, what counts."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securellm.chat import Endpoint, Usage
from securellm.errors import ShuttingDown
from securellm.wire.scan_openai import OpenAIScan

DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def scan(*, hide_usage: bool = False) -> OpenAIScan:
    """A relay."""
    return OpenAIScan(hide_usage=hide_usage, request_id="rid", model="p/m", created_s=5)


def chunk(**fields: Any) -> bytes:
    """One chunk."""
    return b"data: " + json.dumps({"id": "c1", **fields}).encode() + b"\n\n"


def delta(finish: str | None = None, **said: Any) -> bytes:
    """One chunk with one choice."""
    return chunk(choices=[{"index": 0, "delta": said, "finish_reason": finish}], usage=None)


@pytest.mark.parametrize(
    ("removed", "event"),
    [
        (True, chunk(choices=[], usage=USAGE)),
        (True, b'data:{"usage" : {"total_tokens":1}, "choices" : [ ]}\r\n\r\n'),
        (False, chunk(choices=[], usage=None)),
        (False, chunk(choices=[])),
        (False, chunk(choices=[], prompt_filter_results=[{"prompt_index": 0}])),
        (False, chunk(usage=USAGE)),
        (False, chunk(choices=None, usage=USAGE)),
        (False, chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage=USAGE)),
        (False, delta(content="x")),
        (False, b": comment\n\n"),
    ],
)
def test_the_one_removal(removed: bool, event: bytes) -> None:
    """`choices: []` with usage that is not null goes when we caused it; everything else stays, null usage too."""
    hidden, shown = scan(hide_usage=True), scan(hide_usage=False)
    before, after = delta(content="a"), delta(content="b")
    assert shown.feed(before + event + after + DONE).data == before + event + after
    result = hidden.feed(before + event + after + DONE)
    assert result.data == (before + after if removed else before + event + after)
    assert result.held == DONE
    assert hidden.meter.usage == shown.meter.usage


def test_usage_after_the_terminal_event_passes() -> None:
    """Behind the terminal event nothing is edited."""
    late = chunk(choices=[], usage=USAGE)
    assert scan(hide_usage=True).feed(DONE + late).held == DONE + late


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(choices=[], usage=USAGE)],
        [delta(finish="stop"), chunk(choices=[], usage=USAGE)],
        [chunk(choices=[{"delta": {"content": "x"}}], usage={"prompt_tokens": 9, "completion_tokens": 1})] * 2
        + [chunk(choices=[{"delta": {}}], usage=USAGE)],
        [chunk(choices=[], x_groq={"id": "req", "usage": USAGE})],
        [chunk(choices=[], usage=USAGE), chunk(choices=[], usage=None), delta(content="x")],
        [chunk(choices=[], usage=USAGE), chunk(choices=[], usage={"prompt_tokens": None, "completion_tokens": None})],
    ],
)
def test_usage_is_the_last_that_was_told(chunks: list[bytes]) -> None:
    """Alone, with choices, in every chunk, under x_groq; nulls never take it back and nothing is added up."""
    relay = scan()
    relay.feed(b"".join(chunks))
    assert relay.meter.usage == Usage(input_tokens=9, output_tokens=3)


@pytest.mark.parametrize(
    ("semantic", "size", "event"),
    [
        (False, 0, delta(role="assistant")),
        (False, 0, delta(role="assistant", content="")),
        (False, 0, delta(role="assistant", content=None, tool_calls=None, refusal=None)),
        (False, 0, delta(content="", reasoning=None, reasoning_details=[])),
        (False, 0, chunk(choices=[], usage=USAGE)),
        (False, 0, b": ping\n\n"),
        (True, 2, delta(role="assistant", content="hi")),
        (True, 2, delta(reasoning_content="hm")),
        (True, 2, delta(reasoning="hm", reasoning_content="hm")),
        (True, 2, delta(refusal="no")),
        (True, 4, delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "so"}]}, "hi"])),
        (True, 6, delta(tool_calls=[{"index": 0, "id": "t", "function": {"name": "go", "arguments": '{"x"'}}])),
        (True, 0, delta(tool_calls=[{"index": 0, "id": "t", "function": {"arguments": ""}}])),
        (True, 4, delta(function_call={"name": "go", "arguments": "{}"})),
        (True, 2, delta(audio={"data": "AAAA", "transcript": "hi"})),
        (True, 0, delta(finish="stop")),
        (True, 0, delta(finish="length", content="")),
        (True, 5, chunk(choices=[{"index": 0, "text": "hello"}])),
        (False, 0, chunk(choices=[{"index": 0, "text": ""}])),
    ],
)
def test_what_is_semantic_and_how_much_it_says(semantic: bool, size: int, event: bytes) -> None:
    """Text, reasoning, tool calls and a finish are; pings, usage and empty openings are not."""
    relay = scan()
    assert relay.feed(event).semantic is semantic
    assert relay.meter.semantic_events == int(semantic)
    assert relay.meter.output_bytes == size


_texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
_deltas = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["role", "content", "reasoning_content", "reasoning", "refusal"], _texts),
        "tool_calls": st.none() | st.just([]) | st.just([{"function": {"name": "go", "arguments": "{}"}}]),
    },
)
_choices = st.lists(
    st.fixed_dictionaries({"delta": _deltas}, optional={"finish_reason": st.sampled_from([None, "stop"])})
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(_choices, st.sampled_from(["c1", "c2", ""]), st.sampled_from(["m", "n", ""])), max_size=3))
def test_plain_chunks_are_read_like_any_other(answers: list[tuple[list[dict[str, Any]], str, str]]) -> None:
    """Both decoders come to the same figures, from the first; an extra null field picks the one for any shape."""
    plain, any_shape = scan(), scan()
    for choices, upstream_id, model in answers:
        odd = [{**choice, "delta": {**choice["delta"], "odd": None}} for choice in choices]
        one = plain.feed(chunk(id=upstream_id, model=model, choices=choices, usage=None))
        other = any_shape.feed(chunk(id=upstream_id, model=model, choices=odd, usage=None))
        assert one.semantic == other.semantic
    for name in plain.meter.__slots__:
        assert getattr(plain.meter, name) == getattr(any_shape.meter, name)


@pytest.mark.parametrize(
    ("finish", "native", "expected"),
    [
        ("stop", None, ("stop", "stop")),
        ("tool_calls", "tool_use", ("tool_calls", "tool_use")),
        ("content_filter", None, ("content_filter", "content_filter")),
        ("model_length", None, ("model_length", "model_length")),
    ],
)
def test_finish_reasons(finish: str, native: str | None, expected: tuple[str, str]) -> None:
    """OpenAI's word and the provider's own; unknown words pass."""
    relay = scan()
    relay.feed(chunk(choices=[{"delta": {}, "finish_reason": finish, "native_finish_reason": native}]))
    relay.feed(delta(content="after"))
    assert (relay.meter.finish_reason, relay.meter.native_finish) == expected


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (b'data: {"error":{"message":"m","type":"server_error","param":null,"code":null}}\n\n', (500, "m")),
        (b'event: error\ndata: {"error":{"message":"m","code":"tool_use_failed","status_code":400}}\n\n', (400, "m")),
        (b'event: error\ndata: {"message":"m","type":"rate_limit_error"}\n\n', (429, "m")),
        (b'data: {"error":"m"}\n\n', (502, "m")),
        (
            chunk(error={"code": 429, "message": "m"}, choices=[{"delta": {"content": ""}, "finish_reason": "error"}]),
            (429, "m"),
        ),
    ],
)
def test_errors_in_the_stream(event: bytes, expected: tuple[int, str]) -> None:
    """An error event, a bare error, one inside a chunk: held, with the status it stands for."""
    relay = scan()
    passed = relay.feed(delta(content="a") + event + DONE)
    assert relay.failure is not None
    assert (relay.failure.status, relay.failure.message) == expected
    assert passed.data == delta(content="a")
    assert passed.held == event + DONE
    assert relay.meter.semantic_events == 1


def test_a_null_error_is_none() -> None:
    """`"error": null` in every chunk means nothing."""
    relay = scan()
    relay.feed(chunk(error=None, choices=[{"delta": {"content": "x"}}]))
    assert relay.failure is None


def test_ids_are_the_first_and_never_null() -> None:
    """The provider's id and model are attributes only; null and empty ones are passed over."""
    relay = scan()
    relay.feed(b'data: {"id":null,"model":"","choices":[]}\n\ndata: {"id":"a","model":"m"}\n\ndata: {"id":"b"}\n\n')
    assert (relay.meter.upstream_id, relay.meter.upstream_model) == ("a", "m")


def test_our_own_error_has_no_done() -> None:
    """After the commit point: one error event and nothing that looks like an ending (guarantee 1)."""
    relay = scan()
    relay.feed(delta(content="a"))
    event = relay.fail(ShuttingDown("the gateway is stopping"))
    assert b"[DONE]" not in event
    assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "shutting_down"
    assert event.endswith(b"\n\n")


def test_whole_bodies() -> None:
    """Usage, finish, ids and the amount of text out of a body that is passed on as the same object."""
    relay = scan()
    message = {
        "role": "assistant",
        "content": "hey",
        "tool_calls": [{"id": "t", "type": "function", "function": {"name": "go", "arguments": "{}"}}],
    }
    answer = {
        "id": "c1",
        "model": "m",
        "choices": [{"message": message, "finish_reason": "tool_calls"}],
        "usage": USAGE,
    }
    body = json.dumps(answer, indent=1).encode()
    assert relay.whole(body) is body
    meter = relay.meter
    assert (meter.upstream_id, meter.upstream_model, meter.finish_reason) == ("c1", "m", "tool_calls")
    assert (meter.usage, meter.output_bytes) == (Usage(input_tokens=9, output_tokens=3), 7)


def test_whole_embeddings() -> None:
    """Usage out of an embeddings body, whose vectors are not looked at."""
    relay = scan()
    relay.whole(
        b'{"object":"list","data":[{"embedding":[0.1,2]}],"model":"e","usage":{"prompt_tokens":8,"total_tokens":8}}'
    )
    assert relay.meter.usage == Usage(input_tokens=8)
    assert Endpoint.EMBEDDINGS.dialect is relay.dialect


def test_a_whole_error_with_status_200_is_a_failure() -> None:
    """OpenRouter answers some errors with 200."""
    relay = scan()
    relay.whole(b'{"error":{"code":502,"message":"Provider returned error"},"user_id":"u"}')
    assert relay.failure is not None
    assert (relay.failure.status, relay.failure.message) == (502, "Provider returned error")
