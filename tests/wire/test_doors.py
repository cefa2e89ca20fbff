"""Single decisions of translated requests: what each field and part becomes, or by which name it is refused."""

import json
from typing import Any

import pytest

from securellm.chat import Dialect, Endpoint
from securellm.errors import BadRequest, UnsupportedField
from securellm.wire.translate import translate_request
from securellm.wire.words import Capabilities

PNG = "data:image/png;base64,iVBORw0KGgo="
TOOLS = [{"type": "function", "function": {"name": "f"}}]
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ASK = [{"role": "user", "content": "q"}]
OBJECT = {"type": "object"}


def translate(
    door: Endpoint,
    dialect: Dialect,
    body: dict[str, Any],
    *,
    model: str = "m",
    num_ctx: int | None = None,
    capabilities: Capabilities | None = None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    translated = translate_request(
        door,
        dialect,
        json.dumps({"model": "x", **body}).encode(),
        model=model,
        max_output_tokens=4096,
        num_ctx=num_ctx,
        capabilities=capabilities or Capabilities(),
    )
    return json.loads(translated.body), translated.dropped


def to_anthropic(**body: Any) -> dict[str, Any]:
    return translate(Endpoint.CHAT, Dialect.ANTHROPIC, {"messages": ASK, **body})[0]


def to_ollama(**body: Any) -> dict[str, Any]:
    return translate(Endpoint.CHAT, Dialect.OLLAMA, {"messages": ASK, **body})[0]


def to_openai(capabilities: Capabilities | None = None, model: str = "m", **body: Any) -> dict[str, Any]:
    body = {"messages": ASK, "max_tokens": 9, **body}
    return translate(Endpoint.MESSAGES, Dialect.OPENAI, body, capabilities=capabilities, model=model)[0]


def refused(door: Endpoint, dialect: Dialect, body: dict[str, Any], error: type[BadRequest] = UnsupportedField) -> str:
    with pytest.raises(error) as caught:
        translate(door, dialect, {"messages": ASK, "max_tokens": 9, **body})
    assert caught.value.param is not None
    return caught.value.param


# --- system


def test_leading_system_messages_are_anthropics_system():
    """System and developer messages at the head become system blocks, in order; none is dropped."""
    body = to_anthropic(messages=[{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, *ASK])
    assert body["system"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert [message["role"] for message in body["messages"]] == ["user"]


def test_later_system_messages_keep_their_place():
    """A system message inside the conversation stays there, as a system turn of Anthropic's."""
    late = [*ASK, {"role": "assistant", "content": "a"}, {"role": "system", "content": "late"}, *ASK]
    body = to_anthropic(messages=late)
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "system", "user"]
    assert body["messages"][2]["content"] == [{"type": "text", "text": "late"}]


def test_anthropics_system_is_one_message():
    """A string is a string, several blocks are one message with as many parts; late ones keep their place."""
    assert to_openai(system="s")["messages"][0] == {"role": "system", "content": "s"}
    blocks = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert to_openai(system=blocks)["messages"][0] == {"role": "system", "content": blocks}
    plain = to_openai(Capabilities(content_parts=False), system=blocks)
    assert plain["messages"][0] == {"role": "system", "content": "a\n\nb"}
    late = to_openai(messages=[*ASK, {"role": "system", "content": "late"}])
    assert [message["role"] for message in late["messages"]] == ["user", "system"]


# --- tools


def test_results_of_tools_are_one_turn():
    """Two tool messages and the next question are one user turn, results first."""
    calls = [CALL, CALL | {"id": "c2"}]
    messages = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "2", "is_error": True},
        {"role": "user", "content": "go on"},
    ]
    body = to_anthropic(messages=messages, tools=TOOLS)
    content = body["messages"][2]["content"]
    assert [block["type"] for block in content] == ["tool_result", "tool_result", "text"]
    assert [block.get("is_error") for block in content] == [None, True, None]


def test_results_come_first_in_their_turn():
    """Anthropic wants results before anything else, wherever the client put them."""
    result = {"type": "tool_result", "tool_use_id": "c1", "content": "x"}
    content = [{"type": "text", "text": "see"}, result]
    messages = [*ASK, {"role": "assistant", "tool_calls": [CALL]}, {"role": "user", "content": content}]
    body = to_anthropic(messages=messages, tools=TOOLS)
    assert [block["type"] for block in body["messages"][2]["content"]] == ["tool_result", "text"]


def test_results_with_pictures_go_behind_the_results():
    """A tool message of OpenAI's holds text; pictures of results lead the user message that follows."""
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    use = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "see"}, picture]}
    messages = [
        *ASK,
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result, {"type": "text", "text": "?"}]},
    ]
    body = to_openai(messages=messages)
    assert body["messages"][2] == {"role": "tool", "tool_call_id": "t", "content": "see"}
    assert [part["type"] for part in body["messages"][3]["content"]] == ["image_url", "text"]


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        ("auto", None, {"type": "auto"}),
        ("none", None, {"type": "none"}),
        ("required", None, {"type": "any"}),
        ({"type": "function", "function": {"name": "f"}}, None, {"type": "tool", "name": "f"}),
        ("auto", False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("none", False, {"type": "none"}),
        (None, True, None),
    ],
)
def test_tool_choice_for_anthropic(choice: Any, parallel: bool | None, expected: Any):
    """Each choice has its counterpart; one call at a time is a switch on it."""
    body = to_anthropic(tools=TOOLS, tool_choice=choice, parallel_tool_calls=parallel)
    assert body.get("tool_choice") == expected


@pytest.mark.parametrize(
    ("choice", "expected", "parallel"),
    [
        ({"type": "auto"}, "auto", None),
        ({"type": "any"}, "required", None),
        ({"type": "none"}, "none", None),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}, None),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
    ],
)
def test_tool_choice_for_openai(choice: Any, expected: Any, parallel: bool | None):
    """And back."""
    body = to_openai(tools=[{"name": "f", "input_schema": OBJECT}], tool_choice=choice)
    assert body["tool_choice"] == expected
    assert body.get("parallel_tool_calls") == parallel


def test_tool_choice_for_ollama():
    """Auto is the default, none leaves the tools out; what it cannot be made to do is refused."""
    assert "tools" in to_ollama(tools=TOOLS, tool_choice="auto")
    assert "tools" not in to_ollama(tools=TOOLS, tool_choice="none")
    for choice in ("required", {"type": "function", "function": {"name": "f"}}):
        assert refused(Endpoint.CHAT, Dialect.OLLAMA, {"tools": TOOLS, "tool_choice": choice}) == "tool_choice"
    body = {"tools": TOOLS, "parallel_tool_calls": False}
    assert refused(Endpoint.CHAT, Dialect.OLLAMA, body) == "parallel_tool_calls"


def test_tools_keep_their_schema():
    """Name, description, schema, strictness and cache mark arrive; a tool without parameters has an empty object."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    function = {"name": "f", "description": "d", "parameters": schema, "strict": True}
    tools = [{"type": "function", "function": function, "cache_control": {"type": "ephemeral"}}, TOOLS[0]]
    body = to_anthropic(tools=tools)
    assert body["tools"] == [
        {
            "name": "f",
            "description": "d",
            "input_schema": schema,
            "strict": True,
            "cache_control": {"type": "ephemeral"},
        },
        {"name": "f", "input_schema": {"type": "object", "properties": {}}},
    ]
    back = to_openai(tools=[{"name": "f", "description": "d", "input_schema": schema, "strict": True}])
    assert back["tools"] == [{"type": "function", "function": function}]


def test_ids_that_anthropic_does_not_take_are_mended_alike():
    """Dots and colons in a call's id become underscores, in the call and in its result."""
    messages = [
        *ASK,
        {"role": "assistant", "tool_calls": [CALL | {"id": "functions.f:0"}]},
        {"role": "tool", "tool_call_id": "functions.f:0", "content": "x"},
    ]
    body = to_anthropic(messages=messages)
    assert body["messages"][1]["content"][0]["id"] == "functions_f_0"
    assert body["messages"][2]["content"][0]["tool_use_id"] == "functions_f_0"


@pytest.mark.parametrize("arguments", ["nonsense", "[]", "5", '{"a":'])
def test_arguments_in_history_must_be_an_object(arguments: str):
    """A call whose arguments are no object cannot be said to anybody else; its path is named."""
    function = {"name": "f", "arguments": arguments}
    messages = [*ASK, {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}]}]
    param = refused(Endpoint.CHAT, Dialect.ANTHROPIC, {"messages": messages}, BadRequest)
    assert param == "messages[1].tool_calls[0].function.arguments"


# --- parts


def test_cache_marks_pass_to_anthropic():
    """cache_control on a part of an OpenAI message arrives; elsewhere it is dropped and listed."""
    parts = [{"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}]
    messages = [{"role": "user", "content": parts}]
    assert to_anthropic(messages=messages)["messages"][0]["content"] == parts
    assert translate(Endpoint.CHAT, Dialect.OLLAMA, {"messages": messages})[1] == ("cache_control",)
    body = {"messages": messages, "max_tokens": 9}
    assert translate(Endpoint.MESSAGES, Dialect.OPENAI, body)[1] == ("cache_control",)


def test_pictures_and_files():
    """Data URLs are base64 on the other side and back; addresses stay addresses; a PDF is a document."""
    file = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}
    parts = [
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        file,
    ]
    content = to_anthropic(messages=[{"role": "user", "content": parts}])["messages"][0]["content"]
    assert [block["source"]["type"] for block in content] == ["base64", "url", "base64"]
    back = to_openai(messages=[{"role": "user", "content": content}])
    assert back["messages"][0]["content"] == parts
    assert to_ollama(messages=[{"role": "user", "content": parts[:1]}])["messages"][0]["images"] == ["iVBORw0KGgo="]


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}, "messages[0].content[0]"),
        ({"type": "video_url", "video_url": {"url": "x"}}, "messages[0].content[0]"),
        ({"type": "file", "file": {"file_id": "f-1"}}, "messages[0].content[0].file.file_id"),
    ],
)
@pytest.mark.parametrize("dialect", [Dialect.ANTHROPIC, Dialect.OLLAMA], ids=lambda dialect: dialect.name)
def test_parts_that_nobody_else_takes_are_refused(part: dict[str, Any], param: str, dialect: Dialect):
    """Audio, video, stored files and unknown parts are refused by their path, never left out."""
    messages = [{"role": "user", "content": [part]}]
    assert refused(Endpoint.CHAT, dialect, {"messages": messages}) == param


def test_addresses_are_refused_for_ollama():
    """Ollama fetches nothing, so an address is refused, and so is a document."""
    for part in (
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0="}},
    ):
        refused(Endpoint.CHAT, Dialect.OLLAMA, {"messages": [{"role": "user", "content": [part]}]})


@pytest.mark.parametrize(
    "block",
    [
        {"type": "search_result", "source": "s", "title": "t", "content": []},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "container_upload", "file_id": "f"},
        {"type": "image", "source": {"type": "file", "file_id": "f"}},
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "x"},
            "citations": {"enabled": True},
        },
        {"type": "frobnicate"},
    ],
    ids=lambda block: block["type"],
)
def test_blocks_that_nobody_else_takes_are_refused(block: dict[str, Any]):
    """Blocks that only Anthropic's servers understand are refused by their path."""
    param = refused(Endpoint.MESSAGES, Dialect.OPENAI, {"messages": [{"role": "user", "content": [block]}]})
    assert param.startswith("messages[0].content[0]")


def test_a_plain_text_document_is_text():
    """A document that is text anyway crosses as text; its title is listed."""
    source = {"type": "text", "media_type": "text/plain", "data": "words"}
    block = {"type": "document", "source": source, "title": "t"}
    body = {"messages": [{"role": "user", "content": [block]}], "max_tokens": 9}
    out, dropped = translate(Endpoint.MESSAGES, Dialect.OPENAI, body)
    assert out["messages"] == [{"role": "user", "content": "words"}]
    assert dropped == ("messages.content.title",)


def test_a_refused_part_is_named_but_never_quoted():
    """The kind of a part is named where it looks like one; anything else the caller wrote is not repeated."""
    with pytest.raises(UnsupportedField, match="type video_url"):
        to_anthropic(messages=[{"role": "user", "content": [{"type": "video_url"}]}])
    with pytest.raises(UnsupportedField) as caught:
        to_anthropic(messages=[{"role": "user", "content": [{"type": "my secret words"}]}])
    assert "secret" not in caught.value.message


def test_fields_inside_messages_are_listed():
    """What nobody reads of a message, a part or a tool is listed by its path without indexes, each once."""
    part = {"type": "text", "text": "q", "prompt_cache_breakpoint": {"mode": "explicit"}}
    messages = [{"role": "user", "content": [part, part], "name": "bob", "weight": 1, "nothing": None}]
    assert translate(Endpoint.CHAT, Dialect.ANTHROPIC, {"messages": messages})[1] == (
        "messages.name",
        "messages.weight",
        "messages.content.prompt_cache_breakpoint",
    )
    tools = [{"name": "f", "input_schema": OBJECT, "defer_loading": True}]
    blocks = [{"type": "text", "text": "q", "citations": [{"type": "char_location"}]}]
    body = {"messages": [{"role": "user", "content": blocks}], "max_tokens": 9, "tools": tools}
    assert set(translate(Endpoint.MESSAGES, Dialect.OPENAI, body)[1]) == {
        "messages.content.citations",
        "tools.defer_loading",
    }


def test_dropped_names_are_safe_in_a_header():
    """Names are the caller's own, so line ends and other signs become ?, long ones are cut, many are not listed."""
    strange = {"a\r\nset-cookie: x": 1, "é": 1, "n" * 500: 1, **{f"f{n}": 1 for n in range(100)}}
    dropped = translate(Endpoint.CHAT, Dialect.ANTHROPIC, {"messages": ASK, **strange})[1]
    assert dropped[:3] == ("a??set-cookie??x", "?", "n" * 64)
    assert len(dropped) == 40


# --- limits and sampling


def test_max_tokens():
    """Anthropic must be told a limit: the caller's newer name, its older one, or the model's maximum."""
    assert to_anthropic()["max_tokens"] == 4096
    assert to_anthropic(max_tokens=5)["max_tokens"] == 5
    body, dropped = translate(
        Endpoint.CHAT, Dialect.ANTHROPIC, {"messages": ASK, "max_tokens": 5, "max_completion_tokens": 6}
    )
    assert (body["max_tokens"], dropped) == (6, ("max_tokens",))
    assert to_openai(Capabilities(max_completion_tokens=False))["max_tokens"] == 9
    assert "options" not in to_ollama()


def test_temperatures_over_one_are_refused_for_anthropic():
    """Clamping would change what was asked for; Ollama takes it as it is."""
    assert refused(Endpoint.CHAT, Dialect.ANTHROPIC, {"temperature": 1.2}) == "temperature"
    assert to_ollama(temperature=1.2)["options"] == {"temperature": 1.2}


def test_ollamas_options():
    """The window, the limit and the sampling are options; `stream` is always said."""
    body, _ = translate(
        Endpoint.CHAT, Dialect.OLLAMA, {"messages": ASK, "stop": "x", "seed": 0, "max_tokens": 7}, num_ctx=16384
    )
    assert body["options"] == {"seed": 0, "num_ctx": 16384, "num_predict": 7, "stop": ["x"]}
    assert body["stream"] is False
    assert to_ollama(stream=True)["stream"] is True


def test_usage_is_asked_for_in_streams():
    """Streams of OpenAI's dialect are asked for usage, where the provider knows the field, and that is said."""
    body = json.dumps({"model": "x", "messages": ASK, "max_tokens": 9, "stream": True}).encode()
    for known in (True, False):
        translated = translate_request(
            Endpoint.MESSAGES,
            Dialect.OPENAI,
            body,
            model="m",
            max_output_tokens=1,
            capabilities=Capabilities(stream_usage=known),
        )
        assert (b"include_usage" in translated.body) is known


# --- formats and reasoning


def test_json_schemas():
    """A schema is output_config.format for Anthropic, format for Ollama, response_format for OpenAI."""
    schema = {"type": "object", "properties": {}}
    given = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    assert to_anthropic(response_format=given)["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    assert to_ollama(response_format=given)["format"] == schema
    assert to_ollama(response_format={"type": "json_object"})["format"] == "json"
    assert "format" not in to_ollama(response_format={"type": "text"})
    config = {"format": {"type": "json_schema", "schema": schema}, "effort": "low"}
    back = to_openai(output_config=config)
    assert back["response_format"]["json_schema"] == {"name": "answer", "schema": schema, "strict": True}
    assert back["reasoning_effort"] == "low"


def test_formats_that_cannot_be_had_are_refused():
    """Anthropic has no json_object mode; a provider without schemas is not asked for one."""
    body = {"response_format": {"type": "json_object"}}
    assert refused(Endpoint.CHAT, Dialect.ANTHROPIC, body) == "response_format"
    with pytest.raises(UnsupportedField):
        to_openai(Capabilities(json_schema=False), output_config={"format": {"type": "json_schema", "schema": OBJECT}})


@pytest.mark.parametrize(
    ("model", "effort", "limit", "expected", "dropped"),
    [
        ("claude-opus-4-8", "high", None, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}, ()),
        (
            "claude-opus-4-8",
            "minimal",
            None,
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
            (),
        ),
        ("claude-opus-4-8", "none", None, {"thinking": {"type": "disabled"}}, ()),
        ("claude-sonnet-4-5-20250929", "low", 64000, {"thinking": {"type": "enabled", "budget_tokens": 2048}}, ()),
        ("claude-3-7-sonnet-latest", "high", 64000, {"thinking": {"type": "enabled", "budget_tokens": 16384}}, ()),
        ("claude-haiku-4-5", "high", 4096, {"thinking": {"type": "enabled", "budget_tokens": 2048}}, ()),
        ("claude-haiku-4-5", "high", 1024, {}, ("reasoning_effort",)),
    ],
)
def test_effort_for_anthropic(model: str, effort: str, limit: int | None, expected: Any, dropped: tuple[str, ...]):
    """An effort is adaptive thinking for the models that know it, a budget under the limit for older ones."""
    body = {"messages": ASK, "reasoning_effort": effort, "max_tokens": limit}
    out, left = translate(Endpoint.CHAT, Dialect.ANTHROPIC, body, model=model)
    assert {name: out[name] for name in ("thinking", "output_config") if name in out} == expected
    assert left == dropped


def test_effort_in_a_tool_loop_without_its_thinking():
    """A client that did not keep the thinking of a tool loop is answered without, rather than with the API's 400."""
    messages = [
        *ASK,
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "x"},
    ]
    body = {"messages": messages, "reasoning_effort": "high", "max_tokens": 64000}
    out, dropped = translate(Endpoint.CHAT, Dialect.ANTHROPIC, body, model="claude-haiku-4-5")
    assert "thinking" not in out
    assert dropped == ("reasoning_effort",)
    out, dropped = translate(Endpoint.CHAT, Dialect.ANTHROPIC, body, model="claude-opus-4-8")
    assert out["thinking"] == {"type": "adaptive"}


@pytest.mark.parametrize(
    ("thinking", "capabilities", "expected"),
    [
        ({"type": "enabled", "budget_tokens": 2000}, Capabilities(), {"reasoning_effort": "low"}),
        ({"type": "enabled", "budget_tokens": 10000}, Capabilities(), {"reasoning_effort": "medium"}),
        ({"type": "enabled", "budget_tokens": 31999}, Capabilities(), {"reasoning_effort": "high"}),
        ({"type": "adaptive"}, Capabilities(), {}),
        ({"type": "disabled"}, Capabilities(), {}),
        (
            {"type": "enabled", "budget_tokens": 2000},
            Capabilities(thinking_switch=True, reasoning_effort=False),
            {"thinking": {"type": "enabled"}},
        ),
        ({"type": "disabled"}, Capabilities(thinking_switch=True), {"thinking": {"type": "disabled"}}),
    ],
)
def test_thinking_for_openai(thinking: dict[str, Any], capabilities: Capabilities, expected: dict[str, Any]):
    """A budget is the nearest effort, or a switch where the provider has one."""
    body = to_openai(capabilities, thinking=thinking)
    assert {name: body[name] for name in ("thinking", "reasoning_effort") if name in body} == expected


def test_models_that_do_not_reason_are_not_asked_to():
    """reasoning_effort makes these answer 400, so it is left out and listed."""
    body = {"messages": ASK, "max_tokens": 9, "thinking": {"type": "enabled", "budget_tokens": 2000}}
    out, dropped = translate(Endpoint.MESSAGES, Dialect.OPENAI, body, model="gpt-4o")
    assert "reasoning_effort" not in out
    assert dropped == ("thinking",)
    assert to_openai(model="gpt-5", thinking=body["thinking"])["reasoning_effort"] == "low"


# --- what is missing or of the wrong kind


@pytest.mark.parametrize(
    ("door", "body", "param"),
    [
        (Endpoint.CHAT, {"messages": "hi"}, "messages"),
        (Endpoint.CHAT, {"messages": [5]}, "messages[0]"),
        (Endpoint.CHAT, {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        (Endpoint.CHAT, {"messages": [{"content": "x"}]}, "messages[0].role"),
        (Endpoint.CHAT, {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        (Endpoint.CHAT, {"messages": ASK, "temperature": "hot"}, "temperature"),
        (Endpoint.CHAT, {"messages": ASK, "max_tokens": 1.5}, "max_tokens"),
        (Endpoint.CHAT, {"messages": ASK, "stop": [5]}, "stop[0]"),
        (Endpoint.CHAT, {"messages": ASK, "tools": [{}]}, "tools[0].name"),
        (Endpoint.CHAT, {"messages": ASK, "tool_choice": "sometimes"}, "tool_choice"),
        (Endpoint.CHAT, {"messages": ASK, "tool_choice": "required"}, "tool_choice"),
        (Endpoint.CHAT, {"messages": ASK, "reasoning_effort": "huge"}, "reasoning_effort"),
        (Endpoint.CHAT, {"messages": []}, "messages"),
        (
            Endpoint.CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]},
            "messages[0].content[0].image_url.url",
        ),
        (Endpoint.MESSAGES, {"messages": ASK, "max_tokens": None}, "max_tokens"),
        (Endpoint.MESSAGES, {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        (Endpoint.MESSAGES, {"messages": [{"role": "user"}]}, "messages[0].content"),
        (
            Endpoint.MESSAGES,
            {"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}]},
            "messages[0].content[0]",
        ),
        (Endpoint.MESSAGES, {"messages": ASK, "thinking": {"type": "maybe"}}, "thinking.type"),
        (Endpoint.MESSAGES, {"messages": ASK, "tool_choice": {"type": "maybe"}}, "tool_choice.type"),
        (Endpoint.MESSAGES, {"messages": ASK, "output_config": {"effort": "huge"}}, "output_config.effort"),
    ],
)
def test_mistakes_are_named(door: Endpoint, body: dict[str, Any], param: str):
    """Each mistake is a BadRequest whose `param` is the path of what is wrong."""
    dialect = Dialect.ANTHROPIC if door is Endpoint.CHAT else Dialect.OPENAI
    with pytest.raises(BadRequest) as caught:
        translate(door, dialect, {"max_tokens": 9, **body} if door is Endpoint.MESSAGES else body)
    assert caught.value.param == param
