"""Lists of models: what providers send, and what `/v1/models` shows."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securellm.config.tree import Provider as Section
from securellm.errors import UpstreamInvalid
from securellm.providers.base import Provider
from securellm.providers.models import (
    MAX_MODELS,
    ModelCard,
    card_anthropic,
    card_openai,
    encode_date,
    list_anthropic,
    list_openai,
    parse_date_s,
    parse_models,
)
from securellm.providers.registry import describe
from securellm.providers.shipped import load_shipped


def _provider(name: str) -> Provider:
    return describe(name, Section(enabled=True))


def test_openai_lists() -> None:
    """OpenAI's shape, with the limits that compatible servers add under their own names."""
    body = {
        "object": "list",
        "data": [
            {"id": "gpt-4o", "object": "model", "created": 1715367049, "owned_by": "system"},
            {"id": "g", "created": 0, "context_window": 131072, "max_completion_tokens": 8192},
            {"id": "o", "context_length": 400000},
            {"id": "m", "max_context_length": 32768},
            {"id": "v", "max_model_len": 4096},
        ],
    }
    cards = parse_models(_provider("openai"), json.dumps(body).encode())
    assert [(card.id, card.context, card.max_output, card.created_s) for card in cards] == [
        ("openai/gpt-4o", None, None, 1715367049),
        ("openai/g", 131072, 8192, 0),
        ("openai/o", 400000, None, 0),
        ("openai/m", 32768, None, 0),
        ("openai/v", 4096, None, 0),
    ]


def test_anthropic_lists() -> None:
    """Anthropic's shape, with its date, name and limits."""
    entry = {
        "type": "model",
        "id": "claude-opus-5",
        "display_name": "Claude Opus 5",
        "created_at": "2026-07-24T00:00:00Z",
        "max_input_tokens": 1000000,
        "max_tokens": 128000,
    }
    (card,) = parse_models(_provider("anthropic"), json.dumps({"data": [entry], "has_more": False}).encode())
    assert card == ModelCard("anthropic", "claude-opus-5", 1000000, 128000, 1784851200, "Claude Opus 5")
    assert card_anthropic(card) == {**entry, "id": "anthropic/claude-opus-5"}


def test_ollama_lists() -> None:
    """Ollama's tags."""
    body = {"models": [{"name": "qwen3:4b", "model": "qwen3:4b", "size": 1}, {"name": "llama3.2:latest"}]}
    cards = parse_models(_provider("ollama"), json.dumps(body).encode())
    assert [card.id for card in cards] == ["ollama/qwen3:4b", "ollama/llama3.2:latest"]


def test_other_shapes() -> None:
    """Gemini's prefix is stripped; a bare array is understood; llama-server's second list is ignored."""
    gemini = b'{"data":[{"id":"models/gemini-2.5-flash"}]}'
    assert parse_models(_provider("gemini"), gemini)[0].id == "gemini/gemini-2.5-flash"
    assert parse_models(_provider("vllm"), b'[{"id":"a/b"}]')[0].id == "vllm/a/b"
    both = b'{"data":[{"id":"x"}],"models":[{"name":"y"}]}'
    assert [card.model for card in parse_models(_provider("llamacpp"), both)] == ["x"]


def test_unusable_entries_are_left_out() -> None:
    """Entries without a printable id, doubles, and what is beyond the bound do not become models."""
    body = b'{"data":[{"id":7},{"object":"model"},3,{"id":"a\\u0000b"},{"id":""},{"id":"ok"},{"id":"ok"}]}'
    assert [card.model for card in parse_models(_provider("openai"), body)] == ["ok"]
    many = json.dumps({"data": [{"id": f"m{number}"} for number in range(MAX_MODELS + 5)]}).encode()
    assert len(parse_models(_provider("openai"), many)) == MAX_MODELS


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"data":{}}', b'{"error":{"message":"x"}}', b"3", b"\xff"])
def test_what_is_no_list_is_refused(body: bytes) -> None:
    """An error page is not an empty list: what was known stays."""
    with pytest.raises(UpstreamInvalid):
        parse_models(_provider("openai"), body)


def test_shapes_of_our_list() -> None:
    """Both shapes, with `<provider>/<model>` ids, the provider as owner, and no made-up dates."""
    cards = [ModelCard("groq", "openai/gpt-oss-20b", 131072, 65536, 5), ModelCard("demo", "echo")]
    assert list_openai(cards) == {
        "object": "list",
        "data": [
            {
                "id": "groq/openai/gpt-oss-20b",
                "object": "model",
                "created": 5,
                "owned_by": "groq",
                "context_window": 131072,
                "max_completion_tokens": 65536,
            },
            {"id": "demo/echo", "object": "model", "created": 0, "owned_by": "demo"},
        ],
    }
    shown = list_anthropic(cards)
    assert (shown["has_more"], shown["first_id"], shown["last_id"]) == (False, "groq/openai/gpt-oss-20b", "demo/echo")
    assert shown["data"][1] == {
        "type": "model",
        "id": "demo/echo",
        "display_name": "echo",
        "created_at": "1970-01-01T00:00:00Z",
    }
    assert list_anthropic([]) == {"data": [], "has_more": False, "first_id": None, "last_id": None}
    assert card_openai(cards[0])["object"] == "model"


@given(st.integers(0, 2**33 - 1))
def test_dates(seconds: int) -> None:
    """Dates are RFC 3339 in UTC, both ways."""
    text = encode_date(seconds)
    assert text == datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert parse_date_s(text) == seconds


def test_odd_dates_are_unknown() -> None:
    """What is no date is no date."""
    assert parse_date_s("2026-02-28") == 1772236800
    for text in ("", "yesterday", "2026-02-30", "2026-13-01", "1969-12-31", "2026-01-01T00:00:00+05:00"):
        assert parse_date_s(text) == 0


def test_the_shipped_catalogue() -> None:
    """It loads, names each model once, and gives demo as free and nothing else."""
    cards = load_shipped()
    assert len({card.id for card in cards}) == len(cards) > 50
    assert {card.id for card in cards if card.free} == {"demo/echo", "demo/lorem"}
    by_id = {card.id: card for card in cards}
    assert by_id["anthropic/claude-opus-5"].max_output == 128000
    assert by_id["openai/gpt-4o"].context == 128000
