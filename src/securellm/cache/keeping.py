"""Which answers are kept: complete ones that ended as answers do, and with calls of tools only if that is set. Pure."""

from typing import Any

import msgspec

from securellm.chat import Endpoint

# How an answer ends that another caller with the same question would get, too; a filter's or a failure's end is not.
_FINISHES = frozenset({"stop", "length", "tool_calls", "function_call"})
_STOPS = frozenset({"end_turn", "max_tokens", "stop_sequence", "tool_use"})
_WITHOUT_TOOLS = frozenset({"message", "reasoning"})  # output items of a response


def is_kept(endpoint: Endpoint, whole: bytes, *, tools: bool) -> bool:
    """Whether this whole body is an answer to be kept."""
    try:
        answer = msgspec.json.decode(whole)
        return _is_complete(endpoint, answer) and (tools or not _calls_tools(endpoint, answer))
    except (msgspec.DecodeError, RecursionError, KeyError, TypeError, AttributeError):
        return False


def _is_complete(endpoint: Endpoint, answer: dict[str, Any]) -> bool:
    if answer.get("error"):
        return False
    match endpoint:
        case Endpoint.CHAT | Endpoint.COMPLETIONS:
            choices = answer["choices"]
            said = "message" if endpoint is Endpoint.CHAT else "text"
            return bool(choices) and all(choice["finish_reason"] in _FINISHES and said in choice for choice in choices)
        case Endpoint.MESSAGES:
            return answer["type"] == "message" and answer["stop_reason"] in _STOPS and "content" in answer
        case Endpoint.RESPONSES:
            return bool(answer["status"] == "completed" and "output" in answer)
        case Endpoint.EMBEDDINGS:
            return bool(answer["data"])
    return False


def _calls_tools(endpoint: Endpoint, answer: dict[str, Any]) -> bool:
    match endpoint:
        case Endpoint.CHAT:
            messages = [choice["message"] for choice in answer["choices"]]
            return any(message.get("tool_calls") or message.get("function_call") for message in messages)
        case Endpoint.MESSAGES:
            return any("tool" in block["type"] for block in answer["content"])
        case Endpoint.RESPONSES:
            return any(item["type"] not in _WITHOUT_TOOLS for item in answer["output"])
    return False
