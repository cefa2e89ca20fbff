"""What a client has in its hands once a stream is over: the whole answer, in the dialect of the stream.

Written from the providers' documentation of their streams, independently of the product.
"""

import json
from typing import Any

from rig.raw_client import events_of


def accumulate_chat(stream: bytes) -> dict[str, Any]:
    """A chat stream as a `chat.completion`. Choices and tool calls are told apart by their index."""
    whole: dict[str, Any] = {"object": "chat.completion", "choices": [], "usage": None}
    choices: dict[int, dict[str, Any]] = {}
    for value in _values(stream):
        for name in ("id", "created", "model", "system_fingerprint"):
            if value.get(name) is not None:
                whole.setdefault(name, value[name])
        usage = value.get("usage") or (value.get("x_groq") or {}).get("usage")  # Groq's own place for it in streams
        if usage:
            whole["usage"] = usage
        for choice in value.get("choices") or []:
            message = {"role": "assistant", "content": None}
            into = choices.setdefault(
                choice["index"], {"index": choice["index"], "message": message, "finish_reason": None}
            )
            _add_delta(into["message"], choice.get("delta") or {})
            if choice.get("finish_reason"):
                into["finish_reason"] = choice["finish_reason"]
    whole["choices"] = [choices[index] for index in sorted(choices)]
    return whole


def accumulate_messages(stream: bytes) -> dict[str, Any]:
    """A messages stream as a `message`. Checks that blocks nest: each starts once, in order, and stops."""
    whole: dict[str, Any] = {}
    arguments: dict[int, str] = {}
    open_index: int | None = None
    for value in _values(stream):
        match value["type"]:
            case "message_start":
                whole = value["message"]
            case "content_block_start":
                assert open_index is None, "a block starts inside another"
                open_index = value["index"]
                assert open_index == len(whole["content"]), "block indexes are not dense"
                whole["content"].append(dict(value["content_block"]))
            case "content_block_delta":
                assert value["index"] == open_index, "a delta for a block that is not open"
                _add_block_delta(whole["content"][value["index"]], value["delta"], arguments, value["index"])
            case "content_block_stop":
                assert value["index"] == open_index, "a stop for a block that is not open"
                open_index = None
            case "message_delta":
                whole.update(value["delta"])
                whole["usage"] = {**whole.get("usage", {}), **(value.get("usage") or {})}
    assert open_index is None, "a block never stops"
    for index, text in arguments.items():
        whole["content"][index]["input"] = json.loads(text or "{}")
    return whole


def accumulate_ollama(stream: bytes) -> dict[str, Any]:
    """An Ollama stream as the answer that would have come without streaming."""
    whole: dict[str, Any] = {}
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    for line in stream.split(b"\n"):
        if not line.strip():
            continue
        value = json.loads(line)
        said = value.get("message") or {}
        for name in ("content", "thinking"):
            if said.get(name):
                message[name] = message.get(name, "") + said[name]
        if said.get("tool_calls"):
            message["tool_calls"] = [*message.get("tool_calls", []), *said["tool_calls"]]
        whole = {**value, "message": message}
    return whole


def _values(stream: bytes) -> list[dict[str, Any]]:
    text = stream.replace(b"\r\n", b"\n")
    return [json.loads(data) for _, data in events_of(text) if data.strip() != "[DONE]"]


def _add_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            for call in value or []:
                _add_call(message.setdefault("tool_calls", []), call)
        elif name == "role" or value is None:
            continue
        elif isinstance(value, str):
            message[name] = (message.get(name) or "") + value
        elif isinstance(value, list):
            message[name] = [*(message.get(name) or []), *value]
        else:
            message[name] = value


def _add_call(calls: list[dict[str, Any]], call: dict[str, Any]) -> None:
    index = call.get("index", len(calls))
    while len(calls) <= index:
        calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
    into, function = calls[index], call.get("function") or {}
    into["id"] = into["id"] or call.get("id")
    into["function"]["name"] = into["function"]["name"] or function.get("name") or ""
    into["function"]["arguments"] += function.get("arguments") or ""


def _add_block_delta(block: dict[str, Any], delta: dict[str, Any], arguments: dict[int, str], index: int) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] = block.get("signature", "") + delta["signature"]
        case "input_json_delta":
            arguments[index] = arguments.get(index, "") + delta["partial_json"]
        case "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]
