"""What each provider refuses: the documented rules for a chat request, as a list of complaints (empty is accepted).

As strict as the strictest provider of the family: an unknown field anywhere is a complaint. `parts` counts what a
conversation holds, so that a translation can be shown to lose nothing.
"""

import base64
import json
from collections import Counter
from typing import Any

_ANTHROPIC_FIELDS = {
    *("model", "max_tokens", "system", "messages", "tools", "tool_choice", "stop_sequences", "temperature", "top_p"),
    *("top_k", "thinking", "output_config", "stream"),
}
_ANTHROPIC_BLOCKS = {
    "text": {"type", "text", "cache_control"},
    "image": {"type", "source", "cache_control"},
    "document": {"type", "source", "title", "cache_control"},
    "thinking": {"type", "thinking", "signature"},
    "redacted_thinking": {"type", "data"},
    "tool_use": {"type", "id", "name", "input", "cache_control"},
    "tool_result": {"type", "tool_use_id", "content", "is_error", "cache_control"},
}
_OPENAI_FIELDS = {
    *("model", "messages", "max_completion_tokens", "max_tokens", "tools", "tool_choice", "parallel_tool_calls"),
    *("temperature", "top_p", "stop", "response_format", "reasoning_effort", "stream", "stream_options", "seed"),
    *("frequency_penalty", "presence_penalty", "thinking"),
}
_OPENAI_MESSAGES = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls", "reasoning_content"},
    "tool": {"role", "content", "tool_call_id"},
}
_OPENAI_PARTS = {"text": {"type", "text"}, "image_url": {"type", "image_url"}, "file": {"type", "file"}}
_OLLAMA_FIELDS = {"model", "messages", "stream", "tools", "format", "think", "options"}
_OLLAMA_MESSAGE = {"role", "content", "images", "thinking", "tool_calls", "tool_name", "tool_call_id"}
_OLLAMA_OPTIONS = {
    *("num_ctx", "num_predict", "temperature", "top_p", "top_k", "min_p", "seed", "stop"),
    *("frequency_penalty", "presence_penalty"),
}


def anthropic_complaints(body: dict[str, Any]) -> list[str]:
    """The rules of POST /v1/messages."""
    found = _unknown("body", body, _ANTHROPIC_FIELDS)
    if not isinstance(body.get("max_tokens"), int) or body["max_tokens"] < 1:
        found.append("max_tokens is missing")
    if not 0 <= body.get("temperature", 1) <= 1:
        found.append("temperature is out of range")
    spoken = [message for message in body["messages"] if message["role"] != "system"]
    if not spoken or spoken[0]["role"] != "user":
        found.append("the first message must be the user's")
    previous = None
    for number, message in enumerate(body["messages"]):
        if message["role"] == previous:
            found.append(f"messages[{number}]: roles must alternate")
        previous = message["role"]
        found += _anthropic_message(number, message)
    found += _anthropic_tools(spoken)
    thinking = body.get("thinking", {})
    if thinking.get("type") == "enabled" and not 1024 <= thinking["budget_tokens"] < body["max_tokens"]:
        found.append("thinking.budget_tokens is out of range")
    if body.get("tool_choice") and not body.get("tools"):
        found.append("tool_choice without tools")
    for tool in body.get("tools", []):
        found += _unknown("tools", tool, {"name", "description", "input_schema", "strict", "cache_control"})
        if tool["input_schema"].get("type") != "object":
            found.append("input_schema.type must be object")
    return found


def _anthropic_message(number: int, message: dict[str, Any]) -> list[str]:
    found = _unknown(f"messages[{number}]", message, {"role", "content"})
    if not message["content"]:
        found.append(f"messages[{number}] is empty")
    seen_other = False
    for block in message["content"]:
        kind = block["type"]
        found += _unknown(f"messages[{number}].{kind}", block, _ANTHROPIC_BLOCKS[kind])
        if kind == "text" and not block["text"]:
            found.append(f"messages[{number}]: an empty text")
        if kind == "tool_result" and seen_other:
            found.append(f"messages[{number}]: tool results come first")
        seen_other = seen_other or kind != "tool_result"
        allowed = {
            "user": {"text", "image", "document", "tool_result"},
            "assistant": {"text", "thinking", "redacted_thinking", "tool_use"},
            "system": {"text"},
        }
        if kind not in allowed[message["role"]]:
            found.append(f"messages[{number}]: {kind} in a message of {message['role']}")
        if kind == "image" and block["source"]["type"] == "base64":
            base64.b64decode(block["source"]["data"], validate=True)
    return found


def _anthropic_tools(messages: list[dict[str, Any]]) -> list[str]:
    found: list[str] = []
    asked: list[str] = []
    for number, message in enumerate(messages):
        answered = [block["tool_use_id"] for block in message["content"] if block["type"] == "tool_result"]
        if sorted(answered) != sorted(asked):
            found.append(f"messages[{number}]: results do not answer the calls before them")
        asked = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
        if len(set(asked)) != len(asked):
            found.append(f"messages[{number}]: a call's id is used twice")
    return found


def openai_complaints(body: dict[str, Any]) -> list[str]:
    """The rules of POST /v1/chat/completions."""
    found = _unknown("body", body, _OPENAI_FIELDS)
    waiting: list[str] = []
    for number, message in enumerate(body["messages"]):
        role = message["role"]
        found += _unknown(f"messages[{number}]", message, _OPENAI_MESSAGES[role])
        if role == "tool":
            if message["tool_call_id"] not in waiting:
                found.append(f"messages[{number}]: a result without a call")
            else:
                waiting.remove(message["tool_call_id"])
        elif waiting:
            found.append(f"messages[{number}]: calls without results")
            waiting = []
        if role == "assistant":
            calls = message.get("tool_calls") or []
            waiting = [call["id"] for call in calls]
            for call in calls:
                if not isinstance(json.loads(call["function"]["arguments"]), dict):
                    found.append(f"messages[{number}]: arguments are not an object")
            if message["content"] is None and not calls:
                found.append(f"messages[{number}]: neither content nor calls")
        found += _openai_content(number, message)
    if waiting:
        found.append("the last calls have no results")
    for name in ("tool_choice", "parallel_tool_calls"):
        if name in body and not body.get("tools"):
            found.append(f"{name} without tools")
    return found


def _openai_content(number: int, message: dict[str, Any]) -> list[str]:
    content = message["content"]
    if content is None or isinstance(content, str):
        return []
    found = []
    if not content:
        found.append(f"messages[{number}]: an empty array")
    for part in content:
        found += _unknown(f"messages[{number}]", part, _OPENAI_PARTS[part["type"]])
        if part["type"] != "text" and message["role"] != "user":
            found.append(f"messages[{number}]: only text in a message of {message['role']}")
    return found


def ollama_complaints(body: dict[str, Any]) -> list[str]:
    """The rules of POST /api/chat."""
    found = _unknown("body", body, _OLLAMA_FIELDS)
    found += _unknown("options", body.get("options", {}), _OLLAMA_OPTIONS)
    if not isinstance(body.get("stream"), bool):
        found.append("stream is not said")
    for number, message in enumerate(body["messages"]):
        found += _unknown(f"messages[{number}]", message, _OLLAMA_MESSAGE)
        if not isinstance(message.get("content"), str):
            found.append(f"messages[{number}]: content is not a string")
        for image in message.get("images", []):
            base64.b64decode(image, validate=True)
        for call in message.get("tool_calls") or []:
            if not isinstance(call["function"]["arguments"], dict):
                found.append(f"messages[{number}]: arguments are not an object")
    return found


def _unknown(where: str, value: dict[str, Any], known: set[str]) -> list[str]:
    return [f"{where}: unknown field {name}" for name in value if name not in known]


def anthropic_parts(body: dict[str, Any]) -> Counter[str]:
    """How many of each kind a messages request holds, empty texts aside."""
    system = body.get("system") or []
    counts: Counter[str] = Counter()
    for block in [{"type": "text", "text": system}] if isinstance(system, str) else system:
        counts["text"] += bool(block["text"])
    for message in body["messages"]:
        content = message["content"]
        for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            _count_anthropic(block, counts)
    return counts


def _count_anthropic(block: dict[str, Any], counts: Counter[str]) -> None:
    kind = block["type"]
    if kind in ("text", "thinking"):
        counts[kind] += bool(block[kind]) or bool(block.get("signature"))
        return
    counts[kind] += 1
    if kind == "tool_result":
        content = block.get("content") or []
        for inner in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            _count_anthropic(inner, counts)


def openai_parts(body: dict[str, Any]) -> Counter[str]:
    """How many of each kind a chat request holds, in Anthropic's words, empty texts aside."""
    names = {"image_url": "image", "file": "document", "text": "text"}
    counts: Counter[str] = Counter()
    for message in body["messages"]:
        content = message.get("content") or []
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            counts[names[part["type"]]] += part["type"] != "text" or bool(part["text"])
        counts["tool_use"] += len(message.get("tool_calls") or [])
        counts["tool_result"] += message["role"] == "tool"
        counts["thinking"] += bool(message.get("reasoning_content"))
    return counts


def ollama_parts(body: dict[str, Any]) -> Counter[str]:
    """How many of each kind a chat request of Ollama's holds; texts of one message are one."""
    counts: Counter[str] = Counter()
    for message in body["messages"]:
        counts["text"] += bool(message["content"])
        counts["image"] += len(message.get("images", []))
        counts["tool_use"] += len(message.get("tool_calls") or [])
        counts["tool_result"] += message["role"] == "tool"
        counts["thinking"] += bool(message.get("thinking"))
    return counts
