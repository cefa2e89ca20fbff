"""A caller's OpenAI chat request, read into neutral words. Pure.

Tolerant where agents are known to differ and the meaning is plain: Anthropic's `system`, `stop_sequences`, `thinking`
and tools with `input_schema`, the flat tools of Responses, OpenRouter's `reasoning`, `cache_control` on anything. Exact
everywhere else: what is unknown is refused by its path. The messages are read by `openai_turns.py`.
"""

from securellm.errors import BadRequest
from securellm.wire.openai_turns import parse_texts, parse_turn
from securellm.wire.reading import (
    array,
    mapping,
    maybe_boolean,
    maybe_integer,
    maybe_mapping,
    maybe_number,
    maybe_string,
    read_effort,
    refuse,
    string,
    strings,
)
from securellm.wire.words import (
    Dropped,
    Format,
    JSONObject,
    Reasoning,
    Request,
    Tool,
    ToolChoice,
    Turn,
)


def parse_chat_request(body: JSONObject, dropped: Dropped) -> Request:
    """The request in neutral words. Raises BadRequest and UnsupportedField with the path in `param`."""
    if "messages" not in body:
        hint = "; a body with input belongs to /v1/responses" if "input" in body else ""
        raise BadRequest(f"messages: the field is missing{hint}", param="messages")
    turns = [Turn("system", (text,)) for text in parse_texts(body.get("system"), "system", dropped)]
    for n, message in enumerate(array(body["messages"], "messages")):
        turns.append(parse_turn(mapping(message, f"messages[{n}]"), f"messages[{n}]", dropped))
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
        stop=strings(body.get("stop"), "stop") + strings(body.get("stop_sequences"), "stop_sequences"),
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


def _tool(value: object, path: str) -> Tool:
    tool = mapping(value, path)
    if tool.get("type", "function") not in ("function", "custom") or "custom" in tool:
        raise refuse(f"{path}.type", "only tools of type function can be translated")
    flat = "function" not in tool  # as Responses and Anthropic write them
    function, where = (tool, path) if flat else (mapping(tool["function"], f"{path}.function"), f"{path}.function")
    parameters = function.get("parameters", function.get("input_schema"))
    cache = tool.get("cache_control")
    return Tool(
        name=string(function.get("name"), f"{where}.name"),
        description=maybe_string(function.get("description"), f"{where}.description"),
        schema=maybe_mapping(parameters, f"{where}.parameters"),
        strict=maybe_boolean(function.get("strict"), f"{where}.strict"),
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
    effort = read_effort(body.get("reasoning_effort"), "reasoning_effort")
    thinking = maybe_mapping(body.get("thinking"), "thinking")
    if thinking is None:
        nested = maybe_mapping(body.get("reasoning"), "reasoning")
        if nested is not None and effort is None:
            return _nested_reasoning(nested)
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


def _nested_reasoning(reasoning: JSONObject) -> Reasoning:
    """OpenRouter's object, which has an effort or a budget."""
    effort = read_effort(reasoning.get("effort"), "reasoning.effort")
    enabled = maybe_boolean(reasoning.get("enabled"), "reasoning.enabled")
    return Reasoning(
        enabled=effort != "none" if enabled is None else enabled,
        effort=effort,
        budget_tokens=maybe_integer(reasoning.get("max_tokens"), "reasoning.max_tokens"),
    )
