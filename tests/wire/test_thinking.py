"""Thinking goes out through another family's door and comes back as it was, or is refused by name (guarantee 11)."""

import json
from typing import Any

import pytest

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
from rig.strict import anthropic_complaints, ollama_complaints, openai_complaints
from securellm.chat import Dialect, Endpoint
from securellm.errors import BadRequest, UnsupportedField
from securellm.wire.translate import Translated, open_translating_relay, translate_request
from securellm.wire.words import Capabilities

TURNS = {
    "thinking then text": (Thought("let me see", "c2lnMQ=="), Said("It is four.")),
    "signature only": (Thought("", "b25seQ=="), Said("Four.")),
    "redacted": (Sealed("ZW5jcnlwdGVk"), Said("Four.")),
    "interleaved": (
        Thought("a", "s1"),
        Said("first"),
        Sealed("zz"),
        Thought("b", "s2"),
        Said("second 🦀"),
        Thought("c", "s3"),
    ),
    "thinking then tool": (Thought("use it", "s1"), Called("toolu_1", "f", {"x": 1})),
    "thinking then tools then text": (
        Thought("t", "s1"),
        Said("wait"),
        Called("toolu_1", "f", {}),
        Called("toolu_2", "f", {}),
    ),
    "thinking between tools": (
        Thought("t", "s1"),
        Called("toolu_1", "f", {}),
        Thought("u", "s2"),
        Called("toolu_2", "g", {}),
    ),
    "two thoughts in a row": (Thought("t", "s1"), Thought("u", "s2"), Sealed("a"), Sealed("b"), Said("done")),
}


def ask(door: Endpoint, dialect: Dialect, body: dict[str, Any], **keywords: Any) -> Translated:
    return translate_request(door, dialect, json.dumps(body).encode(), model="m", max_output_tokens=4096, **keywords)


def answer(door: Endpoint, dialect: Dialect, body: bytes, *, stream: bool, request_id: str) -> dict[str, Any]:
    """The answer as the caller's official SDK ends up with it."""
    relay = open_translating_relay(
        door,
        dialect,
        stream=stream,
        show_usage=True,
        injected_usage=True,
        request_id=request_id,
        model="p/m",
        created_s=1,
    )
    if not stream:
        return json.loads(relay.whole(body))
    relayed = relay.feed(body)
    accumulate = accumulate_openai if door is Endpoint.CHAT else accumulate_anthropic
    return accumulate(relayed.data + relayed.held)


def pieces(text: str) -> list[str]:
    return [text[n : n + 3] for n in range(0, len(text), 3)]


def results_of(calls: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"role": "tool", "tool_call_id": id_, "content": f"result of {name}"} for id_, name in calls]


def chat_turn(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The assistant's message as an OpenAI client sends it back, with results of its calls and the next question."""
    back = {name: value for name, value in message.items() if value is not None and name not in ("refusal", "parsed")}
    calls = [(call["id"], call["function"]["name"]) for call in back.get("tool_calls", [])]
    return [back, *results_of(calls), {"role": "user", "content": "and then?"}]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("turn", list(TURNS))
def test_anthropic_blocks_return_byte_for_byte(turn: str, stream: bool):
    """Each kind of block, in its place, comes back to Anthropic as Anthropic made it."""
    spoken = Spoken(TURNS[turn], "tool_calls" if turn.startswith("thinking") and "tool" in turn else "stop")
    body = anthropic_stream(spoken, pieces) if stream else anthropic_whole(spoken)
    completion = answer(Endpoint.CHAT, Dialect.ANTHROPIC, body, stream=stream, request_id="r1")
    messages = [{"role": "user", "content": "2+2?"}, *chat_turn(completion["choices"][0]["message"])]
    back = json.loads(ask(Endpoint.CHAT, Dialect.ANTHROPIC, {"model": "x", "messages": messages}).body)
    assert back["messages"][1]["content"] == json.loads(anthropic_whole(spoken))["content"]
    assert anthropic_complaints(back) == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_three_turns_of_tools_with_anthropic(stream: bool):
    """A conversation with a call in each turn: every turn's blocks are there, unchanged, in every later request."""
    history: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
    said: list[list[dict[str, Any]]] = []
    for number in range(3):
        blocks = (Thought(f"step {number}", f"s{number}"), Sealed("x"), Called(f"toolu_{number}", "f", {"n": number}))
        spoken = Spoken(blocks, "tool_calls")
        body = anthropic_stream(spoken, pieces) if stream else anthropic_whole(spoken)
        completion = answer(Endpoint.CHAT, Dialect.ANTHROPIC, body, stream=stream, request_id=f"r{number}")
        history += chat_turn(completion["choices"][0]["message"])
        said.append(json.loads(anthropic_whole(spoken))["content"])
        request = json.loads(ask(Endpoint.CHAT, Dialect.ANTHROPIC, {"model": "x", "messages": history}).body)
        assert [turn["content"] for turn in request["messages"] if turn["role"] == "assistant"] == said
        assert anthropic_complaints(request) == []


def openai_turn(dialect: Dialect, spoken: Spoken, *, stream: bool) -> bytes:
    if dialect is Dialect.OLLAMA:
        return ollama_stream(spoken, pieces) if stream else ollama_whole(spoken)
    return openai_stream(spoken, pieces) if stream else openai_whole(spoken)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.OLLAMA], ids=lambda dialect: dialect.name)
def test_three_turns_of_tools_behind_the_messages_door(dialect: Dialect, stream: bool):
    """Reasoning of the other families comes back to them in their own field, with calls and results paired."""
    history: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
    for number in range(3):
        blocks = (Thought(f"step {number}"), Said("calling"), Called(f"c{number}", "f", {"n": number}))
        body = openai_turn(dialect, Spoken(blocks, "tool_calls"), stream=stream)
        message = answer(Endpoint.MESSAGES, dialect, body, stream=stream, request_id=f"r{number}")
        calls = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
        results = [{"type": "tool_result", "tool_use_id": id_, "content": "ok"} for id_ in calls]
        history += [{"role": "assistant", "content": message["content"]}, {"role": "user", "content": results}]
        translated = ask(Endpoint.MESSAGES, dialect, {"model": "x", "max_tokens": 9, "messages": history})
        request = json.loads(translated.body)
        field = "thinking" if dialect is Dialect.OLLAMA else "reasoning_content"
        turns = [turn for turn in request["messages"] if turn["role"] == "assistant"]
        assert [turn[field] for turn in turns] == [f"step {n}" for n in range(number + 1)]
        assert [turn["content"] for turn in turns] == ["calling"] * (number + 1)
        ids = [call["id"] for turn in turns for call in turn["tool_calls"]]
        assert len(set(ids)) == number + 1
        complaints = ollama_complaints if dialect is Dialect.OLLAMA else openai_complaints
        assert complaints(request) == []
        assert translated.dropped == ()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_three_turns_of_tools_with_ollama_behind_the_chat_door(stream: bool):
    """Ollama's thinking comes back to it from `reasoning_content`, and results know their tool's name."""
    history: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
    for number in range(3):
        body = openai_turn(
            Dialect.OLLAMA, Spoken((Thought(f"step {number}"), Called("", "f", {})), "tool_calls"), stream=stream
        )
        completion = answer(Endpoint.CHAT, Dialect.OLLAMA, body, stream=stream, request_id=f"r{number}")
        history += chat_turn(completion["choices"][0]["message"])
        request = json.loads(ask(Endpoint.CHAT, Dialect.OLLAMA, {"model": "x", "messages": history}).body)
        turns = [turn for turn in request["messages"] if turn["role"] == "assistant"]
        assert [turn["thinking"] for turn in turns] == [f"step {n}" for n in range(number + 1)]
        assert [turn["tool_name"] for turn in request["messages"] if turn["role"] == "tool"] == ["f"] * (number + 1)
        assert len({call["id"] for turn in turns for call in turn["tool_calls"]}) == number + 1


def test_a_position_past_an_edited_text_means_its_end():
    """A client that shortens the text does not lose the thinking that stood behind it."""
    sealed = [{"type": "thinking", "thinking": "t", "signature": "s", "text_before": 900, "tool_calls_before": 0}]
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "short", "securellm_thinking": sealed},
    ]
    request = json.loads(ask(Endpoint.CHAT, Dialect.ANTHROPIC, {"model": "x", "messages": messages}).body)
    assert [block["type"] for block in request["messages"][1]["content"]] == ["text", "thinking"]


def test_unsealed_reasoning_for_anthropic_is_listed():
    """Reasoning of another provider has no seal, which Anthropic demands: left out, and said so."""
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "r"}]
    translated = ask(Endpoint.CHAT, Dialect.ANTHROPIC, {"model": "x", "messages": messages})
    assert translated.dropped == ("messages.reasoning_content",)


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.OLLAMA], ids=lambda dialect: dialect.name)
def test_sealed_thinking_is_refused_elsewhere(dialect: Dialect):
    """Only Anthropic can read redacted_thinking, so a request with it is refused by name for anybody else."""
    content = [{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "a"}]
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": content}]
    with pytest.raises(UnsupportedField) as caught:
        ask(Endpoint.MESSAGES, dialect, {"model": "x", "max_tokens": 9, "messages": messages})
    assert "redacted_thinking" in str(caught.value.param)


def test_thinking_for_a_provider_without_the_field_is_listed():
    """Thinking text is left out where assistant messages cannot carry it, and a foreign seal is listed."""
    content = [{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "text", "text": "a"}]
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": content}]
    body = {"model": "x", "max_tokens": 9, "messages": messages}
    without = Capabilities(reasoning_content=False)
    translated = ask(Endpoint.MESSAGES, Dialect.OPENAI, body, capabilities=without)
    assert translated.dropped == ("messages.thinking.signature", "messages.thinking")
    assert b"reasoning_content" not in translated.body


def test_a_broken_opaque_block_is_named():
    """What is not a block of ours under securellm_thinking is the caller's mistake, with its path."""
    messages = [{"role": "assistant", "content": "a", "securellm_thinking": [{"type": "surprise"}]}]
    with pytest.raises(BadRequest) as caught:
        ask(Endpoint.CHAT, Dialect.ANTHROPIC, {"model": "x", "messages": messages})
    assert caught.value.param == "messages[0].securellm_thinking[0].type"


SEALED_DETAILS = [
    {"type": "reasoning.text", "text": "one", "signature": "s1", "format": "anthropic-claude-v1", "index": 0},
    {"type": "reasoning.encrypted", "data": "zz", "format": "anthropic-claude-v1", "index": 1},
    {"type": "reasoning.text", "text": "two", "signature": "s2", "format": "anthropic-claude-v1", "index": 2},
]


def details_stream() -> bytes:
    """OpenRouter's stream of an answer of Claude's: text in pieces, each seal by itself."""
    deltas = []
    for detail in SEALED_DETAILS:
        common = {"format": detail["format"], "index": detail["index"], "type": detail["type"]}
        if "data" in detail:
            deltas.append({"reasoning_details": [{**common, "data": detail["data"]}]})
            continue
        for piece in pieces(detail["text"] + "!")[:1]:
            deltas.append({"reasoning": piece, "reasoning_details": [{**common, "text": piece}]})
        deltas.append({"content": "", "reasoning_details": [{**common, "signature": detail["signature"]}]})
    deltas.append({"content": "done"})
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_seals_pass_through_openrouter(stream: bool):
    """Claude's seals in reasoning_details become blocks of the messages door and go back as they came."""
    message = {"content": "done", "reasoning": "onetwo", "reasoning_details": SEALED_DETAILS}
    whole = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    body = details_stream() if stream else whole
    said = answer(Endpoint.MESSAGES, Dialect.OPENAI, body, stream=stream, request_id="r")
    assert said["content"] == [
        {"type": "thinking", "thinking": "one", "signature": "s1"},
        {"type": "redacted_thinking", "data": "zz"},
        {"type": "thinking", "thinking": "two", "signature": "s2"},
        {"type": "text", "text": "done"},
    ]
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": said["content"]}]
    request = {"model": "x", "max_tokens": 9, "messages": messages}
    knows = Capabilities(reasoning_details=True)
    back = ask(Endpoint.MESSAGES, Dialect.OPENAI, request, capabilities=knows)
    assert json.loads(back.body)["messages"][1]["reasoning_details"] == SEALED_DETAILS
    assert back.dropped == ()
