"""The gateway's front doors as a caller sees them: how to ask, and how to read what comes back."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rig.raw_client import Response, events_of

KEY = "sk-rig-caller-key-0123456789abcdef"  # the caller's key that every gateway of the rig knows
PROMPT = "Say hello"


@dataclass(frozen=True)
class Door:
    """One front door. `fields` is the smallest request beside the model; `terminal` ends its streams."""

    name: str
    path: str
    dialect: str  # openai, anthropic, responses
    fields: Mapping[str, Any]
    text_of_whole: Callable[[Any], str]
    text_of_stream: Callable[[bytes], str] | None
    terminal: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self, model: str, *, stream: bool = False, **fields: Any) -> bytes:
        """A request's bytes, spaced as no serialiser of ours would space them."""
        asked = {"model": model, **self.fields, **fields, **({"stream": True} if stream else {})}
        return json.dumps(asked, indent=1, ensure_ascii=False).encode()

    def auth(self, key: str = KEY) -> dict[str, str]:
        """The headers that a caller of this door sends."""
        if self.dialect == "anthropic":
            return {"x-api-key": key, "anthropic-version": "2023-06-01", **self.headers}
        return {"authorization": f"Bearer {key}", **self.headers}

    def error_of(self, response: Response) -> dict[str, Any]:
        """The error object of a whole answer, after checking the shape of this door's envelope."""
        body = response.json()
        error: dict[str, Any] = body["error"]
        if self.dialect == "anthropic":
            assert body["type"] == "error", body
            assert {"type", "message"} <= set(error), body
            assert "request_id" in body, body
        else:
            assert set(body) == {"error"}, body
            assert {"message", "type", "param", "code"} <= set(error), body
        return error

    def error_event_of(self, body: bytes) -> dict[str, Any]:
        """The error object of the last event of a stream, after checking the shape of this door's error event."""
        name, data = events_of(body)[-1]
        value = json.loads(data)
        if self.dialect == "anthropic":
            assert name == "error", (name, value)
            assert value["type"] == "error", value
            error = value["error"]
        elif self.dialect == "responses":
            assert name == "response.failed", (name, value)
            assert value["type"] == "response.failed", value
            assert value["response"]["status"] == "failed", value
            error = value["response"]["error"]
        else:
            assert name is None, (name, value)
            error = value["error"]
        assert isinstance(error, dict), value
        return error


def _chat_text(body: Any) -> str:
    return body["choices"][0]["message"]["content"] or ""


def _chat_stream_text(body: bytes) -> str:
    values = [json.loads(data) for _, data in events_of(body) if data != "[DONE]"]
    choices = [choice for value in values for choice in value.get("choices", [])]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def _completions_stream_text(body: bytes) -> str:
    values = [json.loads(data) for _, data in events_of(body) if data != "[DONE]"]
    return "".join(choice["text"] for value in values for choice in value.get("choices", []))


def _messages_text(body: Any) -> str:
    return "".join(block.get("text", "") for block in body["content"] if block["type"] == "text")


def _messages_stream_text(body: bytes) -> str:
    values = [json.loads(data) for _, data in events_of(body)]
    return "".join(value["delta"].get("text", "") for value in values if value["type"] == "content_block_delta")


def _responses_text(body: Any) -> str:
    return "".join(part["text"] for item in body["output"] if item["type"] == "message" for part in item["content"])


def _responses_stream_text(body: bytes) -> str:
    values = [json.loads(data) for _, data in events_of(body)]
    return "".join(value["delta"] for value in values if value["type"] == "response.output_text.delta")


_TURN = {"messages": [{"role": "user", "content": PROMPT}]}

CHAT = Door("chat", "/v1/chat/completions", "openai", _TURN, _chat_text, _chat_stream_text, b"data: [DONE]")
COMPLETIONS = Door(
    "completions",
    "/v1/completions",
    "openai",
    {"prompt": PROMPT},
    lambda body: body["choices"][0]["text"],
    _completions_stream_text,
    b"data: [DONE]",
)
EMBEDDINGS = Door("embeddings", "/v1/embeddings", "openai", {"input": PROMPT}, lambda body: "", None)
RESPONSES = Door(
    "responses",
    "/v1/responses",
    "responses",
    {"input": PROMPT},
    _responses_text,
    _responses_stream_text,
    b"event: response.completed",
)
MESSAGES = Door(
    "messages",
    "/v1/messages",
    "anthropic",
    {**_TURN, "max_tokens": 100},
    _messages_text,
    _messages_stream_text,
    b"event: message_stop",
)
COUNT_TOKENS = Door("count_tokens", "/v1/messages/count_tokens", "anthropic", _TURN, lambda body: "", None)

DOORS = (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, MESSAGES, COUNT_TOKENS)
