"""Translated answers: a stream and a whole are one answer, for any cutting of the bytes (guarantees 1, 10, 26, 27)."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rig.crossing import (
    Called,
    Said,
    Sealed,
    Spoken,
    Thought,
    anthropic_stream,
    anthropic_whole,
    ollama_stream,
    ollama_whole,
    openai_stream,
    openai_whole,
)
from rig.sdk_accumulators import accumulate_anthropic, accumulate_openai
from securellm.chat import Dialect, Endpoint
from securellm.errors import UpstreamTruncated
from securellm.wire.translate import TranslatingRelay, open_translating_relay

EXAMPLES = settings(max_examples=120, deadline=None)

# JSON keeps everything but halves of surrogate pairs; line separators must not cut frames (guarantee 55).
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40) | st.sampled_from(
    ["\u2028\u2029\x85\x0b\x0c\x1c", "data: [DONE]\n\n", '"\\', "🦀" * 5, "\r\n\r\n", "a" * 3000]
)
ARGUMENTS = st.one_of(
    st.just({}),
    st.dictionaries(TEXT, TEXT | st.integers() | st.booleans() | st.none() | st.lists(TEXT, max_size=3), max_size=4),
    st.just({"blob": "x" * 4000}),
)
CUT = st.integers(1, 17)


def relay_of(endpoint: Endpoint, dialect: Dialect, **keywords: Any) -> TranslatingRelay:
    given_: dict[str, Any] = {"stream": True, "show_usage": True, "injected_usage": False, "num_ctx": 8192}
    given_ |= {"request_id": "0190-7f", "model": "p/m", "created_s": 5}
    return open_translating_relay(endpoint, dialect, **(given_ | keywords))


def translate_stream(relay: TranslatingRelay, stream: bytes, cuts: list[int]) -> bytes:
    """Feed the stream in pieces; checks that nothing terminal is sent before it is held."""
    edges = sorted({min(cut, len(stream)) for cut in cuts})
    out, held = [], b""
    for start, end in zip([0, *edges], [*edges, len(stream)], strict=True):
        relayed = relay.feed(stream[start:end])
        out.append(relayed.data)
        held += relayed.held
    relayed = relay.end()
    joined = b"".join([*out, relayed.data])
    assert b"data: [DONE]\n\n" not in joined
    assert b"event: message_stop" not in joined
    return joined + held + relayed.held


@st.composite
def calls(draw: st.DrawFn) -> list[Called]:
    names = draw(st.lists(st.sampled_from(["get_weather", "f", "search-2"]), max_size=4))
    return [Called(f"toolu_{n}", name, draw(ARGUMENTS)) for n, name in enumerate(names)]


@st.composite
def plain_answers(draw: st.DrawFn) -> Spoken:
    """What OpenAI's dialect and Ollama can say: thinking, then text, then calls."""
    thought, said, called = draw(TEXT), draw(TEXT), draw(calls())
    blocks = [*([Thought(thought)] if thought else []), *([Said(said)] if said else []), *called]
    finish = "tool_calls" if called else draw(st.sampled_from(["stop", "length"]))
    return Spoken(tuple(blocks), finish)


@st.composite
def anthropic_answers(draw: st.DrawFn) -> Spoken:
    """Interleaved thinking, sealed thinking and text, with the calls last."""
    block = st.one_of(
        st.builds(Thought, TEXT, TEXT.filter(bool)), st.builds(Sealed, TEXT), st.builds(Said, TEXT.filter(bool))
    )
    called = draw(calls())
    finish = "tool_calls" if called else draw(st.sampled_from(["stop", "length", "content_filter"]))
    return Spoken((*draw(st.lists(block, max_size=5)), *called), finish)


def pieces_of(size: int) -> Callable[[str], list[str]]:
    def cut(text: str) -> list[str]:
        step = max(size, len(text) // 50)
        return [text[start : start + step] for start in range(0, len(text), step)]

    return cut


CUTS = st.lists(st.integers(0, 4000), max_size=12)


def chat_view(completion: dict[str, Any]) -> dict[str, Any]:
    """What of a completion must not depend on streaming; arguments as values, since a whole re-spaces them."""
    choice = completion["choices"][0]
    message = choice["message"]
    return {
        "content": message.get("content"),
        "reasoning": message.get("reasoning_content"),
        "sealed": message.get("securellm_thinking"),
        "calls": [
            (call["id"], call["type"], call["function"]["name"], json.loads(call["function"]["arguments"]))
            for call in message.get("tool_calls") or []
        ],
        "finish": choice["finish_reason"],  # the SDK leaves native_finish_reason out
        "usage": completion["usage"],
        "head": (completion["id"], completion["model"], completion["created"], message["role"]),
    }


def message_view(message: dict[str, Any]) -> dict[str, Any]:
    """What of a message must not depend on streaming."""
    names = ("id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage")
    return {name: message[name] for name in names}


@EXAMPLES
@given(anthropic_answers(), CUT, CUTS)
def test_anthropic_to_chat_streams_as_it_answers(spoken: Spoken, size: int, cuts: list[int]):
    """Any answer of Anthropic's, cut anywhere, accumulates in the openai SDK to its whole translation."""
    stream = anthropic_stream(spoken, pieces_of(size))
    streamed = accumulate_openai(translate_stream(relay_of(Endpoint.CHAT, Dialect.ANTHROPIC), stream, cuts))
    whole = json.loads(relay_of(Endpoint.CHAT, Dialect.ANTHROPIC).whole(anthropic_whole(spoken)))
    assert chat_view(streamed) == chat_view(whole)
    view = chat_view(whole)
    assert (view["content"] or "") == spoken.text()
    assert (view["reasoning"] or "") == spoken.thinking()
    assert [call[2:] for call in view["calls"]] == [(call.name, call.arguments) for call in spoken.calls()]
    assert view["usage"]["prompt_tokens"] == spoken.usage["input"]


@EXAMPLES
@given(plain_answers(), CUT, CUTS)
def test_ollama_to_chat_streams_as_it_answers(spoken: Spoken, size: int, cuts: list[int]):
    """Any answer of Ollama's, cut anywhere, accumulates in the openai SDK to its whole translation."""
    stream = ollama_stream(spoken, pieces_of(size))
    streamed = accumulate_openai(translate_stream(relay_of(Endpoint.CHAT, Dialect.OLLAMA), stream, cuts))
    whole = json.loads(relay_of(Endpoint.CHAT, Dialect.OLLAMA).whole(ollama_whole(spoken)))
    assert chat_view(streamed) == chat_view(whole)
    assert (chat_view(whole)["content"] or "") == spoken.text()
    assert [call[2:] for call in chat_view(whole)["calls"]] == [(call.name, call.arguments) for call in spoken.calls()]


@EXAMPLES
@given(
    plain_answers(),
    CUT,
    CUTS,
    st.sampled_from(["apart", "together"]),
    st.sampled_from(["reasoning_content", "reasoning"]),
)
def test_openai_to_messages_streams_as_it_answers(
    spoken: Spoken, size: int, cuts: list[int], arguments: str, reasoning: str
):
    """Any answer in OpenAI's dialect, cut anywhere, accumulates in the anthropic SDK to its whole translation."""
    stream = openai_stream(spoken, pieces_of(size), reasoning=reasoning, arguments=arguments)
    streamed = accumulate_anthropic(translate_stream(relay_of(Endpoint.MESSAGES, Dialect.OPENAI), stream, cuts))
    body = openai_whole(spoken, reasoning=reasoning)
    whole = json.loads(relay_of(Endpoint.MESSAGES, Dialect.OPENAI).whole(body))
    assert message_view(streamed) == message_view(whole)
    assert_message_says(whole, spoken)
    assert whole["usage"]["cache_read_input_tokens"] == spoken.usage["cached"]


@EXAMPLES
@given(plain_answers(), CUT, CUTS)
def test_ollama_to_messages_streams_as_it_answers(spoken: Spoken, size: int, cuts: list[int]):
    """Any answer of Ollama's, cut anywhere, accumulates in the anthropic SDK to its whole translation."""
    stream = ollama_stream(spoken, pieces_of(size))
    streamed = accumulate_anthropic(translate_stream(relay_of(Endpoint.MESSAGES, Dialect.OLLAMA), stream, cuts))
    whole = json.loads(relay_of(Endpoint.MESSAGES, Dialect.OLLAMA).whole(ollama_whole(spoken)))
    assert message_view(streamed) == message_view(whole)
    assert_message_says(whole, spoken)


def assert_message_says(message: dict[str, Any], spoken: Spoken) -> None:
    content = message["content"]
    assert "".join(block["text"] for block in content if block["type"] == "text") == spoken.text()
    assert "".join(block["thinking"] for block in content if block["type"] == "thinking") == spoken.thinking()
    said = [(block["name"], block["input"]) for block in content if block["type"] == "tool_use"]
    assert said == [(call.name, call.arguments) for call in spoken.calls()]


SPOKEN = Spoken(
    (Thought("hm", "c2ln"), Said("Grüß\u2028dich"), Called("t1", "f", {"a": "é"}), Called("t2", "g", {})), "tool_calls"
)
STREAMS = {
    (Endpoint.CHAT, Dialect.ANTHROPIC): anthropic_stream,
    (Endpoint.CHAT, Dialect.OLLAMA): ollama_stream,
    (Endpoint.MESSAGES, Dialect.OPENAI): openai_stream,
    (Endpoint.MESSAGES, Dialect.OLLAMA): ollama_stream,
}
PAIRS = pytest.mark.parametrize("pair", list(STREAMS), ids=lambda pair: f"{pair[0].name}-{pair[1].name}")


@PAIRS
def test_every_cut_gives_the_same_bytes(pair: tuple[Endpoint, Dialect]):
    """Cut once at every offset, inside UTF-8 and between CR and LF too, the translation is the same bytes."""
    stream = STREAMS[pair](SPOKEN, pieces_of(3))
    expected = translate_stream(relay_of(*pair), stream, [])
    for cut in range(len(stream)):
        assert translate_stream(relay_of(*pair), stream, [cut]) == expected


@PAIRS
def test_a_stream_cut_short_has_no_terminal_event(pair: tuple[Endpoint, Dialect]):
    """Ended at any earlier byte it is UpstreamTruncated, and nothing terminal was given out (guarantee 1)."""
    stream = STREAMS[pair](SPOKEN, pieces_of(9)).rstrip(b"\n")
    for length in range(len(stream) - 1):
        relay = relay_of(*pair)
        relayed = relay.feed(stream[:length])
        assert not relayed.held
        assert not relay.terminal
        with pytest.raises(UpstreamTruncated):
            relay.end()
