"""Translated requests: nothing is lost, and what comes out keeps the provider's own rules (guarantees 50, 11)."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rig.strict import (
    anthropic_complaints,
    anthropic_parts,
    ollama_complaints,
    ollama_parts,
    openai_complaints,
    openai_parts,
)
from securellm.chat import Dialect, Endpoint
from securellm.wire.translate import translate_request

EXAMPLES = settings(max_examples=150, deadline=None)

TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
PNG = "data:image/png;base64,iVBORw0KGgo="
PDF = "data:application/pdf;base64,JVBERi0="
ARGUMENTS = st.dictionaries(TEXT, TEXT | st.integers(-5, 5) | st.none(), max_size=2)
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]
ANTHROPIC_TOOLS = [{"name": "f", "description": "d", "input_schema": {"type": "object"}}]


def translate(door: Endpoint, dialect: Dialect, body: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    translated = translate_request(
        door, dialect, json.dumps(body).encode(), model="upstream", max_output_tokens=4096, num_ctx=8192
    )
    return json.loads(translated.body), translated.dropped


def chat_part(*, documents: bool) -> st.SearchStrategy[dict[str, Any]]:
    kinds = [
        st.builds(lambda text: {"type": "text", "text": text}, TEXT),
        st.just({"type": "image_url", "image_url": {"url": PNG}}),
    ]
    if documents:
        kinds.append(st.just({"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}))
        kinds.append(st.just({"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}}))
    return st.one_of(kinds)


@st.composite
def chat_conversations(draw: st.DrawFn, *, documents: bool = True) -> dict[str, Any]:
    """A conversation as OpenAI's clients send it: system first, then turns with calls and their results."""
    messages: list[dict[str, Any]] = []
    for role in draw(st.lists(st.sampled_from(["system", "developer"]), max_size=2)):
        messages.append({"role": role, "content": draw(TEXT)})
    number = 0
    for _ in range(draw(st.integers(1, 4))):
        parts = draw(st.lists(chat_part(documents=documents), min_size=1, max_size=3) | TEXT)
        messages.append({"role": "user", "content": parts})
        calls = []
        for arguments in draw(st.lists(ARGUMENTS, max_size=3)):
            text = draw(st.just("")) if not arguments else json.dumps(arguments)
            calls.append({"id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": text}})
            number += 1
        reply: dict[str, Any] = {"role": "assistant", "content": draw(TEXT | st.just("")) if calls else draw(TEXT)}
        if calls:
            reply["tool_calls"] = calls
            reply["content"] = reply["content"] or draw(st.sampled_from(["", None]))
        messages.append(reply)
        for call in draw(st.permutations(calls)):
            content = draw(TEXT | st.lists(st.builds(lambda text: {"type": "text", "text": text}, TEXT), min_size=1))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})
    if draw(st.booleans()):
        messages.append({"role": "user", "content": draw(TEXT)})
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(TEXT)})
    return {"model": "x", "messages": messages, "tools": TOOLS}


@st.composite
def anthropic_conversations(draw: st.DrawFn, *, documents: bool = True) -> dict[str, Any]:
    """A conversation as Anthropic's clients send it."""
    text = st.builds(lambda text: {"type": "text", "text": text}, TEXT)
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    image = st.just({"type": "image", "source": source})
    kinds = [text, image]
    if documents:
        kinds.append(st.just({"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}))
        pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
        kinds.append(st.just({"type": "document", "source": pdf, "title": "a.pdf"}))
    content = st.lists(st.one_of(kinds), min_size=1, max_size=3)
    messages: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    number = 0
    for _ in range(draw(st.integers(1, 4))):
        messages.append({"role": "user", "content": [*results, *draw(content)]})
        thinking = draw(st.lists(TEXT, max_size=1))
        reply: list[dict[str, Any]] = [
            {"type": "thinking", "thinking": thought, "signature": ""} for thought in thinking
        ]
        reply += draw(st.lists(text, min_size=1, max_size=2))
        results = []
        for arguments in draw(st.lists(ARGUMENTS, max_size=2)):
            reply.append({"type": "tool_use", "id": f"t{number}", "name": "f", "input": arguments})
            given_content = draw(st.none() | TEXT | st.lists(text | image, max_size=2))
            results.append({"type": "tool_result", "tool_use_id": f"t{number}", "is_error": draw(st.booleans())})
            if given_content is not None:
                results[-1]["content"] = given_content
            number += 1
        messages.append({"role": "assistant", "content": reply})
    messages.append({"role": "user", "content": [*results, *draw(content)]})
    body: dict[str, Any] = {"model": "x", "max_tokens": 100, "messages": messages, "tools": ANTHROPIC_TOOLS}
    system = draw(st.none() | TEXT | st.lists(text, min_size=1, max_size=2))
    if system is not None:
        body["system"] = system
    return body


@EXAMPLES
@given(chat_conversations())
def test_chat_to_anthropic_keeps_every_part(body: dict[str, Any]):
    """As many parts of each kind come out as went in, and Anthropic's rules are kept."""
    translated, dropped = translate(Endpoint.CHAT, Dialect.ANTHROPIC, body)
    assert anthropic_complaints(translated) == []
    assert anthropic_parts(translated) == openai_parts(body)
    assert dropped == ()


@EXAMPLES
@given(chat_conversations(documents=False))
def test_chat_to_ollama_keeps_every_part(body: dict[str, Any]):
    """Pictures, calls, results and every word come out, and Ollama's rules are kept."""
    translated, dropped = translate(Endpoint.CHAT, Dialect.OLLAMA, body)
    assert ollama_complaints(translated) == []
    before, after = openai_parts(body), ollama_parts(translated)
    for kind in ("image", "tool_use", "tool_result"):
        assert after[kind] == before[kind]
    assert _words(translated["messages"]) == _words(body["messages"])
    assert dropped == ()


@EXAMPLES
@given(anthropic_conversations())
def test_messages_to_openai_keeps_every_part(body: dict[str, Any]):
    """As many parts of each kind come out as went in, and OpenAI's rules are kept."""
    translated, dropped = translate(Endpoint.MESSAGES, Dialect.OPENAI, body)
    assert openai_complaints(translated) == []
    assert openai_parts(translated) == anthropic_parts(body)
    assert set(dropped) <= {"messages.tool_result.is_error"}


@EXAMPLES
@given(anthropic_conversations(documents=False))
def test_messages_to_ollama_keeps_every_part(body: dict[str, Any]):
    """Pictures, calls, results, thinking and every word come out, and Ollama's rules are kept."""
    translated, _ = translate(Endpoint.MESSAGES, Dialect.OLLAMA, body)
    assert ollama_complaints(translated) == []
    before, after = anthropic_parts(body), ollama_parts(translated)
    for kind in ("image", "tool_use", "tool_result", "thinking"):
        assert after[kind] == before[kind]


def _words(messages: list[dict[str, Any]]) -> list[str]:
    """The text of each message, with the texts of its parts joined as for Ollama."""
    words = []
    for message in messages:
        content = message.get("content") or ""
        if not isinstance(content, str):
            content = "\n\n".join(part["text"] for part in content if part["type"] == "text")
        words.append(content)
    return words
