"""A neutral request as the body of an OpenAI chat completion. Pure.

What the two families say differently, and what is done about it:
- adjacent system turns become one message, later ones stay in place (`system`, which every server knows);
- a user turn with results of tools becomes one message of the role `tool` for each, then the rest of the turn. A tool
  message holds text only, so pictures and files inside results follow at the head of the user message;
- whether a result is an error cannot be said: dropped and listed, the text says it as a rule;
- thinking returns as `reasoning_content` where the provider knows that; else it is dropped and listed. Sealed thinking
  goes back as `reasoning_details` to OpenRouter; to anybody else seals mean nothing: signatures are dropped and listed,
  redacted_thinking is refused;
- a token budget becomes the nearest `reasoning_effort`;
- usage is always asked for in streams, so that the gateway can count.
"""

import re

from securellm.errors import BadRequest
from securellm.wire.images import encode_data_url
from securellm.wire.reading import refuse
from securellm.wire.words import (
    Capabilities,
    Document,
    Dropped,
    Format,
    Image,
    JSONObject,
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

LOW_BUDGET_TOKENS = 4096  # a budget up to here is effort low,
MEDIUM_BUDGET_TOKENS = 16384  # up to here medium, above high

_NOT_REASONING = re.compile(r"(?:openai/)?(?:gpt-3|gpt-4|chatgpt-4)")  # these refuse reasoning_effort


def encode_chat_request(request: Request, *, model: str, capabilities: Capabilities, dropped: Dropped) -> JSONObject:
    """The provider's body. Raises UnsupportedField for what the provider cannot be asked."""
    if not request.turns:
        raise BadRequest("messages: expected at least one message", param="messages")
    body: JSONObject = {"model": model, "messages": _Messages(capabilities, dropped).encode(request.turns)}
    if request.max_output_tokens is not None:
        body["max_completion_tokens" if capabilities.max_completion_tokens else "max_tokens"] = (
            request.max_output_tokens
        )
    if request.tools:
        body["tools"] = [_tool(tool, dropped) for tool in request.tools]
    _put_tool_choice(body, request, capabilities)
    for name in ("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed"):
        if getattr(request, name) is not None:
            body[name] = getattr(request, name)
    if request.top_k is not None:
        if capabilities.top_k:
            body["top_k"] = request.top_k
        else:
            dropped.add("top_k")
    if request.stop:
        body["stop"] = list(request.stop)
    if request.format is not None:
        body["response_format"] = _format(request.format, capabilities)
    if request.reasoning is not None:
        _put_reasoning(body, request.reasoning, capabilities, dropped)
    if request.stream:
        body["stream"] = True
        if capabilities.stream_usage:
            body["stream_options"] = {"include_usage": True}
    return body


class _Messages:
    """Encodes turns; holds what every message needs to know."""

    def __init__(self, capabilities: Capabilities, dropped: Dropped) -> None:
        self._capabilities = capabilities
        self._dropped = dropped

    def encode(self, turns: tuple[Turn, ...]) -> list[JSONObject]:
        messages: list[JSONObject] = []
        system: list[Text | Image | Document] = []
        for turn in turns:
            if turn.role == "system":
                system += [part for part in turn.parts if isinstance(part, Text)]
                continue
            messages += self._system(system)
            system = []
            messages += [self._assistant(turn)] if turn.role == "assistant" else self._user(turn)
        return [*messages, *self._system(system)]

    def _system(self, parts: list[Text | Image | Document]) -> list[JSONObject]:
        return [{"role": "system", "content": self._content(parts)}] if parts else []

    def _user(self, turn: Turn) -> list[JSONObject]:
        messages: list[JSONObject] = []
        rest: list[Text | Image | Document] = []
        carried: list[Text | Image | Document] = []
        for part in turn.parts:
            if isinstance(part, ToolResult):
                messages.append(self._tool_message(part))
                carried += [inner for inner in part.parts if not isinstance(inner, Text)]
            elif isinstance(part, Text | Image | Document):
                rest.append(part)
        if rest or carried or not messages:
            messages.append({"role": "user", "content": self._content([*carried, *rest])})
        return messages

    def _tool_message(self, result: ToolResult) -> JSONObject:
        if result.is_error:
            self._dropped.add("messages.tool_result.is_error")
        self._note_cache(result.cache)
        texts: list[Text | Image | Document] = [part for part in result.parts if isinstance(part, Text)]
        return {"role": "tool", "tool_call_id": result.id, "content": self._content(texts)}

    def _assistant(self, turn: Turn) -> JSONObject:
        texts: list[Text | Image | Document] = []
        thoughts: list[Thinking | Redacted] = []
        calls: list[JSONObject] = []
        for part in turn.parts:
            match part:
                case Text() | Image() | Document():
                    texts.append(part)
                case Thinking() | Redacted():
                    thoughts.append(part)
                case ToolUse():
                    self._note_cache(part.cache)
                    calls.append(_tool_call(part))
                case ToolResult():
                    raise refuse("messages.content.tool_result", "expected it in a message of the role user")
        message: JSONObject = {"role": "assistant", "content": self._content(texts) if texts or not calls else None}
        self._put_thoughts(message, thoughts)
        if calls:
            message["tool_calls"] = calls
        return message

    def _put_thoughts(self, message: JSONObject, thoughts: list[Thinking | Redacted]) -> None:
        details = [_detail(thought, index) for index, thought in enumerate(thoughts)]
        if self._capabilities.reasoning_details and any(detail is not None for detail in details):
            message["reasoning_details"] = [detail for detail in details if detail is not None]
            return
        texts = []
        for thought in thoughts:
            if isinstance(thought, Redacted):
                raise refuse("messages.content.redacted_thinking", "only the provider that sealed it can read it")
            if thought.signature:
                self._dropped.add("messages.thinking.signature")
            texts.append(thought.text)
        if not any(texts):
            return
        if self._capabilities.reasoning_content:
            message["reasoning_content"] = "".join(texts)
        else:
            self._dropped.add("messages.thinking")

    def _content(self, parts: list[Text | Image | Document]) -> str | list[JSONObject]:
        for part in parts:
            self._note_cache(part.cache)
        texts = [part.text for part in parts if isinstance(part, Text)]
        if len(texts) == len(parts) and (len(texts) <= 1 or not self._capabilities.content_parts):
            return "\n\n".join(texts)
        if not self._capabilities.content_parts:
            raise refuse("messages.content", "the provider takes text only")
        return [self._part(part) for part in parts]

    def _part(self, part: Text | Image | Document) -> JSONObject:
        match part:
            case Text(text=text):
                return {"type": "text", "text": text}
            case Image(url=url, media_type=media_type, data=data, detail=detail):
                address = encode_data_url(media_type or "image/png", data or "") if url is None else url
                image: JSONObject = {"url": address}
                if detail is not None:
                    image["detail"] = detail
                return {"type": "image_url", "image_url": image}
            case Document(media_type=media_type, data=data, title=title):
                if data is None or not self._capabilities.files:
                    raise refuse("messages.content.document", "the provider does not take this kind of document")
                file: JSONObject = {"filename": title or "document.pdf", "file_data": encode_data_url(media_type, data)}
                return {"type": "file", "file": file}

    def _note_cache(self, cache: object) -> None:
        if cache is not None:
            self._dropped.add("cache_control")


def _detail(thought: Thinking | Redacted, index: int) -> JSONObject | None:
    """Sealed thinking as OpenRouter takes it back; None for thinking that nobody sealed."""
    common: JSONObject = {"format": "anthropic-claude-v1", "index": index}
    if isinstance(thought, Redacted):
        return {"type": "reasoning.encrypted", "data": thought.data, **common}
    if not thought.signature:
        return None
    return {"type": "reasoning.text", "text": thought.text, "signature": thought.signature, **common}


def _tool_call(call: ToolUse) -> JSONObject:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _tool(tool: Tool, dropped: Dropped) -> JSONObject:
    if tool.cache is not None:
        dropped.add("cache_control")
    function: JSONObject = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.schema is not None:
        function["parameters"] = tool.schema
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _put_tool_choice(body: JSONObject, request: Request, capabilities: Capabilities) -> None:
    choice = request.tool_choice
    if not request.tools:
        if choice is not None and choice.mode in ("required", "named"):
            raise BadRequest("tool_choice: expected tools beside it", param="tool_choice")
        return
    if choice is not None:
        body["tool_choice"] = _tool_choice(choice)
    if request.parallel_tool_calls is None:
        return
    if capabilities.parallel_tool_calls:
        body["parallel_tool_calls"] = request.parallel_tool_calls
    elif not request.parallel_tool_calls:
        raise refuse("tool_choice.disable_parallel_tool_use", "the provider cannot be asked for one call at a time")


def _tool_choice(choice: ToolChoice) -> str | JSONObject:
    if choice.mode == "named":
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode


def _format(format_: Format, capabilities: Capabilities) -> JSONObject:
    if format_.schema is None:
        return {"type": "json_object"}
    if not capabilities.json_schema:
        raise refuse("output_config.format", "the provider does not take a json schema")
    schema: JSONObject = {"name": format_.name or "answer", "schema": format_.schema}
    if format_.description is not None:
        schema["description"] = format_.description
    if format_.strict is not None:
        schema["strict"] = format_.strict
    return {"type": "json_schema", "json_schema": schema}


def _put_reasoning(body: JSONObject, reasoning: Reasoning, capabilities: Capabilities, dropped: Dropped) -> None:
    if capabilities.thinking_switch and reasoning.enabled is not None:
        body["thinking"] = {"type": "enabled" if reasoning.enabled else "disabled"}
    elif reasoning.enabled is False:
        dropped.add("thinking")
    effort = reasoning.effort
    if effort is None and reasoning.enabled and reasoning.budget_tokens is not None:
        effort = _nearest_effort(reasoning.budget_tokens)
    if effort is None or reasoning.enabled is False:
        return
    if capabilities.reasoning_effort and not _NOT_REASONING.match(str(body["model"])):
        body["reasoning_effort"] = effort
    elif "thinking" not in body:
        dropped.add("output_config" if reasoning.enabled is None else "thinking")


def _nearest_effort(budget_tokens: int) -> str:
    if budget_tokens <= LOW_BUDGET_TOKENS:
        return "low"
    return "medium" if budget_tokens <= MEDIUM_BUDGET_TOKENS else "high"
