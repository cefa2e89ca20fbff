"""A caller's OpenAI chat request, read into neutral words. Pure.

Tolerant where clients are known to differ and the meaning is plain (content as string, array or null; cache_control on
parts and tools; Anthropic's `thinking` beside `reasoning_effort`; `is_error` on tool messages), exact everywhere else:
an unknown kind of part is refused by its path.

Thinking comes back on assistant messages as `securellm_thinking`, written by `openai_answer.py`: each block says how
many characters of `content` and how many tool calls stood before it, so that interleaved thinking returns to its place.
Without it, `reasoning_content` (or `reasoning`) is thinking without a seal.
"""

from securellm.errors import BadRequest
from securellm.wire.images import parse_data_url
from securellm.wire.reading import (
    arguments_object,
    array,
    mapping,
    maybe_boolean,
    maybe_integer,
    maybe_mapping,
    maybe_number,
    maybe_string,
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

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

_SYSTEM_ROLES = ("system", "developer")


def parse_chat_request(body: JSONObject, dropped: Dropped) -> Request:
    """The request in neutral words. Raises BadRequest and UnsupportedField with the path in `param`."""
    if "messages" not in body:
        raise BadRequest("messages: the field is missing", param="messages")
    messages = array(body["messages"], "messages")
    turns = [_turn(mapping(message, f"messages[{n}]"), f"messages[{n}]", dropped) for n, message in enumerate(messages)]
    return Request(
        turns=tuple(turns),
        stream=maybe_boolean(body.get("stream"), "stream") or False,
        tools=tuple(_tool(tool, f"tools[{n}]") for n, tool in enumerate(array(body.get("tools"), "tools"))),
        tool_choice=_tool_choice(body.get("tool_choice")),
        parallel_tool_calls=maybe_boolean(body.get("parallel_tool_calls"), "parallel_tool_calls"),
        max_output_tokens=_max_output_tokens(body, dropped),
        temperature=maybe_number(body.get("temperature"), "temperature"),
        top_p=maybe_number(body.get("top_p"), "top_p"),
        top_k=maybe_integer(body.get("top_k"), "top_k"),
        min_p=maybe_number(body.get("min_p"), "min_p"),
        stop=strings(body.get("stop"), "stop"),
        seed=maybe_integer(body.get("seed"), "seed"),
        frequency_penalty=maybe_number(body.get("frequency_penalty"), "frequency_penalty"),
        presence_penalty=maybe_number(body.get("presence_penalty"), "presence_penalty"),
        format=_format(body.get("response_format")),
        reasoning=_reasoning(body),
    )


def _max_output_tokens(body: JSONObject, dropped: Dropped) -> int | None:
    """The newer name wins where both are given."""
    newer = maybe_integer(body.get("max_completion_tokens"), "max_completion_tokens")
    older = maybe_integer(body.get("max_tokens"), "max_tokens")
    if newer is not None and older is not None and newer != older:
        dropped.add("max_tokens")
    return older if newer is None else newer


def _turn(message: JSONObject, path: str, dropped: Dropped) -> Turn:
    if message.get("name") is not None:
        dropped.add("messages.name")
    role = message.get("role")
    if role in _SYSTEM_ROLES:
        return Turn("system", tuple(_texts(message.get("content"), f"{path}.content")))
    if role == "user":
        return Turn("user", tuple(_user_parts(message.get("content"), f"{path}.content")))
    if role == "assistant":
        return Turn("assistant", tuple(_assistant_parts(message, path)))
    if role == "tool":
        return Turn("user", (_tool_result(message, path),))
    if role == "function":
        raise refuse(f"{path}.role", "the role function is not translated; send role tool with tool_call_id")
    if isinstance(role, str):
        raise BadRequest(
            f"{path}.role: got an unknown role, expected system, developer, user, assistant or tool",
            param=f"{path}.role",
        )
    raise wrong(role, f"{path}.role", "a string")


def _texts(content: object, path: str) -> list[Text]:
    parts = _user_parts(content, path)
    texts = [part for part in parts if isinstance(part, Text)]
    if len(texts) != len(parts):
        raise refuse(path, "only text parts can be translated here")
    return texts


def _user_parts(content: object, path: str) -> list[Text | Image | Document]:
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(content)]
    return [_user_part(mapping(part, f"{path}[{n}]"), f"{path}[{n}]") for n, part in enumerate(array(content, path))]


def _user_part(part: JSONObject, path: str) -> Text | Image | Document:
    cache = part.get("cache_control")
    match part.get("type"):
        case "text" | "input_text":
            return Text(string(part.get("text"), f"{path}.text"), cache)
        case "image_url":
            return _image(part, path)
        case "file":
            return _file(part, path)
        case str():
            raise refuse(path, "this kind of content part cannot be translated for the provider")
        case kind:
            raise wrong(kind, f"{path}.type", "a string")


def _image(part: JSONObject, path: str) -> Image:
    given = part.get("image_url")
    image = {"url": given} if isinstance(given, str) else mapping(given, f"{path}.image_url")
    url = string(image.get("url"), f"{path}.image_url.url")
    detail = maybe_string(image.get("detail"), f"{path}.image_url.detail")
    inline = parse_data_url(url, f"{path}.image_url.url")
    if inline is None:
        return Image(url=url, detail=detail, cache=part.get("cache_control"))
    return Image(media_type=inline[0], data=inline[1], detail=detail, cache=part.get("cache_control"))


def _file(part: JSONObject, path: str) -> Document:
    file = mapping(part.get("file"), f"{path}.file")
    if file.get("file_data") is None:
        raise refuse(f"{path}.file.file_id", "a stored file belongs to one provider; send file_data")
    inline = parse_data_url(string(file["file_data"], f"{path}.file.file_data"), f"{path}.file.file_data")
    if inline is None:
        raise refuse(f"{path}.file.file_data", "expected a data url")
    title = maybe_string(file.get("filename"), f"{path}.file.filename")
    return Document(inline[0], data=inline[1], title=title, cache=part.get("cache_control"))


def _assistant_parts(message: JSONObject, path: str) -> list[Part]:
    for name in ("function_call", "audio"):
        if message.get(name) is not None:
            raise refuse(f"{path}.{name}", "cannot be translated for the provider")
    texts: list[Part] = list(_assistant_texts(message, path))
    calls = [_tool_call(call, f"{path}.tool_calls[{n}]") for n, call in _numbered(message, "tool_calls", path)]
    sealed = [
        _sealed(block, f"{path}.securellm_thinking[{n}]") for n, block in _numbered(message, "securellm_thinking", path)
    ]
    if sealed:
        return _interleave(sealed, texts, calls)
    reasoning = message.get("reasoning_content")
    if reasoning is None:
        reasoning = message.get("reasoning")
    if isinstance(reasoning, str) and reasoning:
        texts.insert(0, Thinking(reasoning))
    return [*texts, *calls]


def _numbered(message: JSONObject, name: str, path: str) -> list[tuple[int, JSONObject]]:
    return [
        (n, mapping(item, f"{path}.{name}[{n}]")) for n, item in enumerate(array(message.get(name), f"{path}.{name}"))
    ]


def _assistant_texts(message: JSONObject, path: str) -> list[Text]:
    texts = []
    content = message.get("content")
    if isinstance(content, list):
        for n, item in enumerate(content):
            part, where = mapping(item, f"{path}.content[{n}]"), f"{path}.content[{n}]"
            if part.get("type") == "refusal":
                texts.append(Text(string(part.get("refusal"), f"{where}.refusal")))
                continue
            texts += _texts([part], where)
    else:
        texts += _texts(content, f"{path}.content")
    refusal = maybe_string(message.get("refusal"), f"{path}.refusal")
    if refusal:
        texts.append(Text(refusal))
    return texts


def _tool_call(call: JSONObject, path: str) -> ToolUse:
    if call.get("type", "function") != "function":
        raise refuse(f"{path}.type", "only calls of functions can be translated")
    function = mapping(call.get("function"), f"{path}.function")
    given = function.get("arguments")
    arguments = "" if given is None else string(given, f"{path}.function.arguments")
    arguments_object(arguments, f"{path}.function.arguments")
    return ToolUse(
        id=string(call.get("id"), f"{path}.id"),
        name=string(function.get("name"), f"{path}.function.name"),
        arguments=arguments if arguments.strip() else "{}",
        cache=call.get("cache_control"),
    )


def _tool_result(message: JSONObject, path: str) -> ToolResult:
    return ToolResult(
        id=string(message.get("tool_call_id"), f"{path}.tool_call_id"),
        parts=tuple(_user_parts(message.get("content"), f"{path}.content")),
        is_error=maybe_boolean(message.get("is_error"), f"{path}.is_error") or False,
        cache=message.get("cache_control"),
    )


_Sealed = tuple[Thinking | Redacted, int, int]  # the block, characters of text and calls of tools before it


def _sealed(block: JSONObject, path: str) -> _Sealed:
    characters = maybe_integer(block.get("text_before"), f"{path}.text_before") or 0
    calls = maybe_integer(block.get("tool_calls_before"), f"{path}.tool_calls_before") or 0
    if block.get("type") == "thinking":
        thinking = string(block.get("thinking"), f"{path}.thinking")
        return Thinking(thinking, maybe_string(block.get("signature"), f"{path}.signature")), characters, calls
    if block.get("type") == "redacted_thinking":
        return Redacted(string(block.get("data"), f"{path}.data")), characters, calls
    raise BadRequest(f"{path}.type: expected thinking or redacted_thinking", param=f"{path}.type")


def _interleave(sealed: list[_Sealed], texts: list[Part], calls: list[ToolUse]) -> list[Part]:
    """Put each block back where it stood; a position past the end of an edited text means its end."""
    parts: list[Part] = []
    remaining: list[Part] = [*texts, *calls]
    characters_out = calls_out = 0
    for block, characters, calls_before in sealed:
        while remaining:
            head = remaining[0]
            if isinstance(head, Text):
                room = characters - characters_out
                if room <= 0:
                    break
                if room < len(head.text):
                    remaining[0] = Text(head.text[room:], head.cache)
                    head = Text(head.text[:room])
                else:
                    remaining.pop(0)
                characters_out += len(head.text)
            elif calls_out < calls_before:
                remaining.pop(0)
                calls_out += 1
            else:
                break
            parts.append(head)
        parts.append(block)
    return [*parts, *remaining]


def _tool(value: object, path: str) -> Tool:
    tool = mapping(value, path)
    if tool.get("type", "function") != "function":
        raise refuse(f"{path}.type", "only tools of type function can be translated")
    function = mapping(tool.get("function"), f"{path}.function")
    cache = tool.get("cache_control")
    return Tool(
        name=string(function.get("name"), f"{path}.function.name"),
        description=maybe_string(function.get("description"), f"{path}.function.description"),
        schema=maybe_mapping(function.get("parameters"), f"{path}.function.parameters"),
        strict=maybe_boolean(function.get("strict"), f"{path}.function.strict"),
        cache=function.get("cache_control") if cache is None else cache,
    )


def _tool_choice(value: object) -> ToolChoice | None:
    if value is None:
        return None
    if isinstance(value, str):
        mode = {"any": "required"}.get(value, value)  # "any" is how Mistral says it
        if mode not in ("auto", "none", "required"):
            raise BadRequest("tool_choice: expected auto, none, required or an object", param="tool_choice")
        return ToolChoice(mode)
    choice = mapping(value, "tool_choice")
    match choice.get("type"):
        case "function":
            function = mapping(choice.get("function"), "tool_choice.function")
            return ToolChoice("named", string(function.get("name"), "tool_choice.function.name"))
        case "auto":  # hybrid clients send Anthropic's shape
            return ToolChoice("auto")
        case "any":
            return ToolChoice("required")
        case "none":
            return ToolChoice("none")
        case "tool":
            return ToolChoice("named", string(choice.get("name"), "tool_choice.name"))
        case _:
            raise refuse("tool_choice", "only auto, none, required and one named function can be translated")


def _format(value: object) -> Format | None:
    if value is None:
        return None
    given = mapping(value, "response_format")
    match given.get("type"):
        case "text":
            return None
        case "json_object":
            schema = given.get("schema")  # llama.cpp and others put one here
            return Format(maybe_mapping(schema, "response_format.schema"))
        case "json_schema":
            inner = mapping(given.get("json_schema"), "response_format.json_schema")
            return Format(
                schema=mapping(inner.get("schema"), "response_format.json_schema.schema"),
                name=maybe_string(inner.get("name"), "response_format.json_schema.name"),
                description=maybe_string(inner.get("description"), "response_format.json_schema.description"),
                strict=maybe_boolean(inner.get("strict"), "response_format.json_schema.strict"),
            )
        case _:
            raise refuse("response_format.type", "only text, json_object and json_schema can be translated")


def _reasoning(body: JSONObject) -> Reasoning | None:
    effort = maybe_string(body.get("reasoning_effort"), "reasoning_effort")
    if effort is not None and effort not in EFFORTS:
        raise BadRequest(f"reasoning_effort: expected one of {', '.join(EFFORTS)}", param="reasoning_effort")
    thinking = maybe_mapping(body.get("thinking"), "thinking")
    if thinking is None:
        return None if effort is None else Reasoning(enabled=effort != "none", effort=effort)
    kind = thinking.get("type")
    if kind not in ("enabled", "disabled", "adaptive", "auto"):
        raise BadRequest("thinking.type: expected enabled, disabled or adaptive", param="thinking.type")
    return Reasoning(
        enabled=kind != "disabled",
        effort=effort,
        budget_tokens=maybe_integer(thinking.get("budget_tokens"), "thinking.budget_tokens"),
        adaptive=kind in ("adaptive", "auto"),
        display=maybe_string(thinking.get("display"), "thinking.display"),
    )
