"""What providers say, whole and streamed, in each dialect: the answers that scripts are filled with.

Every speech reports the usage `INPUT_TOKENS` in and `OUTPUT_TOKENS` out, so that a suite can assert one figure.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

INPUT_TOKENS = 11
OUTPUT_TOKENS = 7
MODEL = "m1"  # the provider's own id of the model that the suites ask for

_OPENAI_USAGE = {
    "prompt_tokens": INPUT_TOKENS,
    "completion_tokens": OUTPUT_TOKENS,
    "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
}
_RESPONSES_USAGE = {
    "input_tokens": INPUT_TOKENS,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": OUTPUT_TOKENS,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
}


@dataclass(frozen=True)
class Tool:
    """A call of a tool: its name and its arguments as JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Speech:
    """A dialect at one of a provider's endpoints.

    `whole(text, tools)` is a complete body, `events(pieces, tools)` the frames of a stream: some of opening, at least
    one a piece, then the closing ones, of which the last is the terminal event. `kind` is how streams are framed.
    """

    name: str
    whole: Callable[..., dict[str, Any]]
    events: Callable[..., list[bytes]] | None
    error: Callable[..., dict[str, Any]]
    kind: str = "sse"


def _data(value: Any) -> bytes:
    return b"data: " + _json(value) + b"\n\n"


def _event(name: str, value: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + _json({"type": name, **value}) + b"\n\n"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


# --- OpenAI: chat completions


def chat_whole(text: str = "Hello", tools: Sequence[Tool] = ()) -> dict[str, Any]:
    """A chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if tools:
        message["tool_calls"] = [
            {"id": f"call_{index}", "type": "function", "function": {"name": tool.name, "arguments": tool.arguments}}
            for index, tool in enumerate(tools)
        ]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if tools else "stop", "logprobs": None}
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [choice],
        "usage": _OPENAI_USAGE,
    }


def chat_chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    """One frame of a chat stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return _data(
        {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}
    )


def chat_usage_chunk() -> bytes:
    """The frame with no choices that `include_usage` asks for."""
    return _data(
        {
            "id": "chatcmpl-fake",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": MODEL,
            "choices": [],
            "usage": _OPENAI_USAGE,
        }
    )


def chat_events(
    pieces: Sequence[str] = ("Hel", "lo"), tools: Sequence[Tool] = (), *, usage: bool = True
) -> list[bytes]:
    """A chat stream: role, text, tool calls in two halves each, finish, usage, [DONE]."""
    events = [chat_chunk({"role": "assistant", "content": ""}), *(chat_chunk({"content": piece}) for piece in pieces)]
    for index, tool in enumerate(tools):
        opening = {"index": index, "id": f"call_{index}", "type": "function"}
        events.append(chat_chunk({"tool_calls": [{**opening, "function": {"name": tool.name, "arguments": ""}}]}))
        events += [
            chat_chunk({"tool_calls": [{"index": index, "function": {"arguments": half}}]})
            for half in _halves(tool.arguments)
        ]
    events.append(chat_chunk({}, "tool_calls" if tools else "stop"))
    return [*events, *([chat_usage_chunk()] if usage else []), b"data: [DONE]\n\n"]


def openai_error(status: int, message: str = "scripted") -> dict[str, Any]:
    """OpenAI's error body."""
    return {"error": {"message": message, "type": f"fake_{status}", "param": None, "code": f"code_{status}"}}


# --- OpenAI: completions, embeddings


def completions_whole(text: str = "Hello", tools: Sequence[Tool] = ()) -> dict[str, Any]:
    """A text completion."""
    return {
        "id": "cmpl-fake",
        "object": "text_completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}],
        "usage": _OPENAI_USAGE,
    }


def completions_events(pieces: Sequence[str] = ("Hel", "lo"), tools: Sequence[Tool] = ()) -> list[bytes]:
    """A stream of text completions."""
    base = {"id": "cmpl-fake", "object": "text_completion", "created": 1, "model": MODEL}
    events = [_data({**base, "choices": [{"index": 0, "text": piece, "finish_reason": None}]}) for piece in pieces]
    events.append(_data({**base, "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}))
    events.append(_data({**base, "choices": [], "usage": _OPENAI_USAGE}))
    return [*events, b"data: [DONE]\n\n"]


def embeddings_whole(text: str = "Hello", tools: Sequence[Tool] = ()) -> dict[str, Any]:
    """A list of one embedding."""
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}],
        "model": MODEL,
        "usage": {"prompt_tokens": INPUT_TOKENS, "total_tokens": INPUT_TOKENS},
    }


# --- OpenAI: Responses


def _response(status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "id": "resp_fake",
        "object": "response",
        "created_at": 1,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": MODEL,
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage,
    }


def _output(text: str, tools: Sequence[Tool]) -> list[dict[str, Any]]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    items: list[dict[str, Any]] = [
        {"id": "msg_fake", "type": "message", "status": "completed", "role": "assistant", "content": content}
    ]
    for index, tool in enumerate(tools):
        call = {"id": f"fc_{index}", "type": "function_call", "status": "completed", "call_id": f"call_{index}"}
        items.append({**call, "name": tool.name, "arguments": tool.arguments})
    return items


def responses_whole(text: str = "Hello", tools: Sequence[Tool] = ()) -> dict[str, Any]:
    """A response."""
    return _response("completed", _output(text, tools), _RESPONSES_USAGE)


def responses_events(pieces: Sequence[str] = ("Hel", "lo"), tools: Sequence[Tool] = ()) -> list[bytes]:
    """A stream of one message and any calls, closed by `response.completed`."""
    output = _output("".join(pieces), tools)
    named: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": _response("in_progress", [], None)}),
        ("response.in_progress", {"response": _response("in_progress", [], None)}),
        (
            "response.output_item.added",
            {"output_index": 0, "item": {**output[0], "status": "in_progress", "content": []}},
        ),
        (
            "response.content_part.added",
            {
                "item_id": "msg_fake",
                "output_index": 0,
                "content_index": 0,
                "part": {"type": "output_text", "text": "", "annotations": []},
            },
        ),
    ]
    at = {"item_id": "msg_fake", "output_index": 0, "content_index": 0}
    named += [("response.output_text.delta", {**at, "delta": piece, "logprobs": []}) for piece in pieces]
    named.append(("response.output_text.done", {**at, "text": "".join(pieces), "logprobs": []}))
    named.append(("response.content_part.done", {**at, "part": output[0]["content"][0]}))
    named.append(("response.output_item.done", {"output_index": 0, "item": output[0]}))
    for index, tool in enumerate(tools, start=1):
        item = output[index]
        at = {"item_id": item["id"], "output_index": index}
        named.append(("response.output_item.added", {"output_index": index, "item": {**item, "arguments": ""}}))
        named += [("response.function_call_arguments.delta", {**at, "delta": half}) for half in _halves(tool.arguments)]
        named.append(("response.function_call_arguments.done", {**at, "name": tool.name, "arguments": tool.arguments}))
        named.append(("response.output_item.done", {"output_index": index, "item": item}))
    named.append(("response.completed", {"response": _response("completed", output, _RESPONSES_USAGE)}))
    return [_event(name, {"sequence_number": number, **value}) for number, (name, value) in enumerate(named)]


# --- Anthropic


def messages_whole(text: str = "Hello", tools: Sequence[Tool] = ()) -> dict[str, Any]:
    """A message."""
    content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    content += [
        {"type": "tool_use", "id": f"toolu_{index}", "name": tool.name, "input": json.loads(tool.arguments or "{}")}
        for index, tool in enumerate(tools)
    ]
    return {
        "id": "msg_fake",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": content,
        "stop_reason": "tool_use" if tools else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS},
    }


def messages_events(pieces: Sequence[str] = ("Hel", "lo"), tools: Sequence[Tool] = ()) -> list[bytes]:
    """A stream of one message: opening, a ping, text, tools, usage, `message_stop`."""
    opening = {**messages_whole(""), "content": [], "stop_reason": None}
    opening["usage"] = {"input_tokens": INPUT_TOKENS, "output_tokens": 1}
    events = [_event("message_start", {"message": opening}), _event("ping", {})]
    events.append(_event("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}))
    events += [
        _event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": piece}}) for piece in pieces
    ]
    events.append(_event("content_block_stop", {"index": 0}))
    for index, tool in enumerate(tools, start=1):
        block = {"type": "tool_use", "id": f"toolu_{index - 1}", "name": tool.name, "input": {}}
        events.append(_event("content_block_start", {"index": index, "content_block": block}))
        events += [
            _event("content_block_delta", {"index": index, "delta": {"type": "input_json_delta", "partial_json": half}})
            for half in _halves(tool.arguments)
        ]
        events.append(_event("content_block_stop", {"index": index}))
    delta = {"stop_reason": "tool_use" if tools else "end_turn", "stop_sequence": None}
    events.append(_event("message_delta", {"delta": delta, "usage": {"output_tokens": OUTPUT_TOKENS}}))
    return [*events, _event("message_stop", {})]


def anthropic_error(status: int, message: str = "scripted") -> dict[str, Any]:
    """Anthropic's error body."""
    return {"type": "error", "error": {"type": f"fake_{status}", "message": message}, "request_id": "req_fake"}


def count_tokens_whole(text: str = "Hello", tools: Sequence[Tool] = ()) -> dict[str, Any]:
    """A count of tokens."""
    return {"input_tokens": INPUT_TOKENS}


# --- Ollama

_OLLAMA_DONE = {
    "done_reason": "stop",
    "done": True,
    "total_duration": 5,
    "load_duration": 1,
    "prompt_eval_count": INPUT_TOKENS,
    "prompt_eval_duration": 1,
    "eval_count": OUTPUT_TOKENS,
    "eval_duration": 1,
}


def _ollama_line(message: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "created_at": "2026-01-01T00:00:00Z", "message": {"role": "assistant", **message}, **fields}


def _ollama_calls(tools: Sequence[Tool]) -> dict[str, Any]:
    calls = [{"function": {"name": tool.name, "arguments": json.loads(tool.arguments or "{}")}} for tool in tools]
    return {"tool_calls": calls} if calls else {}


def ollama_whole(text: str = "Hello", tools: Sequence[Tool] = ()) -> dict[str, Any]:
    """A chat answer."""
    return _ollama_line({"content": text, **_ollama_calls(tools)}, **_OLLAMA_DONE)


def ollama_events(pieces: Sequence[str] = ("Hel", "lo"), tools: Sequence[Tool] = ()) -> list[bytes]:
    """A chat stream of JSON lines, the last one with `done`."""
    lines = [_ollama_line({"content": piece}, done=False) for piece in pieces]
    lines += [_ollama_line({"content": "", **_ollama_calls([tool])}, done=False) for tool in tools]
    lines.append(_ollama_line({"content": ""}, **_OLLAMA_DONE))
    return [_json(line) + b"\n" for line in lines]


def ollama_error(status: int, message: str = "scripted") -> dict[str, Any]:
    """Ollama's error body."""
    return {"error": message}


CHAT = Speech("chat", chat_whole, chat_events, openai_error)
COMPLETIONS = Speech("completions", completions_whole, completions_events, openai_error)
EMBEDDINGS = Speech("embeddings", embeddings_whole, None, openai_error)
RESPONSES = Speech("responses", responses_whole, responses_events, openai_error)
MESSAGES = Speech("messages", messages_whole, messages_events, anthropic_error)
COUNT_TOKENS = Speech("count_tokens", count_tokens_whole, None, anthropic_error)
OLLAMA = Speech("ollama", ollama_whole, ollama_events, ollama_error, kind="ndjson")
