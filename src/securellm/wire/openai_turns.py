"""The messages of an OpenAI chat request, read into neutral turns. Pure.

Some agents send Anthropic's blocks through this door (`tool_use` and `tool_result` inside content, pictures with a
`source`); what they mean is plain, so they are read as such.

Thinking comes back on assistant messages as `securellm_thinking`, written by `openai_answer.py`: each block says how
many characters of `content` and how many tool calls stood before it, so that interleaved thinking returns to its place.
Without it, `reasoning_content` (or `reasoning`) is thinking without a seal.
"""

from securellm.errors import BadRequest
from securellm.wire.anthropic_door import parse_block
from securellm.wire.images import parse_data_url
from securellm.wire.reading import (
    arguments_object,
    array,
    mapping,
    maybe_boolean,
    maybe_integer,
    maybe_string,
    refuse,
    string,
    wrong,
)
from securellm.wire.words import (
    Document,
    Dropped,
    Image,
    JSONObject,
    Part,
    Redacted,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
    Turn,
)

_SYSTEM_ROLES = ("system", "developer")
_MESSAGE_FIELDS = frozenset(
    (
        *("role", "content", "tool_calls", "tool_call_id", "refusal", "reasoning_content", "reasoning"),
        *("securellm_thinking", "function_call", "audio", "cache_control", "is_error"),
    )
)
_OWN_PARTS = ("input_text", "output_text", "refusal", "image_url", "file")
_PART_FIELDS = frozenset(("type", "text", "refusal", "image_url", "file", "cache_control"))
_OF_USERS = (Text, Image, Document, ToolResult)
_OF_ASSISTANTS = (Text, Thinking, Redacted, ToolUse)


def parse_turn(message: JSONObject, path: str, dropped: Dropped) -> Turn:
    """One message as a turn. Raises BadRequest and UnsupportedField with the path in `param`."""
    dropped.add_unknown(message, _MESSAGE_FIELDS, "messages")
    role = message.get("role")
    if role in _SYSTEM_ROLES:
        return Turn("system", parse_texts(message.get("content"), f"{path}.content", dropped))
    if role == "user":
        parts = _parts(message.get("content"), f"{path}.content", dropped)
        return Turn("user", _checked(parts, _OF_USERS, f"{path}.content"))
    if role == "assistant":
        return Turn("assistant", _checked(_assistant_parts(message, path, dropped), _OF_ASSISTANTS, f"{path}.content"))
    if role == "tool":
        return Turn("user", (_tool_result(message, path, dropped),))
    if role == "function":
        raise refuse(f"{path}.role", "the role function is not translated; send role tool with tool_call_id")
    if isinstance(role, str):
        raise BadRequest(
            f"{path}.role: got an unknown role, expected system, developer, user, assistant or tool",
            param=f"{path}.role",
        )
    raise wrong(role, f"{path}.role", "a string")


def _checked(parts: list[Part], allowed: tuple[type, ...], path: str) -> tuple[Part, ...]:
    if not all(isinstance(part, allowed) for part in parts):
        raise refuse(path, "a part of this kind cannot be translated in a message of this role")
    return tuple(parts)


def parse_texts(content: object, path: str, dropped: Dropped) -> tuple[Text, ...]:
    """Content that must be text: a string, or an array of text parts. Raises UnsupportedField."""
    parts = _parts(content, path, dropped)
    texts = tuple(part for part in parts if isinstance(part, Text))
    if len(texts) != len(parts):
        raise refuse(path, "only text parts can be translated here")
    return texts


def _parts(content: object, path: str, dropped: Dropped) -> list[Part]:
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(content)]
    return [_part(part, f"{path}[{n}]", dropped) for n, part in enumerate(array(content, path))]


def _part(value: object, path: str, dropped: Dropped) -> Part:
    if isinstance(value, str):
        return Text(value)
    part = mapping(value, path)
    kind = part.get("type")
    if kind in _OWN_PARTS:
        dropped.add_unknown(part, _PART_FIELDS, "messages.content")
    match kind:
        case "input_text" | "output_text":
            return Text(string(part.get("text"), f"{path}.text"), part.get("cache_control"))
        case "refusal":
            return Text(string(part.get("refusal"), f"{path}.refusal"))
        case "image_url":
            return _image(part, path)
        case "file":
            return _file(part, path)
        case _:
            return parse_block(part, path, dropped)


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


def _assistant_parts(message: JSONObject, path: str, dropped: Dropped) -> list[Part]:
    for name in ("function_call", "audio"):
        if message.get(name) is not None:
            raise refuse(f"{path}.{name}", "cannot be translated for the provider")
    parts = _parts(message.get("content"), f"{path}.content", dropped)
    refusal = maybe_string(message.get("refusal"), f"{path}.refusal")
    if refusal:
        parts.append(Text(refusal))
    parts += [_tool_call(call, f"{path}.tool_calls[{n}]") for n, call in _numbered(message, "tool_calls", path)]
    sealed = [
        _sealed(block, f"{path}.securellm_thinking[{n}]") for n, block in _numbered(message, "securellm_thinking", path)
    ]
    if sealed:
        return _interleave(sealed, parts)
    reasoning = message.get("reasoning_content")
    if reasoning is None:
        reasoning = message.get("reasoning")
    return [Thinking(reasoning), *parts] if isinstance(reasoning, str) and reasoning else parts


def _numbered(message: JSONObject, name: str, path: str) -> list[tuple[int, JSONObject]]:
    return [
        (n, mapping(item, f"{path}.{name}[{n}]")) for n, item in enumerate(array(message.get(name), f"{path}.{name}"))
    ]


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


def _tool_result(message: JSONObject, path: str, dropped: Dropped) -> ToolResult:
    parts = []
    for part in _parts(message.get("content"), f"{path}.content", dropped):
        if not isinstance(part, Text | Image | Document):
            raise refuse(f"{path}.content", "a part of this kind cannot be translated in the result of a tool")
        parts.append(part)
    return ToolResult(
        id=string(message.get("tool_call_id"), f"{path}.tool_call_id"),
        parts=tuple(parts),
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


def _interleave(sealed: list[_Sealed], said: list[Part]) -> list[Part]:
    """Put each block back where it stood; a position past the end of an edited text means its end."""
    parts: list[Part] = []
    remaining = list(said)
    characters_out = calls_out = 0
    for block, characters, calls in sealed:
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
            elif calls_out < calls:
                remaining.pop(0)
                calls_out += 1
            else:
                break
            parts.append(head)
        parts.append(block)
    return [*parts, *remaining]
