"""A caller's Anthropic messages request, read into neutral words for a provider of another family. Pure.

The system prompt (string or blocks) becomes leading system turns, one for each block; `role: "system"` inside the
conversation (an addition of 2026) keeps its place. Blocks that only Anthropic's servers can make or read (server tools,
search results, citations as input) are refused by their path.
"""

import msgspec

from securellm.errors import BadRequest
from securellm.wire.reading import (
    array,
    mapping,
    maybe_boolean,
    maybe_integer,
    maybe_mapping,
    maybe_number,
    maybe_string,
    named_kind,
    read_effort,
    refuse,
    string,
    strings,
    wrong,
)
from securellm.wire.words import (
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
    ToolChoice,
    ToolResult,
    ToolUse,
    Turn,
)

_BLOCK_FIELDS = {
    "text": frozenset(("type", "text", "cache_control")),
    "image": frozenset(("type", "source", "cache_control")),
    "document": frozenset(("type", "source", "title", "citations", "cache_control")),
    "thinking": frozenset(("type", "thinking", "signature")),
    "redacted_thinking": frozenset(("type", "data")),
    "tool_use": frozenset(("type", "id", "name", "input", "cache_control")),
    "tool_result": frozenset(("type", "tool_use_id", "content", "is_error", "cache_control")),
}
_MESSAGE_FIELDS = frozenset(("role", "content"))
_TOOL_FIELDS = frozenset(("type", "name", "description", "input_schema", "strict", "cache_control", "allowed_callers"))


def parse_messages_request(body: JSONObject, dropped: Dropped) -> Request:
    """The request in neutral words. Raises BadRequest and UnsupportedField with the path in `param`."""
    for name in ("messages", "max_tokens"):
        if body.get(name) is None:
            raise BadRequest(f"{name}: the field is missing", param=name)
    turns = [Turn("system", (part,)) for part in _texts(body.get("system"), "system", dropped)]
    for n, message in enumerate(array(body["messages"], "messages")):
        turns.append(_turn(mapping(message, f"messages[{n}]"), f"messages[{n}]", dropped))
    tools = array(body.get("tools"), "tools")
    choice = maybe_mapping(body.get("tool_choice"), "tool_choice")
    return Request(
        turns=tuple(turns),
        stream=maybe_boolean(body.get("stream"), "stream") or False,
        tools=tuple(_tool(mapping(tool, f"tools[{n}]"), f"tools[{n}]", dropped) for n, tool in enumerate(tools)),
        tool_choice=None if choice is None else _tool_choice(choice),
        parallel_tool_calls=None if choice is None else _parallel(choice),
        max_output_tokens=maybe_integer(body["max_tokens"], "max_tokens"),
        temperature=maybe_number(body.get("temperature"), "temperature"),
        top_p=maybe_number(body.get("top_p"), "top_p"),
        top_k=maybe_integer(body.get("top_k"), "top_k"),
        stop=strings(body.get("stop_sequences"), "stop_sequences"),
        format=_format(body),
        reasoning=_reasoning(body),
    )


def _turn(message: JSONObject, path: str, dropped: Dropped) -> Turn:
    dropped.add_unknown(message, _MESSAGE_FIELDS, "messages")
    role, content = message.get("role"), message.get("content")
    if role == "system":
        return Turn("system", tuple(_texts(content, f"{path}.content", dropped)))
    if role not in ("user", "assistant"):
        raise BadRequest(f"{path}.role: expected user, assistant or system", param=f"{path}.role")
    if isinstance(content, str):
        return Turn(role, (Text(content),))
    if content is None:
        raise wrong(content, f"{path}.content", "a string or an array")
    blocks = array(content, f"{path}.content")
    parts = [parse_block(block, f"{path}.content[{n}]", dropped) for n, block in enumerate(blocks)]
    for n, part in enumerate(parts):
        if isinstance(part, ToolUse | Thinking | Redacted) if role == "user" else isinstance(part, ToolResult):
            raise BadRequest(
                f"{path}.content[{n}]: this block cannot be in a message of the role {role}",
                param=f"{path}.content[{n}]",
            )
    return Turn(role, tuple(parts))


def _texts(content: object, path: str, dropped: Dropped) -> list[Text]:
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(content)]
    texts = []
    for n, block in enumerate(array(content, path)):
        part = parse_block(block, f"{path}[{n}]", dropped)
        if not isinstance(part, Text):
            raise BadRequest(f"{path}[{n}].type: expected text", param=f"{path}[{n}].type")
        texts.append(part)
    return texts


def parse_block(value: object, path: str, dropped: Dropped) -> Part:
    """One content block. Raises BadRequest and UnsupportedField with the path in `param`."""
    if isinstance(value, str):  # hybrid clients put bare strings into arrays
        return Text(value)
    block = mapping(value, path)
    cache = block.get("cache_control")
    kind = maybe_string(block.get("type"), f"{path}.type")
    if kind in _BLOCK_FIELDS:
        dropped.add_unknown(block, _BLOCK_FIELDS[kind], "messages.content")
    match kind:
        case "text":
            return Text(string(block.get("text"), f"{path}.text"), cache)
        case "image":
            return _image(block, path)
        case "document":
            return _document(block, path, dropped)
        case "thinking":
            thinking = string(block.get("thinking"), f"{path}.thinking")
            return Thinking(thinking, maybe_string(block.get("signature"), f"{path}.signature"))
        case "redacted_thinking":
            return Redacted(string(block.get("data"), f"{path}.data"))
        case "tool_use":
            return _tool_use(block, path)
        case "tool_result":
            return _tool_result(block, path, dropped)
        case str():
            raise refuse(path, f"a block of the type {named_kind(kind)} cannot be translated for the provider")
        case _:
            raise wrong(kind, f"{path}.type", "a string")


def _image(block: JSONObject, path: str) -> Image:
    source = mapping(block.get("source"), f"{path}.source")
    cache = block.get("cache_control")
    match source.get("type"):
        case "base64":
            media_type = string(source.get("media_type"), f"{path}.source.media_type")
            return Image(media_type, string(source.get("data"), f"{path}.source.data"), cache=cache)
        case "url":
            return Image(url=string(source.get("url"), f"{path}.source.url"), cache=cache)
        case _:
            raise refuse(f"{path}.source", "only base64 and url images can be translated")


def _document(block: JSONObject, path: str, dropped: Dropped) -> Document | Text:
    source = mapping(block.get("source"), f"{path}.source")
    citations = maybe_mapping(block.get("citations"), f"{path}.citations")
    if citations is not None and citations.get("enabled"):
        raise refuse(f"{path}.citations", "citations cannot be translated for the provider")
    title = maybe_string(block.get("title"), f"{path}.title")
    cache = block.get("cache_control")
    match source.get("type"):
        case "base64":
            media_type = string(source.get("media_type"), f"{path}.source.media_type")
            return Document(
                media_type, data=string(source.get("data"), f"{path}.source.data"), title=title, cache=cache
            )
        case "text":
            if title is not None:
                dropped.add("messages.content.title")
            return Text(string(source.get("data"), f"{path}.source.data"), cache)
        case "url":
            return Document(
                "application/pdf", url=string(source.get("url"), f"{path}.source.url"), title=title, cache=cache
            )
        case _:
            raise refuse(f"{path}.source", "only base64, text and url documents can be translated")


def _tool_use(block: JSONObject, path: str) -> ToolUse:
    arguments = maybe_mapping(block.get("input"), f"{path}.input") or {}
    return ToolUse(
        id=string(block.get("id"), f"{path}.id"),
        name=string(block.get("name"), f"{path}.name"),
        arguments=msgspec.json.encode(arguments).decode(),
        cache=block.get("cache_control"),
    )


def _tool_result(block: JSONObject, path: str, dropped: Dropped) -> ToolResult:
    content = block.get("content")
    parts: list[Text | Image | Document] = []
    for n, item in enumerate([content] if isinstance(content, str) else array(content, f"{path}.content")):
        part = parse_block(item, f"{path}.content[{n}]", dropped)
        if not isinstance(part, Text | Image | Document):
            raise refuse(f"{path}.content[{n}]", "this kind of block cannot be translated for the provider")
        parts.append(part)
    return ToolResult(
        id=string(block.get("tool_use_id"), f"{path}.tool_use_id"),
        parts=tuple(parts),
        is_error=maybe_boolean(block.get("is_error"), f"{path}.is_error") or False,
        cache=block.get("cache_control"),
    )


def _tool(tool: JSONObject, path: str, dropped: Dropped) -> Tool:
    if tool.get("type") not in (None, "custom"):
        raise refuse(f"{path}.type", "a tool that Anthropic's servers run cannot be translated for the provider")
    callers = array(tool.get("allowed_callers"), f"{path}.allowed_callers")
    if callers and "direct" not in callers:
        raise refuse(f"{path}.allowed_callers", "a tool that only code may call cannot be translated for the provider")
    dropped.add_unknown(tool, _TOOL_FIELDS, "tools")
    return Tool(
        name=string(tool.get("name"), f"{path}.name"),
        description=maybe_string(tool.get("description"), f"{path}.description"),
        schema=maybe_mapping(tool.get("input_schema"), f"{path}.input_schema"),
        strict=maybe_boolean(tool.get("strict"), f"{path}.strict"),
        cache=tool.get("cache_control"),
    )


def _tool_choice(choice: JSONObject) -> ToolChoice:
    match choice.get("type"):
        case "auto":
            return ToolChoice("auto")
        case "any":
            return ToolChoice("required")
        case "none":
            return ToolChoice("none")
        case "tool":
            return ToolChoice("named", string(choice.get("name"), "tool_choice.name"))
        case _:
            raise BadRequest("tool_choice.type: expected auto, any, tool or none", param="tool_choice.type")


def _parallel(choice: JSONObject) -> bool | None:
    disabled = maybe_boolean(choice.get("disable_parallel_tool_use"), "tool_choice.disable_parallel_tool_use")
    return None if disabled is None else not disabled


def _format(body: JSONObject) -> Format | None:
    config = maybe_mapping(body.get("output_config"), "output_config") or {}
    given, path = config.get("format"), "output_config.format"
    if given is None:
        given, path = body.get("output_format"), "output_format"
    if given is None:
        return None
    shape = mapping(given, path)
    if shape.get("type") != "json_schema":
        raise refuse(f"{path}.type", "only json_schema can be translated")
    return Format(schema=mapping(shape.get("schema"), f"{path}.schema"), strict=True)


def _reasoning(body: JSONObject) -> Reasoning | None:
    config = maybe_mapping(body.get("output_config"), "output_config") or {}
    effort = read_effort(config.get("effort"), "output_config.effort")
    thinking = maybe_mapping(body.get("thinking"), "thinking")
    if thinking is None:
        return None if effort is None else Reasoning(effort=effort)
    kind = thinking.get("type")
    if kind not in ("enabled", "disabled", "adaptive", "between_tools"):
        raise BadRequest("thinking.type: expected enabled, disabled or adaptive", param="thinking.type")
    return Reasoning(
        enabled=kind != "disabled",
        effort=effort,
        budget_tokens=maybe_integer(thinking.get("budget_tokens"), "thinking.budget_tokens"),
        adaptive=kind == "adaptive",
    )
