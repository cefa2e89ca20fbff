"""A whole answer as the stream in which it would have come: in few events, but as the dialect has them. Pure.

What a client puts together from it is the whole answer again, field by field; where that is not so, because the answer
holds something that has no place in a stream, `can_replay` says so. Sources as in `gather.py`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from securellm.cache.gather import CannotGather, gather
from securellm.chat import Endpoint

JSON = dict[str, Any]
Events = Iterator[JSON]

_DONE = b"data: [DONE]\n\n"


def replay(endpoint: Endpoint, whole: bytes, *, include_usage: bool) -> bytes:
    """The stream of a whole answer that `can_replay` let pass; `include_usage` is for OpenAI's chunks."""
    answer = msgspec.json.decode(whole)
    match endpoint:
        case Endpoint.CHAT:
            return b"".join(map(_data, _chunks(answer, _chat_choice, "chat.completion.chunk", include_usage))) + _DONE
        case Endpoint.COMPLETIONS:
            return b"".join(map(_data, _chunks(answer, _text_choice, "text_completion", include_usage))) + _DONE
        case Endpoint.MESSAGES:
            return b"".join(map(_event, _message(answer)))
    numbered = ({**event, "sequence_number": number} for number, event in enumerate(_response(answer)))
    return b"".join(map(_event, numbered))


def can_replay(endpoint: Endpoint, whole: bytes) -> bool:
    """Whether the stream says all that the whole answer says, tried out."""
    if endpoint is Endpoint.EMBEDDINGS:
        return False
    try:
        again = gather(endpoint, replay(endpoint, whole, include_usage=True), None)
    except (CannotGather, KeyError, TypeError, AttributeError):
        return False
    same: bool = _said(msgspec.json.decode(again)) == _said(_without_positions(msgspec.json.decode(whole)))
    return same


def _without_positions(answer: JSON) -> JSON:
    """Some providers number the calls of a whole answer as those of a stream: in their order that says nothing."""
    for choice in answer.get("choices") or []:
        for position, call in enumerate(choice.get("message", {}).get("tool_calls") or []):
            if call.get("index") == position:
                del call["index"]
    return answer


def _said(value: Any) -> Any:
    """A field that is null says what one says that is not there."""
    if isinstance(value, dict):
        return {name: _said(item) for name, item in value.items() if item is not None}
    return [_said(item) for item in value] if isinstance(value, list) else value


def _data(value: JSON) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _event(value: JSON) -> bytes:
    name: str = value["type"]
    return b"event: " + name.encode() + b"\n" + _data(value)


def _chunks(answer: JSON, split: Callable[[JSON], Events], kind: str, include_usage: bool) -> Events:
    common = {name: value for name, value in answer.items() if name not in ("choices", "usage")} | {"object": kind}
    none_yet = {"usage": None} if include_usage else {}
    for choice in answer["choices"]:
        for part in split(choice):
            yield {**common, "choices": [part], **none_yet}
    if include_usage:
        yield {**common, "choices": [], "usage": answer.get("usage")}


def _chat_choice(choice: JSON) -> Events:
    delta = dict(choice["message"])
    if delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(delta["tool_calls"])]
    logprobs = choice.get("logprobs")
    yield {"index": choice["index"], "delta": delta, "logprobs": logprobs, "finish_reason": None}
    yield {**{name: value for name, value in choice.items() if name != "message"}, "delta": {}, "logprobs": None}


def _text_choice(choice: JSON) -> Events:
    yield choice


def _message(answer: JSON) -> Events:
    usage = answer.get("usage") or {}
    start = {**answer, "content": [], "stop_reason": None, "stop_sequence": None}
    yield {"type": "message_start", "message": {**start, "usage": {**usage, "output_tokens": 0}}}
    for index, block in enumerate(answer["content"]):
        yield from _block(index, block)
    ending = {"stop_reason": answer.get("stop_reason"), "stop_sequence": answer.get("stop_sequence")}
    yield {"type": "message_delta", "delta": ending, "usage": usage}
    yield {"type": "message_stop"}


def _block(index: int, block: JSON) -> Events:
    empty, deltas = dict(block), []
    match block["type"]:
        case "text":
            empty["text"] = ""
            deltas.append({"type": "text_delta", "text": block["text"]})
            if block.get("citations"):
                empty["citations"] = []
                deltas += [{"type": "citations_delta", "citation": citation} for citation in block["citations"]]
        case "thinking":
            empty["thinking"] = empty["signature"] = ""
            deltas.append({"type": "thinking_delta", "thinking": block["thinking"]})
            deltas.append({"type": "signature_delta", "signature": block.get("signature") or ""})
        case "tool_use" | "server_tool_use" | "mcp_tool_use":
            empty["input"] = {}
            arguments = msgspec.json.encode(block["input"]).decode()
            deltas.append({"type": "input_json_delta", "partial_json": arguments})
    yield {"type": "content_block_start", "index": index, "content_block": empty}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _response(answer: JSON) -> Events:
    begun = {**answer, "status": "in_progress", "output": [], "usage": None}
    if "completed_at" in begun:
        begun["completed_at"] = None
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(answer["output"]):
        yield from _item(index, item)
    yield {"type": "response.completed", "response": answer}


def _item(index: int, item: JSON) -> Events:
    at = {"output_index": index}
    empty = dict(item)
    if "status" in item:
        empty["status"] = "in_progress"
    of = {**at, "item_id": item.get("id")}
    events: list[JSON] = []
    match item["type"]:
        case "message":
            empty["content"] = []
            for place, part in enumerate(item["content"]):
                events += _part({**of, "content_index": place}, part)
        case "function_call":
            empty["arguments"] = ""
            kind = "response.function_call_arguments"
            events = [
                {"type": f"{kind}.delta", **of, "delta": item["arguments"]},
                {"type": f"{kind}.done", **of, "arguments": item["arguments"], "name": item.get("name")},
            ]
        case "reasoning":
            empty["summary"] = []
            for place, part in enumerate(item.get("summary") or []):
                events += _summary({**of, "summary_index": place}, part)
    yield {"type": "response.output_item.added", **at, "item": empty}
    yield from events
    yield {"type": "response.output_item.done", **at, "item": item}


def _part(at: JSON, part: JSON) -> Events:
    kind, field = ("refusal", "refusal") if part["type"] == "refusal" else (part["type"], "text")
    empty = {**part, field: ""}
    more: JSON = {}
    if kind == "output_text":
        empty["annotations"] = []
        more = {"logprobs": part.get("logprobs") or []}
    yield {"type": "response.content_part.added", **at, "part": empty}
    yield {"type": f"response.{kind}.delta", **at, "delta": part[field], **more}
    for place, annotation in enumerate(part.get("annotations") or []):
        added = {"annotation_index": place, "annotation": annotation}
        yield {"type": "response.output_text.annotation.added", **at, **added}
    yield {"type": f"response.{kind}.done", **at, field: part[field], **more}
    yield {"type": "response.content_part.done", **at, "part": part}


def _summary(at: JSON, part: JSON) -> Events:
    yield {"type": "response.reasoning_summary_part.added", **at, "part": {**part, "text": ""}}
    yield {"type": "response.reasoning_summary_text.delta", **at, "delta": part["text"]}
    yield {"type": "response.reasoning_summary_text.done", **at, "text": part["text"]}
    yield {"type": "response.reasoning_summary_part.done", **at, "part": part}
