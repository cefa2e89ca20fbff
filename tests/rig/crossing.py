"""One answer of a model, written in every provider's dialect: as a whole body and as a stream.

What a translator makes of the two must be equal once a client has accumulated it. The writers follow the providers'
documentation and know nothing of the product.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Pieces = Callable[[str], list[str]]  # how a text is cut into deltas


@dataclass(frozen=True)
class Thought:
    """Thinking, with Anthropic's seal where the provider has one."""

    text: str
    signature: str = ""


@dataclass(frozen=True)
class Sealed:
    """Thinking that is not shown (`redacted_thinking`)."""

    data: str


@dataclass(frozen=True)
class Said:
    """Text."""

    text: str


@dataclass(frozen=True)
class Called:
    """A call of a tool."""

    id: str
    name: str
    arguments: dict[str, Any]

    @property
    def text(self) -> str:
        """The arguments as JSON."""
        return json.dumps(self.arguments, ensure_ascii=False)


@dataclass(frozen=True)
class Spoken:
    """The whole answer. `finish` is in OpenAI's words."""

    blocks: tuple[Thought | Sealed | Said | Called, ...]
    finish: str = "stop"
    usage: dict[str, int] = field(default_factory=lambda: {"input": 11, "cached": 3, "output": 7})

    def text(self) -> str:
        """All the words."""
        return "".join(block.text for block in self.blocks if isinstance(block, Said))

    def thinking(self) -> str:
        """All the thoughts that show."""
        return "".join(block.text for block in self.blocks if isinstance(block, Thought))

    def calls(self) -> list[Called]:
        """The calls, in order."""
        return [block for block in self.blocks if isinstance(block, Called)]


_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


# --- Anthropic


def anthropic_whole(spoken: Spoken) -> bytes:
    """The message."""
    content = [_anthropic_block(block, empty=False) for block in spoken.blocks]
    return _json(
        {
            "id": "msg_up",
            "type": "message",
            "role": "assistant",
            "model": "claude-x",
            "content": content,
            "stop_reason": _STOP_REASONS[spoken.finish],
            "stop_sequence": None,
            "usage": _anthropic_usage(spoken),
        }
    )


def anthropic_stream(spoken: Spoken, pieces: Pieces) -> bytes:
    """The stream of the message, with a ping in it."""
    start = json.loads(anthropic_whole(Spoken((), usage=spoken.usage)))
    start.update(stop_reason=None, usage={**_anthropic_usage(spoken), "output_tokens": 1})
    frames = [_event("message_start", message=start), _event("ping")]
    for index, block in enumerate(spoken.blocks):
        frames.append(_event("content_block_start", index=index, content_block=_anthropic_block(block, empty=True)))
        frames += [
            _event("content_block_delta", index=index, delta=delta) for delta in _anthropic_deltas(block, pieces)
        ]
        frames.append(_event("content_block_stop", index=index))
    delta = {"stop_reason": _STOP_REASONS[spoken.finish], "stop_sequence": None}
    frames.append(_event("message_delta", delta=delta, usage={"output_tokens": spoken.usage["output"]}))
    return b"".join([*frames, _event("message_stop")])


def _anthropic_usage(spoken: Spoken) -> dict[str, int]:
    usage = spoken.usage
    return {
        "input_tokens": usage["input"] - usage["cached"],
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage["cached"],
        "output_tokens": usage["output"],
    }


def _anthropic_block(block: Any, *, empty: bool) -> dict[str, Any]:
    match block:
        case Said(text=text):
            return {"type": "text", "text": "" if empty else text}
        case Thought(text=text, signature=signature):
            return {"type": "thinking", "thinking": "" if empty else text, "signature": "" if empty else signature}
        case Sealed(data=data):
            return {"type": "redacted_thinking", "data": data}
        case Called(id=id_, name=name, arguments=arguments):
            return {"type": "tool_use", "id": id_, "name": name, "input": {} if empty else arguments}
    raise AssertionError(block)


def _anthropic_deltas(block: Any, pieces: Pieces) -> Iterator[dict[str, Any]]:
    match block:
        case Said(text=text):
            for piece in pieces(text):
                yield {"type": "text_delta", "text": piece}
        case Thought(text=text, signature=signature):
            for piece in pieces(text):
                yield {"type": "thinking_delta", "thinking": piece}
            yield {"type": "signature_delta", "signature": signature}
        case Called(arguments=arguments) if arguments:
            yield {"type": "input_json_delta", "partial_json": ""}
            for piece in pieces(block.text):
                yield {"type": "input_json_delta", "partial_json": piece}


# --- OpenAI


def openai_whole(spoken: Spoken, *, reasoning: str = "reasoning_content") -> bytes:
    """The chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": spoken.text() or None}
    if spoken.thinking():
        message[reasoning] = spoken.thinking()
    if spoken.calls():
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.text}}
            for call in spoken.calls()
        ]
    choice = {"index": 0, "message": message, "finish_reason": spoken.finish, "logprobs": None}
    return _json({**_OPENAI, "object": "chat.completion", "choices": [choice], "usage": _openai_usage(spoken)})


def openai_stream(
    spoken: Spoken, pieces: Pieces, *, reasoning: str = "reasoning_content", arguments: str = "apart"
) -> bytes:
    """The stream of chunks. `arguments`: in deltas of their own (apart), or all beside the name (together)."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{reasoning: piece} for piece in pieces(spoken.thinking())]
    deltas += [{"content": piece} for piece in pieces(spoken.text())]
    for index, call in enumerate(spoken.calls()):
        head = {"index": index, "id": call.id, "type": "function"}
        opening = call.text if arguments == "together" else ""
        deltas.append({"tool_calls": [{**head, "function": {"name": call.name, "arguments": opening}}]})
        if arguments == "apart" and call.arguments:
            rest = [{"index": index, "function": {"arguments": piece}} for piece in pieces(call.text)]
            deltas += [{"tool_calls": [entry]} for entry in rest]
    frames = [_chunk([{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas]
    frames.append(_chunk([{"index": 0, "delta": {}, "finish_reason": spoken.finish}]))
    frames.append(_chunk([], usage=_openai_usage(spoken)))
    return b"".join([*frames, b"data: [DONE]\n\n"])


_OPENAI = {"id": "chatcmpl-up", "created": 1, "model": "gpt-x"}


def _chunk(choices: list[dict[str, Any]], **extra: Any) -> bytes:
    return b"data: " + _json({**_OPENAI, "object": "chat.completion.chunk", "choices": choices, **extra}) + b"\n\n"


def _openai_usage(spoken: Spoken) -> dict[str, Any]:
    usage = spoken.usage
    return {
        "prompt_tokens": usage["input"],
        "completion_tokens": usage["output"],
        "total_tokens": usage["input"] + usage["output"],
        "prompt_tokens_details": {"cached_tokens": usage["cached"]},
    }


# --- Ollama


def ollama_whole(spoken: Spoken) -> bytes:
    """The answer of /api/chat with `stream: false`."""
    message: dict[str, Any] = {"role": "assistant", "content": spoken.text()}
    if spoken.thinking():
        message["thinking"] = spoken.thinking()
    if spoken.calls():
        message["tool_calls"] = [_ollama_call(call) for call in spoken.calls()]
    return _json(_ollama_line(message, **_ollama_done(spoken)))


def ollama_stream(spoken: Spoken, pieces: Pieces) -> bytes:
    """The lines of /api/chat."""
    messages: list[dict[str, Any]] = [{"content": "", "thinking": piece} for piece in pieces(spoken.thinking())]
    messages += [{"content": piece} for piece in pieces(spoken.text())]
    messages += [{"content": "", "tool_calls": [_ollama_call(call)]} for call in spoken.calls()]
    lines = [_ollama_line({"role": "assistant", **message}, done=False) for message in messages]
    lines.append(_ollama_line({"role": "assistant", "content": ""}, **_ollama_done(spoken)))
    return b"".join(_json(line) + b"\n" for line in lines)


def _ollama_line(message: dict[str, Any], **extra: Any) -> dict[str, Any]:
    return {"model": "llama-x", "created_at": "2026-01-01T00:00:00Z", "message": message, **extra}


def _ollama_done(spoken: Spoken) -> dict[str, Any]:
    reason = "stop" if spoken.finish == "tool_calls" else spoken.finish
    usage = {"prompt_eval_count": spoken.usage["input"], "eval_count": spoken.usage["output"]}
    return {"done": True, "done_reason": reason, **usage}


def _ollama_call(call: Called) -> dict[str, Any]:
    return {"function": {"name": call.name, "arguments": call.arguments}}


def _event(name: str, **fields: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + _json({"type": name, **fields}) + b"\n\n"


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
