"""What of a body is text, what an image, and what only the window bounds."""

import base64
import json

import pytest

from securellm.chat import Endpoint
from securellm.wire.weight import (
    ADDED_TOKENS,
    DEFINED_TOOL_ADDED_TOKENS,
    TOOLS_ADDED_TOKENS,
    Weight,
    weigh,
)

PICTURE = base64.b64encode(b"\x89PNG" + bytes(3000)).decode()
DATA_URL = f"data:image/png;base64,{PICTURE}"
ANTHROPIC_IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}}


def _user(*parts: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": list(parts)}]}


def _weigh(endpoint: Endpoint, document: dict[str, object]) -> tuple[Weight, int]:
    body = json.dumps(document).encode()
    return weigh(endpoint, body), len(body)


def test_text_weighs_its_bytes() -> None:
    """A body of text weighs its bytes and the words that providers put around a conversation."""
    weight, size = _weigh(Endpoint.CHAT, {"model": "m", "messages": [{"role": "user", "content": "hällo"}]})
    assert weight == Weight(input_tokens=size + ADDED_TOKENS)


@pytest.mark.parametrize(
    ("endpoint", "part"),
    [
        (Endpoint.CHAT, {"type": "image_url", "image_url": {"url": DATA_URL}}),
        (Endpoint.MESSAGES, ANTHROPIC_IMAGE),
        (Endpoint.MESSAGES, {"type": "tool_result", "tool_use_id": "t", "content": [ANTHROPIC_IMAGE]}),
        (Endpoint.RESPONSES, {"type": "input_image", "image_url": DATA_URL}),
    ],
)
def test_an_image_is_counted_and_its_bytes_are_not(endpoint: Endpoint, part: dict[str, object]) -> None:
    """Every dialect's picture inside the body is one image, and its base64 is no text."""
    document = _user(part)
    if endpoint is Endpoint.RESPONSES:
        document["input"] = document.pop("messages")
    weight, size = _weigh(endpoint, document)
    assert weight.images == 1
    assert weight.input_tokens <= size - len(PICTURE) + ADDED_TOKENS
    assert not weight.windowed


def test_an_image_elsewhere_is_an_image() -> None:
    """A picture that the body only names is one image, with all bytes of its name as text."""
    weight, size = _weigh(Endpoint.CHAT, _user({"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}))
    assert weight == Weight(input_tokens=size + ADDED_TOKENS, images=1)


@pytest.mark.parametrize(
    "document",
    [
        {
            **_user({"type": "text", "text": "hi"}),
            "tools": [{"type": "function", "default": {"image_url": {"url": DATA_URL}}}],
        },
        _user({"type": "tool_use", "id": "t", "name": "f", "input": ANTHROPIC_IMAGE}),
        _user({"type": "text", "text": DATA_URL}),
        _user({"type": "text", "text": "x", "source": {"type": "base64", "data": PICTURE}}),
    ],
)
def test_what_only_looks_like_an_image_is_text(document: dict[str, object]) -> None:
    """A picture where no provider takes one weighs its bytes: it will be read as text."""
    weight, size = _weigh(Endpoint.MESSAGES, document)
    assert weight.images == 0
    assert weight.input_tokens >= size


@pytest.mark.parametrize(
    ("endpoint", "document"),
    [
        (Endpoint.CHAT, _user({"type": "file", "file": {"file_id": "f"}})),
        (Endpoint.CHAT, _user({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}})),
        (Endpoint.CHAT, _user({"type": "something_new"})),
        (Endpoint.MESSAGES, _user({"type": "document", "source": {"type": "url", "url": "https://x.test/a.pdf"}})),
        (Endpoint.MESSAGES, {**_user(), "mcp_servers": [{"type": "url", "url": "https://x.test", "name": "x"}]}),
        (Endpoint.MESSAGES, {**_user(), "tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
        (Endpoint.RESPONSES, {"model": "m", "input": "go on", "previous_response_id": "resp_1"}),
        (Endpoint.RESPONSES, {"model": "m", "prompt": {"id": "pmpt_1"}}),
        (Endpoint.RESPONSES, {"model": "m", "input": [{"type": "item_reference", "id": "x"}]}),
        (Endpoint.CHAT, {"model": "m", "messages": [7]}),
    ],
)
def test_what_is_not_in_the_body_is_bounded_by_the_window(endpoint: Endpoint, document: dict[str, object]) -> None:
    """Files, audio, documents, earlier answers, tools that run at the provider and unknown parts need the window."""
    assert _weigh(endpoint, document)[0].windowed


def test_an_escaped_type_is_the_type() -> None:
    """A part's type written with escapes is read as what it says, so nothing is hidden by spelling."""
    body = rb'{"model":"m","messages":[{"role":"user","content":[{"ty\u0070e":"doc\u0075ment","source":{}}]}]}'
    assert weigh(Endpoint.MESSAGES, body).windowed


def test_tools_add_instructions() -> None:
    """Tools weigh the instructions that a provider adds for them, more for those that it defines itself."""
    tools = [{"type": "function", "function": {"name": "f"}}, {"type": "bash_20250124", "name": "bash"}]
    weight, size = _weigh(Endpoint.MESSAGES, {"model": "m", "messages": [], "tools": tools})
    assert weight.input_tokens == size + ADDED_TOKENS + TOOLS_ADDED_TOKENS + DEFINED_TOOL_ADDED_TOKENS
    assert not weight.windowed


@pytest.mark.parametrize(
    ("prompt", "answers"),
    [("a", 1), (["a", "b", "c"], 3), ([1, 2, 3], 1), ([[1, 2], [3]], 2), ([], 1), (None, 1)],
)
def test_every_prompt_is_answered(prompt: object, answers: int) -> None:
    """A completion of several prompts has an answer for each of them."""
    assert _weigh(Endpoint.COMPLETIONS, {"model": "m", "prompt": prompt})[0].answers == answers


def test_speech_and_predictions_are_told() -> None:
    """Spoken answers have a rate of their own; a prediction that is rejected is charged as output."""
    document = {**_user(), "modalities": ["text", "audio"], "prediction": {"type": "content", "content": "abc"}}
    weight, _ = _weigh(Endpoint.CHAT, document)
    assert weight.audio_output
    assert weight.predicted_tokens >= 3
