"""Agents' bodies that mix the families' shapes are understood, part by part (guarantee 51).

Each file of `hybrids/` is a body composed after its kind of client's public behaviour, and what is expected of it.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from rig.strict import anthropic_complaints, anthropic_parts, ollama_complaints, openai_complaints, openai_parts
from securellm.chat import Dialect, Endpoint
from securellm.errors import BadRequest, UnsupportedField
from securellm.wire.translate import translate_request

FILES = sorted(Path(__file__).with_name("hybrids").glob("*.json"))
COMPLAINTS = {
    Dialect.ANTHROPIC: anthropic_complaints,
    Dialect.OPENAI: openai_complaints,
    Dialect.OLLAMA: ollama_complaints,
}
PARTS = {Dialect.ANTHROPIC: anthropic_parts, Dialect.OPENAI: openai_parts}


def cases() -> list[Any]:
    found = []
    for path in FILES:
        hybrid = json.loads(path.read_text(encoding="utf-8"))
        for dialect, expected in hybrid["expect"].items():
            found.append(pytest.param(hybrid, Dialect[dialect], expected, id=f"{path.stem}-{dialect}"))
    return found


@pytest.mark.parametrize(("hybrid", "dialect", "expected"), cases())
def test_hybrid_bodies(hybrid: dict[str, Any], dialect: Dialect, expected: dict[str, Any]):
    """The body crosses under the provider's own rules with every part counted, or is refused by the expected name."""
    door, body = Endpoint[hybrid["door"]], json.dumps(hybrid["body"]).encode()
    if "refused" in expected:
        with pytest.raises(UnsupportedField) as caught:
            translate_request(door, dialect, body, model="m", max_output_tokens=4096)
        assert caught.value.param == expected["refused"]
        return
    translated = translate_request(door, dialect, body, model="m", max_output_tokens=4096, num_ctx=8192)
    out = json.loads(translated.body)
    assert COMPLAINTS[dialect](out) == []
    assert sorted(translated.dropped) == sorted(expected["dropped"])
    if "parts" in expected:
        assert +PARTS[dialect](out) == expected["parts"]
    assert out.get("stream", False) is hybrid["body"].get("stream", False)


def test_there_are_hybrids_of_each_kind():
    """The folder holds what the guarantee names."""
    kinds = {path.stem.split("-")[0] for path in FILES}
    assert {"cursor", "cline", "codex", "open", "claude"} <= kinds


def test_a_responses_body_on_the_chat_door_is_told_where_to_go():
    """A body with `input` and no messages gets a message that names the right door."""
    with pytest.raises(BadRequest, match="/v1/responses") as caught:
        translate_request(
            Endpoint.CHAT, Dialect.ANTHROPIC, b'{"model":"x","input":"hi"}', model="m", max_output_tokens=1
        )
    assert caught.value.param == "messages"
