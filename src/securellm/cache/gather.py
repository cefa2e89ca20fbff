"""The stream of an answer as the whole answer that would have come without streaming. Pure.

Only where nothing is lost: a field that is not known to be merged in one way makes it impossible, and the answer is
then not kept. Sources: OpenAI, "Streaming" of chat completions, completions and responses; Anthropic, "Streaming
messages" (2026-11).
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from securellm.chat import Endpoint, Usage
from securellm.wire.sse import SSESplitter
from securellm.wire.usage import merge_reported, usage_to_openai

JSON = dict[str, Any]

_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")  # fields of a delta that are joined
_LISTS = ("annotations", "securellm_thinking")
_NOT_KEPT = ("choices", "usage", "object", "obfuscation")  # of a chunk; the last is padding


class CannotGather(Exception):
    """The stream is not complete, or says something that has no certain place in a whole answer."""


def gather(endpoint: Endpoint, stream: bytes, usage: Usage | None) -> bytes:
    """The whole answer. `usage` is shown where the stream showed none. Raises CannotGather."""
    splitter = SSESplitter()
    try:
        events = [event.data for event in splitter.feed(stream) if event.data]
        done = events and events[-1] == b"[DONE]"
        values = [msgspec.json.decode(data) for data in events if data != b"[DONE]"]
    except (msgspec.DecodeError, RecursionError) as exc:
        raise CannotGather("it is no stream of json") from exc
    if not all(isinstance(value, dict) for value in values):
        raise CannotGather("it is no stream of objects")
    try:
        match endpoint:
            case Endpoint.CHAT | Endpoint.COMPLETIONS if done:
                whole = _chunks(values, usage, chat=endpoint is Endpoint.CHAT)
            case Endpoint.MESSAGES:
                whole = _message(values)
            case Endpoint.RESPONSES:
                whole = _response(values)
            case _:
                raise CannotGather("it has not ended")
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as exc:
        raise CannotGather("it is not what this dialect sends") from exc
    return msgspec.json.encode(whole)


def _chunks(values: list[JSON], usage: Usage | None, *, chat: bool) -> JSON:
    whole: JSON = {}
    choices: dict[int, JSON] = {}
    shown: Any = None
    for value in values:
        if "error" in value:
            raise CannotGather("it ended in an error")
        whole.update({name: item for name, item in value.items() if name not in _NOT_KEPT and item is not None})
        shown = value.get("usage") or shown
        for choice in value.get("choices") or []:
            _add_choice(choices.setdefault(choice["index"], {"index": choice["index"]}), choice, chat=chat)
    if shown is None and usage is not None:
        shown = usage_to_openai(usage)
    whole["object"] = "chat.completion" if chat else "text_completion"
    whole["choices"] = [choices[index] for index in sorted(choices)]
    if not choices or any(choice.get("finish_reason") is None for choice in choices.values()):
        raise CannotGather("a choice has not ended")
    for choice in choices.values():
        choice.setdefault("logprobs", None)
        if chat and (calls := choice["message"].get("tool_calls")) is not None:
            choice["message"]["tool_calls"] = [calls[index] for index in sorted(calls)]
    return {**whole, "usage": shown}


def _add_choice(into: JSON, choice: JSON, *, chat: bool) -> None:
    for name, value in choice.items():
        if name == "delta" and chat:
            _add_delta(into.setdefault("message", {"role": "assistant", "content": None}), value)
        elif name == "text" and not chat:
            into["text"] = into.get("text", "") + value
        elif name == "logprobs":
            if value is not None:
                into["logprobs"] = _joined_lists(into.get("logprobs"), value)
        elif value is not None:
            into[name] = value
    if chat:
        into.setdefault("message", {"role": "assistant", "content": None})


def _add_delta(message: JSON, delta: JSON) -> None:
    for name, value in delta.items():
        if value is None:
            message.setdefault(name, None)
        elif name in _TEXTS:
            message[name] = (message.get(name) or "") + value
        elif name == "tool_calls":
            calls = message["tool_calls"] = message.get("tool_calls") or {}
            for call in value:
                _add_call(calls, call)
        elif name in _LISTS:
            message[name] = [*(message.get(name) or []), *value]
        elif name == "role":
            message["role"] = value
        else:
            raise CannotGather("a delta has a field that is not known")


def _add_call(calls: dict[int, JSON], fragment: JSON) -> None:
    call = calls.setdefault(fragment["index"], {})
    for name, value in fragment.items():
        if name == "function":
            function = call.setdefault("function", {"name": "", "arguments": ""})
            if unknown := value.keys() - {"name", "arguments"}:
                raise CannotGather(f"a call has {len(unknown)} fields that are not known")
            function["name"] = function["name"] or value.get("name") or ""
            function["arguments"] += value.get("arguments") or ""
        elif name in ("id", "type"):
            if value is not None and call.setdefault(name, value) != value:
                raise CannotGather("two calls have one index")
        elif name != "index" and value is not None:
            raise CannotGather("a call has a field that is not known")


def _joined_lists(before: Any, update: Mapping[str, Any]) -> JSON:
    joined: JSON = dict(before or {})
    for name, value in update.items():
        if value is None:
            joined.setdefault(name, None)
        elif isinstance(value, list):
            joined[name] = [*(joined.get(name) or []), *value]
        else:
            raise CannotGather("logprobs have a field that is not known")
    return joined


def _message(values: list[JSON]) -> JSON:
    message: JSON = {}
    blocks: list[JSON] = []
    arguments: dict[int, list[str]] = {}
    stopped = False
    for value in values:
        match value["type"]:
            case "ping":
                pass
            case "message_start":
                message = dict(value["message"])
            case "content_block_start":
                if value["index"] != len(blocks):
                    raise CannotGather("blocks are not in order")
                blocks.append(dict(value["content_block"]))
            case "content_block_delta":
                _add_block_delta(blocks[value["index"]], value["delta"], arguments.setdefault(value["index"], []))
            case "content_block_stop":
                if fragments := arguments.get(value["index"]):
                    blocks[value["index"]]["input"] = msgspec.json.decode("".join(fragments))
            case "message_delta":
                message.update(value["delta"])
                message["usage"] = merge_reported(message.get("usage"), value.get("usage"))
            case "message_stop":
                stopped = True
            case _:
                raise CannotGather("it has an event that is not known, or an error")
    if not stopped or not message:
        raise CannotGather("it has not ended")
    return {**message, "content": blocks}


def _add_block_delta(block: JSON, delta: JSON, arguments: list[str]) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] = block.get("signature", "") + delta["signature"]
        case "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]
        case "input_json_delta":
            if delta["partial_json"]:
                arguments.append(delta["partial_json"])
        case _:
            raise CannotGather("a block has a delta that is not known")


def _response(values: list[JSON]) -> JSON:
    """The last event has all of it."""
    last = values[-1] if values else {}
    if last.get("type") != "response.completed":
        raise CannotGather("it has not ended, or not well")
    whole: JSON = last["response"]
    return whole
