"""Reasons to stop: the map is total, both ways, and the provider's own word is kept (guarantee 48)."""

import json
from typing import Any, get_args

import pytest
from anthropic.types import StopReason
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.chat_completion import Choice

from securellm.chat import Dialect, Endpoint
from securellm.wire.finish import finish_reason, stop_reason
from securellm.wire.translate import open_translating_relay

ANTHROPIC_TO_OPENAI = {
    "end_turn": "stop",
    "max_tokens": "length",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "pause_turn": "stop",
    "refusal": "content_filter",
    "model_context_window_exceeded": "length",
}
OPENAI_TO_ANTHROPIC = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
OLLAMA_TO_OPENAI = {"stop": "stop", "length": "length", "load": "stop", "unload": "stop"}
UNKNOWN = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20)


def relay_whole(endpoint: Endpoint, dialect: Dialect, body: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    relay = open_translating_relay(
        endpoint,
        dialect,
        stream=False,
        show_usage=False,
        injected_usage=False,
        request_id="r",
        model="p/m",
        created_s=1,
    )
    return json.loads(relay.whole(json.dumps(body).encode())), relay.meter


def from_anthropic(native: str) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "text", "text": "a"}], "stop_reason": native}


def from_openai(native: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": native}]}


def from_ollama(native: str) -> dict[str, Any]:
    return {"message": {"content": "a"}, "done": True, "done_reason": native}


def test_the_tables_know_every_word_of_the_sdks():
    """A word that a new SDK brings fails here until somebody maps it."""
    assert set(get_args(StopReason)) == set(ANTHROPIC_TO_OPENAI)
    assert set(get_args(Choice.model_fields["finish_reason"].annotation)) == set(OPENAI_TO_ANTHROPIC)


@pytest.mark.parametrize(("native", "expected"), ANTHROPIC_TO_OPENAI.items())
def test_anthropic_reasons_on_chat(native: str, expected: str):
    """Each of Anthropic's words becomes OpenAI's, with its own beside it."""
    answer, meter = relay_whole(Endpoint.CHAT, Dialect.ANTHROPIC, from_anthropic(native))
    assert answer["choices"][0]["finish_reason"] == expected == meter.finish_reason
    assert answer["choices"][0]["native_finish_reason"] == native == meter.native_finish


@pytest.mark.parametrize(("native", "expected"), OPENAI_TO_ANTHROPIC.items())
def test_openai_reasons_on_messages(native: str, expected: str):
    """Each of OpenAI's words becomes Anthropic's, with its own beside it."""
    answer, meter = relay_whole(Endpoint.MESSAGES, Dialect.OPENAI, from_openai(native))
    assert answer["stop_reason"] == expected
    assert answer["native_stop_reason"] == native == meter.native_finish


@pytest.mark.parametrize(("native", "expected"), OLLAMA_TO_OPENAI.items())
def test_ollama_reasons_on_both_doors(native: str, expected: str):
    """Each of Ollama's words becomes OpenAI's and Anthropic's."""
    answer, _ = relay_whole(Endpoint.CHAT, Dialect.OLLAMA, from_ollama(native))
    assert answer["choices"][0]["finish_reason"] == expected
    answer, _ = relay_whole(Endpoint.MESSAGES, Dialect.OLLAMA, from_ollama(native))
    assert answer["stop_reason"] == OPENAI_TO_ANTHROPIC[expected]


@given(UNKNOWN)
def test_unknown_reasons_pass_through(native: str):
    """A word that nobody knows yet is shown as it is, on every pair."""
    if native in {*ANTHROPIC_TO_OPENAI, *OPENAI_TO_ANTHROPIC, *OLLAMA_TO_OPENAI}:
        return
    for dialect in (Dialect.OPENAI, Dialect.ANTHROPIC, Dialect.OLLAMA):
        assert finish_reason(dialect, native) == native
    assert stop_reason(native) == native
    answer, _ = relay_whole(Endpoint.CHAT, Dialect.ANTHROPIC, from_anthropic(native))
    assert answer["choices"][0]["finish_reason"] == answer["choices"][0]["native_finish_reason"] == native
    answer, _ = relay_whole(Endpoint.MESSAGES, Dialect.OPENAI, from_openai(native))
    assert answer["stop_reason"] == answer["native_stop_reason"] == native


def test_a_stop_after_a_call_is_a_call():
    """Providers that say `stop` after tool calls, as OpenAI does for a named choice, mean `tool_calls`."""
    message = {"content": None, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}
    body = {"choices": [{"message": message, "finish_reason": "stop"}]}
    answer, _ = relay_whole(Endpoint.MESSAGES, Dialect.OPENAI, body)
    assert (answer["stop_reason"], answer["native_stop_reason"]) == ("tool_use", "stop")


def test_a_refusal_is_a_refusal():
    """OpenAI's refusal text is text on the messages door, and its `stop` becomes `refusal`."""
    body = {"choices": [{"message": {"content": None, "refusal": "I cannot."}, "finish_reason": "stop"}]}
    answer, _ = relay_whole(Endpoint.MESSAGES, Dialect.OPENAI, body)
    assert answer["content"] == [{"type": "text", "text": "I cannot."}]
    assert answer["stop_reason"] == "refusal"
