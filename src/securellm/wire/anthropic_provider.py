"""A neutral request as the body of Anthropic's POST /v1/messages. Pure.

What the two families say differently, and what is done about it:
- leading system turns become the top-level `system`; later ones stay where they are with `role: "system"`, which the
  API takes since 2026 (a model that does not answers 400 by itself, so nothing is lost in silence);
- adjacent turns of one role are merged and results of tools come first in their turn, as the API demands;
- empty texts and turns that hold nothing are left out: the API refuses them and they say nothing;
- `max_tokens` is mandatory: the model's known maximum stands in;
- a temperature over 1 is refused, because clamping would change what the caller asked for;
- thinking goes back only with its seal; unsealed reasoning of another provider is dropped and listed;
- an effort becomes adaptive thinking with `output_config.effort`, or a token budget for the models before 4.6. A budget
  that does not fit under `max_tokens`, or a tool loop whose thinking the client did not keep, drops it: it advises.

Sources: the request types of anthropic 2.12; recordings of claude-opus-4-8 with system turns (2026).
"""

import re

from securellm.errors import BadRequest
from securellm.wire.reading import arguments_object, refuse
from securellm.wire.words import (
    Capabilities,
    Document,
    Dropped,
    Format,
    Image,
    JSONObject,
    Part,
    Reasoning,
    Redacted,
    Request,
    Text,
    Thinking,
    Tool,
    ToolResult,
    ToolUse,
    Turn,
)

MIN_BUDGET_TOKENS = 1024  # the API's own floor
BUDGET_TOKENS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768, "max": 32768}

_EFFORTS = {"minimal": "low"}  # the others have the same name on both sides
_BUDGET_MODELS = re.compile(r"claude-(?:[23]|instant|(?:opus|sonnet|haiku)-4(?:-[0-5])?(?:-20\d{6}|-latest)?$)")
_NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9_-]")
_TOOL_CHOICES = {"auto": "auto", "none": "none", "required": "any", "named": "tool"}


def encode_messages_request(
    request: Request, *, model: str, max_output_tokens: int, capabilities: Capabilities, dropped: Dropped
) -> JSONObject:
    """The provider's body. Raises UnsupportedField for what Anthropic cannot be asked."""
    if request.temperature is not None and request.temperature > 1:
        raise refuse("temperature", "the provider takes values from 0 to 1")
    system, turns = _split_system(request.turns)
    messages = _messages(turns, dropped)
    if not any(message["role"] != "system" for message in messages):
        raise BadRequest("messages: expected at least one message that is not empty", param="messages")
    limit = max_output_tokens if request.max_output_tokens is None else request.max_output_tokens
    body: JSONObject = {"model": model, "max_tokens": limit}
    if system:
        body["system"] = [_block(part, dropped) for part in system]
    body["messages"] = messages
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    _put_tool_choice(body, request)
    if request.stop:
        body["stop_sequences"] = list(request.stop)
    for name in ("temperature", "top_p", "top_k"):
        if getattr(request, name) is not None:
            body[name] = getattr(request, name)
    if request.reasoning is not None:
        _put_reasoning(body, request.reasoning, capabilities, dropped)
    if request.format is not None:
        _put_format(body, request.format, dropped)
    if request.stream:
        body["stream"] = True
    return body


def _split_system(turns: tuple[Turn, ...]) -> tuple[list[Text], list[Turn]]:
    system: list[Text] = []
    for n, turn in enumerate(turns):
        if turn.role != "system":
            return system, list(turns[n:])
        system += [part for part in turn.parts if isinstance(part, Text) and part.text]
    return system, []


def _messages(turns: list[Turn], dropped: Dropped) -> list[JSONObject]:
    merged: list[tuple[str, list[Part]]] = []
    for turn in turns:
        parts = [part for part in turn.parts if not (isinstance(part, Text) and not part.text)]
        if turn.role == "assistant":
            parts = [part for part in parts if _may_return(part, dropped)]
        if not parts:
            continue
        if merged and merged[-1][0] == turn.role:
            merged[-1][1].extend(parts)
        else:
            merged.append((turn.role, parts))
    messages: list[JSONObject] = []
    for role, parts in merged:
        parts.sort(key=lambda part: role == "user" and not isinstance(part, ToolResult))
        messages.append({"role": role, "content": [_block(part, dropped) for part in parts]})
    return messages


def _may_return(part: Part, dropped: Dropped) -> bool:
    if isinstance(part, Thinking) and part.signature is None:
        dropped.add("messages.reasoning_content")
        return False
    return True


def _block(part: Part, dropped: Dropped) -> JSONObject:
    match part:
        case Text(text=text, cache=cache):
            return _cached({"type": "text", "text": text}, cache)
        case Image(url=None, media_type=media_type, data=data, cache=cache):
            return _cached({"type": "image", "source": _base64(media_type, data)}, cache)
        case Image(url=url, cache=cache):
            return _cached({"type": "image", "source": {"type": "url", "url": url}}, cache)
        case Document():
            return _document(part)
        case Thinking(text=text, signature=signature):
            return {"type": "thinking", "thinking": text, "signature": signature or ""}
        case Redacted(data=data):
            return {"type": "redacted_thinking", "data": data}
        case ToolUse(id=id_, name=name, arguments=arguments, cache=cache):
            given = arguments_object(arguments, "messages.tool_calls.function.arguments")
            return _cached({"type": "tool_use", "id": _tool_id(id_), "name": name, "input": given}, cache)
        case ToolResult():
            return _tool_result(part, dropped)


def _base64(media_type: str | None, data: str | None) -> JSONObject:
    return {"type": "base64", "media_type": media_type, "data": data}


def _document(document: Document) -> JSONObject:
    source: JSONObject
    if document.url is not None:
        source = {"type": "url", "url": document.url}
    elif document.media_type == "application/pdf":
        source = _base64(document.media_type, document.data)
    else:
        raise refuse("messages.content.file", "the provider takes files of the type application/pdf only")
    block: JSONObject = {"type": "document", "source": source}
    if document.title is not None:
        block["title"] = document.title
    return _cached(block, document.cache)


def _tool_result(result: ToolResult, dropped: Dropped) -> JSONObject:
    block: JSONObject = {"type": "tool_result", "tool_use_id": _tool_id(result.id)}
    content = [_block(part, dropped) for part in result.parts if not (isinstance(part, Text) and not part.text)]
    if content:
        block["content"] = content
    if result.is_error:
        block["is_error"] = True
    return _cached(block, result.cache)


def _tool_id(given: str) -> str:
    """The API takes letters, digits, - and _ only; ids of other providers hold dots and colons."""
    return _NOT_IN_IDS.sub("_", given)


def _cached(block: JSONObject, cache: object) -> JSONObject:
    if cache is not None:
        block["cache_control"] = cache
    return block


def _tool(tool: Tool) -> JSONObject:
    entry: JSONObject = {"name": tool.name}
    if tool.description is not None:
        entry["description"] = tool.description
    entry["input_schema"] = {"type": "object", **(tool.schema or {"properties": {}})}
    if tool.strict:
        entry["strict"] = True
    return _cached(entry, tool.cache)


def _put_tool_choice(body: JSONObject, request: Request) -> None:
    choice = request.tool_choice
    if not request.tools:
        if choice is not None and choice.mode in ("required", "named"):
            raise BadRequest("tool_choice: expected tools beside it", param="tool_choice")
        return
    alone = request.parallel_tool_calls is False
    if choice is None and not alone:
        return
    mode = "auto" if choice is None else choice.mode
    entry: JSONObject = {"type": _TOOL_CHOICES[mode]}
    if choice is not None and choice.name is not None:
        entry["name"] = choice.name
    if alone and mode != "none":
        entry["disable_parallel_tool_use"] = True
    body["tool_choice"] = entry


def _put_reasoning(body: JSONObject, reasoning: Reasoning, capabilities: Capabilities, dropped: Dropped) -> None:
    if reasoning.enabled is False:
        body["thinking"] = {"type": "disabled"}
        return
    adaptive = capabilities.adaptive_thinking
    if adaptive is None:
        adaptive = _BUDGET_MODELS.search(str(body["model"])) is None
    thinking: JSONObject
    if reasoning.budget_tokens is not None:
        thinking = {"type": "enabled", "budget_tokens": reasoning.budget_tokens}
    elif adaptive or reasoning.adaptive:
        thinking = {"type": "adaptive"}
        if reasoning.effort is not None:
            body["output_config"] = {"effort": _EFFORTS.get(reasoning.effort, reasoning.effort)}
    else:
        budget_tokens = _budget_tokens(reasoning, body)
        if budget_tokens is None:
            dropped.add("thinking" if reasoning.effort is None else "reasoning_effort")
            return
        thinking = {"type": "enabled", "budget_tokens": budget_tokens}
    if reasoning.display is not None:
        thinking["display"] = reasoning.display
    body["thinking"] = thinking


def _budget_tokens(reasoning: Reasoning, body: JSONObject) -> int | None:
    """A budget that leaves room for the answer; None when thinking cannot be had."""
    limit = body["max_tokens"]
    if not isinstance(limit, int) or limit <= MIN_BUDGET_TOKENS or _is_unsealed_loop(body["messages"]):
        return None
    return max(MIN_BUDGET_TOKENS, min(BUDGET_TOKENS[reasoning.effort or "medium"], limit // 2))


def _is_unsealed_loop(messages: object) -> bool:
    """Whether the last assistant turn calls tools without the thinking that the API then demands."""
    if not isinstance(messages, list):
        return False
    last: list[JSONObject] = next(
        (message["content"] for message in reversed(messages) if message["role"] == "assistant"), []
    )
    kinds = [block["type"] for block in last]
    return "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking")


def _put_format(body: JSONObject, format_: Format, dropped: Dropped) -> None:
    if format_.schema is None:
        raise refuse("response_format", "the provider has no json_object mode; send a json_schema")
    if format_.description is not None:
        dropped.add("response_format.json_schema.description")
    config = body.setdefault("output_config", {})
    if isinstance(config, dict):
        config["format"] = {"type": "json_schema", "schema": format_.schema}
