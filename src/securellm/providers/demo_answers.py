"""What the demo provider says, in OpenAI's shapes: whole, as a stream, as an embedding, as JSON of a schema. Pure."""

import base64
import hashlib
import math
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

CREATED_S = 0  # there is no clock here, and a made-up time would not be honest

ARGUMENT_PIECE_CHARS = 8  # tool arguments are streamed in pieces of this size, so that clients must join them

_MAX_DEPTH = 16  # of a schema; recursive ones end in an empty object

_PIECE = re.compile(r"\s*\S{1,64}|\s+")  # a word with the space before it, never longer than a line


class ToolCall(msgspec.Struct, frozen=True):
    """One call of a function; `arguments` is JSON text."""

    name: str
    arguments: str


class Said(msgspec.Struct, frozen=True):
    """What the model produced. `tokens` by the demo's rule; a tool call has no text."""

    text: str
    tokens: int
    finish_reason: str
    tool_call: ToolCall | None = None


class Reply(msgspec.Struct, frozen=True):
    """An answer before it is encoded. `chat` false: a text completion."""

    id: str
    model: str
    chat: bool
    stream: bool
    include_usage: bool
    prompt_tokens: int
    said: Said


def reply_id(kind: str, body: bytes) -> str:
    """An id that is the same for the same request."""
    return f"demo-{kind}-{hashlib.sha256(body).hexdigest()[:24]}"


def encode_whole(reply: Reply) -> dict[str, Any]:
    """A chat completion or a text completion."""
    said = reply.said
    choice: dict[str, Any] = {"index": 0}
    if not reply.chat:
        choice["text"] = said.text
    else:
        message: dict[str, Any] = {"role": "assistant", "content": said.text}
        if said.tool_call:
            message = {"role": "assistant", "content": None, "tool_calls": [_tool_call(reply, said.tool_call)]}
        choice["message"] = message
    choice |= {"logprobs": None, "finish_reason": said.finish_reason}
    return {**_head(reply, streamed=False), "choices": [choice], "usage": _usage(reply)}


def stream(reply: Reply) -> Iterator[bytes]:
    """The events of a stream, one a word, ending in `[DONE]`."""
    if reply.chat:
        yield _event(reply, {"delta": {"role": "assistant", "content": None if reply.said.tool_call else ""}})
    if reply.said.tool_call:
        yield from _stream_call(reply, reply.said.tool_call)
    for piece in _PIECE.finditer(reply.said.text):
        yield _event(reply, {"delta": {"content": piece[0]}} if reply.chat else {"text": piece[0]})
    yield _event(reply, {"delta": {}} if reply.chat else {"text": ""}, reply.said.finish_reason)
    if reply.include_usage:
        yield _data({**_head(reply, streamed=True), "choices": [], "usage": _usage(reply)})
    yield b"data: [DONE]\n\n"


def embedding_of(item: str | list[Any], dimensions: int, as_base64: bool) -> list[float] | str:
    """A unit vector that depends on the input alone; it means nothing. Base64 is of little-endian float32."""
    seed = hashlib.sha256(msgspec.json.encode(item)).digest()
    blocks = (hashlib.sha256(seed + struct.pack("<I", block)).digest() for block in range(-(-dimensions // 8)))
    numbers = [number for block in blocks for number in struct.unpack("<8i", block)][:dimensions]
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    packed = struct.pack(f"<{dimensions}f", *(number / length for number in numbers))
    return base64.b64encode(packed).decode() if as_base64 else list(struct.unpack(f"<{dimensions}f", packed))


def instance_of(schema: object, depth: int = 0) -> Any:
    """The smallest value that fits the common part of a JSON schema: const, enum, type, required, items, anyOf."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return {}
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    for union in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(union), list) and schema[union]:
            return instance_of(schema[union][0], depth + 1)
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "array":
        least = schema.get("minItems")
        return [instance_of(schema.get("items"), depth + 1)] * min(least if isinstance(least, int) else 0, 16)
    plain = {"string": "demo", "integer": 1, "number": 1.0, "boolean": True, "null": None}
    if isinstance(kind, str) and kind in plain:
        return plain[kind]
    properties, required = schema.get("properties"), schema.get("required")
    properties = properties if isinstance(properties, Mapping) else {}
    return {name: instance_of(properties.get(name), depth + 1) for name in required or () if isinstance(name, str)}


def _stream_call(reply: Reply, call: ToolCall) -> Iterator[bytes]:
    opening = {**_tool_call(reply, call), "index": 0, "function": {"name": call.name, "arguments": ""}}
    yield _event(reply, {"delta": {"tool_calls": [opening]}})
    for start in range(0, len(call.arguments), ARGUMENT_PIECE_CHARS):
        piece = call.arguments[start : start + ARGUMENT_PIECE_CHARS]
        yield _event(reply, {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}})


def _tool_call(reply: Reply, call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{reply.id[-24:]}", "type": "function", "function": function}


def _event(reply: Reply, content: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
    chunk = {**_head(reply, streamed=True), "choices": [choice]}
    return _data({**chunk, "usage": None} if reply.include_usage else chunk)


def _head(reply: Reply, *, streamed: bool) -> dict[str, Any]:
    kind = "text_completion" if not reply.chat else "chat.completion.chunk" if streamed else "chat.completion"
    return {
        "id": reply.id,
        "object": kind,
        "created": CREATED_S,
        "model": reply.model,
        "system_fingerprint": "demo",
    }


def _usage(reply: Reply) -> dict[str, int]:
    prompt, completion = reply.prompt_tokens, reply.said.tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _data(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
