"""A neutral request as the body of Ollama's native POST /api/chat. Pure.

The native endpoint is used because only it takes `options.num_ctx`: without it Ollama cuts a long prompt to a small
window and says nothing. `stream` is always said, because its default is true.

A message holds one text and a list of base64 pictures, so the texts of a turn are joined by an empty line and pictures
lose their place between them; addresses of pictures are refused, Ollama fetches nothing. `tool_choice` none leaves the
tools out, which comes to the same; required and named cannot be said and are refused.

Sources: docs/api.md of ollama/ollama and its openapi.yaml (2026-11); recordings with `thinking` and `tool_name`.
"""

from securellm.errors import BadRequest
from securellm.wire.reading import arguments_object, refuse
from securellm.wire.words import (
    Document,
    Dropped,
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

_EFFORTS = {"minimal": "low", "xhigh": "high", "max": "high"}
_OPTIONS = ("temperature", "top_p", "top_k", "min_p", "seed", "frequency_penalty", "presence_penalty")


def encode_ollama_request(request: Request, *, model: str, num_ctx: int | None, dropped: Dropped) -> JSONObject:
    """The provider's body. Raises UnsupportedField for what Ollama cannot be asked."""
    if not request.turns:
        raise BadRequest("messages: expected at least one message", param="messages")
    body: JSONObject = {"model": model, "messages": _messages(request.turns, dropped), "stream": request.stream}
    if _offers_tools(request):
        body["tools"] = [_tool(tool, dropped) for tool in request.tools]
    if request.format is not None:
        body["format"] = "json" if request.format.schema is None else request.format.schema
        if request.format.description is not None:
            dropped.add("response_format.json_schema.description")
    if request.reasoning is not None:
        _put_think(body, request.reasoning)
    options: JSONObject = {name: getattr(request, name) for name in _OPTIONS if getattr(request, name) is not None}
    if num_ctx is not None:
        options["num_ctx"] = num_ctx
    if request.max_output_tokens is not None:
        options["num_predict"] = request.max_output_tokens
    if request.stop:
        options["stop"] = list(request.stop)
    if options:
        body["options"] = options
    return body


def _offers_tools(request: Request) -> bool:
    choice = request.tool_choice
    if choice is not None and choice.mode in ("required", "named"):
        raise refuse("tool_choice", "the provider cannot be made to call a tool; only auto and none can be translated")
    if not request.tools or (choice is not None and choice.mode == "none"):
        return False
    if request.parallel_tool_calls is False:
        raise refuse("parallel_tool_calls", "the provider cannot be asked for one call at a time")
    return True


def _messages(turns: tuple[Turn, ...], dropped: Dropped) -> list[JSONObject]:
    messages: list[JSONObject] = []
    names: dict[str, str] = {}  # the tool that each call named, because results are known by it
    for turn in turns:
        if turn.role == "assistant":
            messages.append(_assistant(turn, names, dropped))
            continue
        rest: list[Part] = []
        for part in turn.parts:
            if isinstance(part, ToolResult):
                messages.append(_tool_message(part, names, dropped))
            else:
                rest.append(part)
        if rest or not turn.parts:
            messages.append({"role": turn.role, **_content(rest, dropped)})
    return messages


def _assistant(turn: Turn, names: dict[str, str], dropped: Dropped) -> JSONObject:
    thinking: list[str] = []
    calls: list[JSONObject] = []
    shown: list[Part] = []
    for part in turn.parts:
        match part:
            case Thinking(text=text, signature=signature):
                if signature:
                    dropped.add("messages.thinking.signature")
                thinking.append(text)
            case Redacted():
                raise refuse("messages.content.redacted_thinking", "only the provider that sealed it can read it")
            case ToolUse(id=id_, name=name, arguments=arguments):
                _note_cache(part.cache, dropped)
                names[id_] = name
                given = arguments_object(arguments, "messages.tool_calls.function.arguments")
                calls.append({"id": id_, "function": {"name": name, "arguments": given}})
            case _:
                shown.append(part)
    message: JSONObject = {"role": "assistant", **_content(shown, dropped)}
    if any(thinking):
        message["thinking"] = "".join(thinking)
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_message(result: ToolResult, names: dict[str, str], dropped: Dropped) -> JSONObject:
    if result.is_error:
        dropped.add("messages.tool_result.is_error")
    _note_cache(result.cache, dropped)
    message: JSONObject = {"role": "tool", **_content(list(result.parts), dropped), "tool_call_id": result.id}
    if result.id in names:
        message["tool_name"] = names[result.id]
    return message


def _content(parts: list[Part], dropped: Dropped) -> JSONObject:
    texts: list[str] = []
    images: list[str] = []
    for part in parts:
        match part:
            case Text(text=text):
                texts.append(text)
            case Image(data=str(data)):
                images.append(data)
            case Image():
                raise refuse(
                    "messages.content.image_url", "the provider fetches nothing; send the picture as a data url"
                )
            case Document():
                raise refuse("messages.content.file", "the provider takes no documents")
            case _:
                raise refuse("messages.content", "this part cannot be translated for the provider")
        _note_cache(part.cache, dropped)
    message: JSONObject = {"content": "\n\n".join(texts)}
    if images:
        message["images"] = images
    return message


def _note_cache(cache: object, dropped: Dropped) -> None:
    if cache is not None:
        dropped.add("cache_control")


def _tool(tool: Tool, dropped: Dropped) -> JSONObject:
    _note_cache(tool.cache, dropped)
    if tool.strict:
        dropped.add("tools.strict")
    function: JSONObject = {"name": tool.name, "description": tool.description or ""}
    function["parameters"] = {"type": "object", **(tool.schema or {"properties": {}})}
    return {"type": "function", "function": function}


def _put_think(body: JSONObject, reasoning: Reasoning) -> None:
    """Ollama takes a switch or a level; a model that cannot think answers 400 by itself."""
    if reasoning.enabled is False or reasoning.effort == "none":
        body["think"] = False
    elif reasoning.effort is not None:
        body["think"] = _EFFORTS.get(reasoning.effort, reasoning.effort)
    elif reasoning.enabled and not reasoning.adaptive:
        body["think"] = True
