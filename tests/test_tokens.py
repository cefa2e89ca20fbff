"""How many tokens a text or a request has: which models can be counted, and what a count is worth."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rig.token_oracles import published
from securellm._fast import vocabulary
from securellm.tokens import (
    Counted,
    count_request_tokens,
    count_tokens,
    encoding_of,
    estimate_request_tokens,
    estimate_tokens,
    is_loaded,
)

HELLO = 1  # tokens of "Hello", as of "user", "system", "assistant"
MESSAGE = 3  # what a message is wrapped in
REPLY = 3


def _request(**fields: Any) -> bytes:
    return json.dumps({"model": "openai/gpt-4o", "messages": [], **fields}).encode()


def _user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-5", "o200k_base"),
        ("gpt-5.1-codex", "o200k_base"),
        ("gpt-5-mini-2025-08-07", "o200k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("gpt-4.5-preview", "o200k_base"),
        ("gpt-4o", "o200k_base"),
        ("gpt-4o-mini-2024-07-18", "o200k_base"),
        ("chatgpt-4o-latest", "o200k_base"),
        ("gpt-oss-120b", "o200k_base"),
        ("o1", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("o4-mini", "o200k_base"),
        ("ft:gpt-4o-mini:acme::abc", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-4-0613", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("ft:gpt-3.5-turbo:acme", "cl100k_base"),
        ("text-embedding-3-large", "cl100k_base"),
        ("gpt-4.9", None),
        ("gpt-40", None),
        ("o11", None),
        ("davinci-002", None),
        ("m1", None),
    ],
)
def test_encodings_by_name(model: str, encoding: str | None) -> None:
    """OpenAI's models have the encoding that their name begins with; a name that is not known has none."""
    assert encoding_of("openai", model) == encoding


@pytest.mark.parametrize("kind", ["openai-compatible", "ollama", "deepseek", "anthropic"])
def test_names_say_nothing_elsewhere(kind: str) -> None:
    """A server that calls its model gpt-4o may have any model behind it."""
    assert encoding_of(kind, "gpt-4o") is None


def test_texts_are_counted_exactly() -> None:
    """A text has the tokens of its encoding, special ones being text; then the tables are there."""
    assert count_tokens("Hello, world!", "o200k_base") == 4
    assert count_tokens("<|endoftext|>", "cl100k_base") == 7
    assert is_loaded("o200k_base")
    assert not is_loaded("r50k_base")


@pytest.mark.parametrize("encoding", vocabulary.ENCODINGS)
def test_every_text_has_at_most_its_bytes(encoding: str) -> None:
    """A token is a byte at least, so that no count passes the size: what reserving by size rests on."""
    text = published(encoding)[:10_000].decode()
    assert 0 < count_tokens(text, encoding) <= len(text)


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({}, REPLY),
        ({"messages": [_user("Hello")]}, REPLY + MESSAGE + 1 + HELLO),
        ({"messages": [_user("")]}, REPLY + MESSAGE + 1),
        ({"system": "Hello", "messages": [_user("Hello")]}, REPLY + 2 * (MESSAGE + 1 + HELLO)),
        (
            {"messages": [_user([{"type": "text", "text": "Hello"}, {"type": "text", "text": "Hello"}])]},
            REPLY + MESSAGE + 1 + 2 * HELLO,
        ),
        ({"system": [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}]}, 3 + MESSAGE + 2),
        ({"messages": [_user("Hello")], "max_tokens": 5, "metadata": {"user_id": "long " * 50}}, 3 + MESSAGE + 2),
    ],
)
def test_requests_of_texts_are_counted(fields: dict[str, Any], tokens: int) -> None:
    """Texts in messages are counted with what wraps them; what the model does not read is left out."""
    assert count_request_tokens(_request(**fields), "o200k_base") == Counted(tokens, "counted")


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"name": "look", "description": "Look around.", "input_schema": {"type": "object"}}]},
        {"messages": [_user([{"type": "tool_result", "tool_use_id": "t", "content": "Look around."}])]},
        {"messages": [_user([{"type": "thinking", "thinking": "Look around.", "signature": "s"}])]},
        {"messages": [_user([{"type": "document", "source": {"type": "text", "data": "Look around."}}])]},
    ],
)
def test_requests_of_more_than_texts_are_estimated(fields: dict[str, Any]) -> None:
    """What OpenAI does not say the tokens of makes the count an estimate, which holds its texts."""
    counted = count_request_tokens(_request(**fields), "o200k_base")
    assert counted.source == "estimated"
    assert counted.tokens >= count_tokens("Look around.", "o200k_base") + REPLY


def test_images_count_as_nothing() -> None:
    """Encoded data is no text, neither for the count nor for the estimate."""
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 100_000}}
    body = _request(messages=[_user([picture])])
    for encoding in ("o200k_base", None):
        counted = count_request_tokens(body, encoding)
        assert counted.tokens < 30
        assert counted.source == "estimated"


@pytest.mark.parametrize("encoding", ["o200k_base", None])
@pytest.mark.parametrize(
    "odd", [b'"temperature":1e999', b'"x":' + b"[" * 50_000 + b"]" * 50_000], ids=["number", "depth"]
)
def test_what_cannot_be_decoded_is_estimated(encoding: str | None, odd: bytes) -> None:
    """A body that is JSON, but more than can be held, has an estimate by its size."""
    body = b'{"model":"m","messages":[],' + odd + b"}"
    assert count_request_tokens(body, encoding) == Counted(estimate_tokens(len(body)), "estimated")


@given(st.recursive(st.none() | st.text() | st.integers() | st.booleans(), lambda inner: st.lists(inner, max_size=4)))
def test_odd_shapes_have_a_count(content: object) -> None:
    """Whatever stands where texts are expected, there is a count."""
    body = _request(messages=[_user(content), content], system=content, tools=content)
    assert count_request_tokens(body, "cl100k_base").tokens >= REPLY


@pytest.mark.parametrize("indent", [None, 1])
def test_large_requests_are_read_alike(indent: int | None) -> None:
    """A body that is decoded level by level has the figures of its small parts together."""
    content = [{"type": "text", "text": f"Hello {number}"} for number in range(5000)]
    messages = [_user("Hello"), _user(content), {"role": "assistant", "content": "word " * 50_000}]
    body = json.dumps({"model": "openai/gpt-4o", "messages": messages}, indent=indent).encode()
    texts = ["Hello", *(block["text"] for block in content), "word " * 50_000]
    expected = REPLY + 3 * (MESSAGE + 1) + sum(count_tokens(text, "o200k_base") for text in texts)
    assert count_request_tokens(body, "o200k_base") == Counted(expected, "counted")
    nested = b'{"a":' + b"[" * 20 + body + b"]" * 20 + b"}"
    assert estimate_request_tokens(nested) == estimate_request_tokens(body) > 5000


def test_estimates() -> None:
    """Elsewhere four bytes are a token, rounded up, over the texts of the request."""
    assert [estimate_tokens(size) for size in (0, 1, 4, 5)] == [0, 1, 1, 2]
    body = _request(model="m", messages=[{"role": "user", "content": "é" * 100}])
    assert estimate_request_tokens(body) == -(-(len("m") + len("user") + 200) // 4)
    assert count_request_tokens(body, None) == Counted(estimate_request_tokens(body), "estimated")
