"""The table of request fields: complete against the official SDKs, and obeyed (guarantee 49)."""

import json
from typing import Any, get_type_hints

import pytest
from anthropic.types import message_create_params as anthropic_params
from anthropic.types.beta import message_create_params as anthropic_beta_params
from openai.types.chat import completion_create_params as openai_params

from securellm.chat import Dialect, Endpoint
from securellm.errors import UnsupportedField
from securellm.wire.fields import FIELDS, Fate
from securellm.wire.translate import translate_request

SDK_FIELDS = {
    Endpoint.CHAT: [openai_params.CompletionCreateParamsNonStreaming, openai_params.CompletionCreateParamsStreaming],
    Endpoint.MESSAGES: [
        anthropic_params.MessageCreateParamsNonStreaming,
        anthropic_params.MessageCreateParamsStreaming,
        anthropic_beta_params.MessageCreateParamsNonStreaming,
        anthropic_beta_params.MessageCreateParamsStreaming,
        anthropic_beta_params.ParseMessageCreateParamsBase,
    ],
}
DIALECTS = {Endpoint.CHAT: {Dialect.ANTHROPIC, Dialect.OLLAMA}, Endpoint.MESSAGES: {Dialect.OPENAI, Dialect.OLLAMA}}
MINIMAL: dict[Endpoint, dict[str, Any]] = {
    Endpoint.CHAT: {"model": "x", "messages": [{"role": "user", "content": "hi"}]},
    Endpoint.MESSAGES: {"model": "x", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
}
TOOL = {"type": "function", "function": {"name": "f"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}

# A telling value of each mapped field, and what shows in the provider's body that it arrived.
MAPPED: dict[tuple[Endpoint, Dialect], dict[str, tuple[Any, str]]] = {
    (Endpoint.CHAT, Dialect.ANTHROPIC): {
        "messages": ([{"role": "user", "content": "MARK"}], "MARK"),
        "model": ("x", '"model":"upstream"'),
        "max_completion_tokens": (77, '"max_tokens":77'),
        "max_tokens": (78, '"max_tokens":78'),
        "reasoning_effort": ("low", '"effort":"low"'),
        "response_format": (SCHEMA, '"output_config":{"format":{"type":"json_schema","schema":{"type":"object"}}}'),
        "stop": ("END", '"stop_sequences":["END"]'),
        "stop_sequences": (["END"], '"stop_sequences":["END"]'),
        "system": ("MARK", '"system":[{"type":"text","text":"MARK"}]'),
        "stream": (True, '"stream":true'),
        "stream_options": ({"include_usage": True}, '"model"'),  # says what our own stream shows
        "temperature": (0.25, '"temperature":0.25'),
        "tools": ([TOOL], '"tools":[{"name":"f","input_schema":{"type":"object","properties":{}}}]'),
        "top_p": (0.5, '"top_p":0.5'),
        "reasoning": ({"effort": "low"}, '"effort":"low"'),
        "thinking": ({"type": "enabled", "budget_tokens": 2000}, '"budget_tokens":2000'),
        "top_k": (7, '"top_k":7'),
    },
    (Endpoint.CHAT, Dialect.OLLAMA): {
        "messages": ([{"role": "user", "content": "MARK"}], "MARK"),
        "model": ("x", '"model":"upstream"'),
        "frequency_penalty": (0.5, '"frequency_penalty":0.5'),
        "presence_penalty": (0.5, '"presence_penalty":0.5'),
        "max_completion_tokens": (77, '"num_predict":77'),
        "max_tokens": (78, '"num_predict":78'),
        "reasoning_effort": ("high", '"think":"high"'),
        "response_format": (SCHEMA, '"format":{"type":"object"}'),
        "seed": (5, '"seed":5'),
        "stop": (["END"], '"stop":["END"]'),
        "stop_sequences": (["END"], '"stop":["END"]'),
        "system": ("MARK", '{"role":"system","content":"MARK"}'),
        "stream": (True, '"stream":true'),
        "stream_options": ({"include_usage": True}, '"model"'),
        "temperature": (1.5, '"temperature":1.5'),
        "tools": ([TOOL], '"name":"f"'),
        "top_p": (0.5, '"top_p":0.5'),
        "min_p": (0.1, '"min_p":0.1'),
        "reasoning": ({"max_tokens": 2000}, '"think":true'),
        "thinking": ({"type": "disabled"}, '"think":false'),
        "top_k": (7, '"top_k":7'),
    },
    (Endpoint.MESSAGES, Dialect.OPENAI): {
        "max_tokens": (77, '"max_completion_tokens":77'),
        "messages": ([{"role": "user", "content": "MARK"}], "MARK"),
        "model": ("x", '"model":"upstream"'),
        "output_config": ({"effort": "low"}, '"reasoning_effort":"low"'),
        "output_format": ({"type": "json_schema", "schema": {"type": "object"}}, '"response_format"'),
        "stop_sequences": (["END"], '"stop":["END"]'),
        "system": ("MARK", '{"role":"system","content":"MARK"}'),
        "thinking": ({"type": "enabled", "budget_tokens": 30000}, '"reasoning_effort":"high"'),
        "tools": ([{"name": "f", "input_schema": {"type": "object"}}], '"name":"f"'),
        "stream": (True, '"stream":true,"stream_options":{"include_usage":true}'),
        "temperature": (0.25, '"temperature":0.25'),
        "top_p": (0.5, '"top_p":0.5'),
    },
    (Endpoint.MESSAGES, Dialect.OLLAMA): {
        "max_tokens": (77, '"num_predict":77'),
        "messages": ([{"role": "user", "content": "MARK"}], "MARK"),
        "model": ("x", '"model":"upstream"'),
        "output_config": ({"effort": "low"}, '"think":"low"'),
        "output_format": ({"type": "json_schema", "schema": {"type": "object"}}, '"format":{"type":"object"}'),
        "stop_sequences": (["END"], '"stop":["END"]'),
        "system": ("MARK", '{"role":"system","content":"MARK"}'),
        "thinking": ({"type": "enabled", "budget_tokens": 2000}, '"think":true'),
        "tools": ([{"name": "f", "input_schema": {"type": "object"}}], '"name":"f"'),
        "stream": (True, '"stream":true'),
        "temperature": (0.25, '"temperature":0.25'),
        "top_k": (7, '"top_k":7'),
        "top_p": (0.5, '"top_p":0.5'),
    },
}
# Mapped fields that say something only beside another, or only to some providers; they have tests of their own.
ELSEWHERE = {"tool_choice", "parallel_tool_calls"}
PAIRS = [(door, dialect) for door in DIALECTS for dialect in sorted(DIALECTS[door], key=lambda dialect: dialect.value)]


def rows(fate: Fate) -> list[Any]:
    return [
        pytest.param(door, dialect, name, id=f"{door.name}-{dialect.name}-{name}")
        for door, dialect in PAIRS
        for name, field in FIELDS[door].items()
        if field.fates[dialect] is fate
    ]


def translate(door: Endpoint, dialect: Dialect, extra: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    body = json.dumps({**MINIMAL[door], **extra}).encode()
    translated = translate_request(door, dialect, body, model="upstream", max_output_tokens=4096)
    return translated.body.decode(), translated.dropped


@pytest.mark.parametrize("door", list(SDK_FIELDS), ids=lambda door: door.name)
def test_every_field_of_the_sdk_has_an_entry(door: Endpoint):
    """A field that a new SDK brings fails here until somebody decides its fate."""
    known = {name for params in SDK_FIELDS[door] for name in get_type_hints(params)}
    assert known - set(FIELDS[door]) == set()


@pytest.mark.parametrize("door", list(DIALECTS), ids=lambda door: door.name)
def test_every_entry_decides_for_every_dialect(door: Endpoint):
    """No row leaves a dialect of provider out."""
    assert {name for name, field in FIELDS[door].items() if set(field.fates) != DIALECTS[door]} == set()


@pytest.mark.parametrize(("door", "dialect", "name"), rows(Fate.MAPPED))
def test_mapped_fields_arrive(door: Endpoint, dialect: Dialect, name: str):
    """A field that the table calls mapped shows in the provider's body and is not listed as dropped."""
    if name in ELSEWHERE or (name, dialect) == ("top_k", Dialect.OPENAI):
        return
    value, shown = MAPPED[door, dialect][name]
    body, dropped = translate(door, dialect, {name: value})
    assert shown in body
    assert dropped == ()


@pytest.mark.parametrize(("door", "dialect", "name"), rows(Fate.REFUSED))
def test_refused_fields_are_named(door: Endpoint, dialect: Dialect, name: str):
    """A field that changes the meaning is refused with its name in `param`; null and harmless values are not."""
    with pytest.raises(UnsupportedField) as caught:
        translate(door, dialect, {name: {"some": "value"}})
    assert caught.value.param == name
    for harmless in (None, *FIELDS[door][name].harmless):
        assert translate(door, dialect, {name: harmless})[1] == ()


@pytest.mark.parametrize(("door", "dialect", "name"), rows(Fate.DROPPED))
def test_dropped_fields_are_listed(door: Endpoint, dialect: Dialect, name: str):
    """A field that only advises is left out and listed; null and values that say nothing are not listed."""
    body, dropped = translate(door, dialect, {name: 12})
    assert dropped == (name,)
    assert name not in json.loads(body)
    for harmless in (None, *FIELDS[door][name].harmless):
        assert translate(door, dialect, {name: harmless})[1] == ()


@pytest.mark.parametrize(("door", "dialect"), PAIRS, ids=lambda value: value.name)
def test_unknown_fields_are_dropped_and_listed(door: Endpoint, dialect: Dialect):
    """What no table knows is not forwarded, and not silent either."""
    body, dropped = translate(door, dialect, {"frobnicate": {"deep": 1}})
    assert dropped == ("frobnicate",)
    assert "frobnicate" not in body


def test_top_k_goes_to_an_openai_provider_that_knows_it():
    """A mapped field may depend on the provider's capabilities; without them it is listed."""
    assert translate(Endpoint.MESSAGES, Dialect.OPENAI, {"top_k": 5})[1] == ("top_k",)


@pytest.mark.parametrize(("value", "refused"), [(1, False), (1.0, False), (2, True), (True, True)])
def test_n_is_one_or_refused(value: Any, refused: bool):
    """One choice is what everybody gives; more cannot be had elsewhere."""
    if refused:
        with pytest.raises(UnsupportedField):
            translate(Endpoint.CHAT, Dialect.ANTHROPIC, {"n": value})
    else:
        assert translate(Endpoint.CHAT, Dialect.ANTHROPIC, {"n": value})[1] == ()
