"""The built-in provider `demo`: deterministic answers in OpenAI's dialect, without a key or a network. Pure.

`demo/echo` repeats the last user text; `demo/lorem` says as many words of lorem ipsum as `max_tokens` asks for. Same
body, same answer, to the byte. Every answer says what it is: model `demo/…`, an id that starts with `demo-`,
`system_fingerprint` `demo`, the header `x-securellm-demo`. A token is a run of word characters or one other
character that is not white space, which is easy to predict and is no model's count.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from securellm.chat import Dialect, Endpoint, Headers
from securellm.providers import demo_answers
from securellm.providers.base import Adapter, EndpointPath
from securellm.providers.demo_answers import Reply, Said, ToolCall

MODELS = ("echo", "lorem")
DEFAULT_LOREM_TOKENS = 64  # what demo/lorem says when max_tokens is absent: a paragraph
MAX_LOREM_TOKENS = 100_000  # where demo/lorem stops whatever is asked, so that one request cannot run for hours
MAX_DIMENSIONS = 4096  # of an embedding
DEFAULT_DIMENSIONS = 8

ADAPTER = Adapter(
    name="demo",
    base_url="demo://demo",
    endpoints={
        Endpoint.CHAT: EndpointPath("/chat/completions", Dialect.OPENAI),
        Endpoint.COMPLETIONS: EndpointPath("/completions", Dialect.OPENAI),
        Endpoint.EMBEDDINGS: EndpointPath("/embeddings", Dialect.OPENAI),
        Endpoint.MESSAGES: EndpointPath("/chat/completions", Dialect.OPENAI),
        Endpoint.COUNT_TOKENS: EndpointPath("/messages/count_tokens", Dialect.ANTHROPIC),
    },
    models=None,
    needs_key=False,
    local=True,
)

_ENDPOINT_AT = {
    f"{ADAPTER.base_url}{ADAPTER.prefix}{path.path}": endpoint
    for endpoint, path in ADAPTER.endpoints.items()
    if endpoint is not Endpoint.MESSAGES
}
_TOKEN = re.compile(r"\w+|[^\w\s]")
_LOREM_TEXT = (
    "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna "
    "aliqua ut enim ad minim veniam quis nostrud exercitation ullamco laboris nisi ut aliquip ex ea commodo consequat"
)
_OPENING = ("This", "is", "a", "demo", "answer")


class DemoAnswer(msgspec.Struct, frozen=True):
    """A provider's answer made in-process. `chunks` is what its reads would give, lazily made."""

    status: int
    headers: Headers
    chunks: Iterator[bytes]


class DemoRefusal(Exception):
    """A request that the demo provider refuses as a real one would."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status


def endpoint_at(url: str) -> Endpoint:
    """Which endpoint a URL of the demo provider is; the Messages door arrives as chat. Raises KeyError."""
    return _ENDPOINT_AT[url]


def answer_demo(endpoint: Endpoint, body: bytes) -> DemoAnswer:
    """The whole answer to a request body; what is wrong with the body is a 4xx in the endpoint's dialect."""
    try:
        request = _parse_object(body)
        if endpoint is Endpoint.COUNT_TOKENS:
            return _json(200, {"input_tokens": count_messages(request)})
        model = _model(request)
        if endpoint is Endpoint.EMBEDDINGS:
            return _json(200, _embed(request, model))
        reply = (
            _reply_chat(request, model, body)
            if endpoint is not Endpoint.COMPLETIONS
            else _complete(request, model, body)
        )
    except DemoRefusal as refusal:
        return _json(refusal.status, _error(endpoint, refusal))
    if not reply.stream:
        return _json(200, demo_answers.encode_whole(reply))
    return DemoAnswer(200, _headers(b"text/event-stream"), demo_answers.stream(reply))


def count_tokens(text: str) -> int:
    """How many tokens a text has by the demo's rule."""
    return sum(1 for _ in _TOKEN.finditer(text))


def count_messages(request: Mapping[str, Any]) -> int:
    """The tokens of a conversation: its texts, one for each message and each part that is not text, and the tools."""
    total = _count_content(request.get("system"))
    for message in _messages(request):
        total += 1 + _count_content(message.get("content")) + _count_json(message.get("tool_calls"))
    return total + _count_json(request.get("tools"))


def _reply_chat(request: Mapping[str, Any], model: str, body: bytes) -> Reply:
    prompt_tokens = count_messages(request)
    tool = _forced_tool(request)
    said = _call(tool) if tool else _say(model, _last_user_text(request), _schema(request), request)
    return Reply(
        id=demo_answers.reply_id("chatcmpl", body),
        model=f"demo/{model}",
        chat=True,
        stream=request.get("stream") is True,
        include_usage=_include_usage(request),
        prompt_tokens=prompt_tokens,
        said=said,
    )


def _complete(request: Mapping[str, Any], model: str, body: bytes) -> Reply:
    prompt = request.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise DemoRefusal("expected a string, or a list of one string", param="prompt")
    return Reply(
        id=demo_answers.reply_id("cmpl", body),
        model=f"demo/{model}",
        chat=False,
        stream=request.get("stream") is True,
        include_usage=_include_usage(request),
        prompt_tokens=count_tokens(prompt),
        said=_say(model, prompt, None, request),
    )


def _say(model: str, text: str, schema: Mapping[str, Any] | None, request: Mapping[str, Any]) -> Said:
    if request.get("n") not in (None, 1):
        raise DemoRefusal("the demo gives one choice, expected n to be 1", param="n")
    limit = _limit(request)
    if schema is not None:
        text = msgspec.json.encode(demo_answers.instance_of(schema)).decode()
    elif model == "lorem":
        wanted = min(limit or DEFAULT_LOREM_TOKENS, MAX_LOREM_TOKENS)
        words = itertools.islice(itertools.chain(_OPENING, itertools.cycle(_LOREM_TEXT.split())), wanted)
        return _cut(Said(" ".join(words), wanted, "length" if wanted == limit else "stop"), request)
    tokens = count_tokens(text)
    if limit is not None and tokens > limit:
        end = next(itertools.islice(_TOKEN.finditer(text), limit - 1, None)).end()
        return _cut(Said(text[:end], limit, "length"), request)
    return _cut(Said(text, tokens, "stop"), request)


def _cut(said: Said, request: Mapping[str, Any]) -> Said:
    """End at the first stop sequence, as `stop` asks."""
    stop = request.get("stop")
    sequences = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(sequences, list) or not all(isinstance(sequence, str) for sequence in sequences):
        raise DemoRefusal("expected a string or a list of strings", param="stop")
    ends = [said.text.find(sequence) for sequence in sequences if sequence and sequence in said.text]
    if not ends:
        return said
    text = said.text[: min(ends)]
    return Said(text, count_tokens(text), "stop")


def _call(tool: Mapping[str, Any]) -> Said:
    """One call of the tool, with the smallest arguments that fit its schema."""
    arguments = demo_answers.instance_of(tool.get("parameters") or {"type": "object"})
    encoded = msgspec.json.encode(arguments).decode()
    return Said("", 1 + count_tokens(encoded), "tool_calls", ToolCall(tool["name"], encoded))


def _embed(request: Mapping[str, Any], model: str) -> dict[str, Any]:
    inputs = request.get("input")
    if isinstance(inputs, str) or (isinstance(inputs, list) and inputs and isinstance(inputs[0], int)):
        inputs = [inputs]
    if not isinstance(inputs, list) or not inputs or not all(isinstance(item, str | list) for item in inputs):
        raise DemoRefusal("expected a string or a list of strings or tokens", param="input")
    dimensions = request.get("dimensions") or DEFAULT_DIMENSIONS
    if not isinstance(dimensions, int) or not 1 <= dimensions <= MAX_DIMENSIONS:
        raise DemoRefusal(f"expected 1 to {MAX_DIMENSIONS}", param="dimensions")
    as_base64 = request.get("encoding_format") == "base64"
    tokens = sum(count_tokens(item) if isinstance(item, str) else len(item) for item in inputs)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": demo_answers.embedding_of(item, dimensions, as_base64)}
            for index, item in enumerate(inputs)
        ],
        "model": f"demo/{model}",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise DemoRefusal("the body is not JSON") from exc
    if not isinstance(request, dict):
        raise DemoRefusal("the body is not a JSON object")
    return request


def _model(request: Mapping[str, Any]) -> str:
    model = request.get("model")
    name = model.removeprefix("demo/") if isinstance(model, str) else ""
    if name not in MODELS:
        raise DemoRefusal("the demo has the models echo and lorem", param="model", code="model_not_found", status=404)
    return name


def _messages(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise DemoRefusal("expected a list of at least one message", param="messages")
    return messages


def _last_user_text(request: Mapping[str, Any]) -> str:
    for message in reversed(_messages(request)):
        if message.get("role") == "user":
            return "".join(_texts(message.get("content")))
    return "demo"


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            yield part["text"]


def _count_content(content: object) -> int:
    others = (
        sum(1 for part in content if not (isinstance(part, dict) and "text" in part))
        if isinstance(content, list)
        else 0
    )
    return others + sum(count_tokens(text) for text in _texts(content))


def _count_json(value: object) -> int:
    return count_tokens(msgspec.json.encode(value).decode()) if value else 0


def _forced_tool(request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The function that `tool_choice` forces: the one it names, or the first one under `required`."""
    choice = request.get("tool_choice")
    tools = request.get("tools") or []
    if not isinstance(tools, list):
        raise DemoRefusal("expected a list", param="tools")
    functions: dict[str, dict[str, Any]] = {}
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            functions[function["name"]] = function
    if choice == "required" and functions:
        return next(iter(functions.values()))
    named = choice.get("function") if isinstance(choice, dict) else None
    if not isinstance(named, dict):
        return None
    if named.get("name") in functions:
        return functions[named["name"]]
    raise DemoRefusal("names a function that is not among the tools", param="tool_choice")


def _schema(request: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The JSON schema that the answer must fit, None when plain text is wanted."""
    wanted = request.get("response_format")
    if not isinstance(wanted, dict) or wanted.get("type") in (None, "text"):
        return None
    if wanted["type"] == "json_object":
        return {"type": "object", "properties": {"demo": {"const": True}}, "required": ["demo"]}
    described = wanted.get("json_schema")
    schema = described.get("schema") if isinstance(described, dict) else None
    if wanted["type"] != "json_schema" or not isinstance(schema, dict):
        raise DemoRefusal("expected text, json_object or json_schema with a schema", param="response_format")
    return schema


def _limit(request: Mapping[str, Any]) -> int | None:
    for field in ("max_completion_tokens", "max_tokens"):
        limit = request.get(field)
        if limit is None:
            continue
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise DemoRefusal("expected an integer of at least 1", param=field)
        return limit
    return None


def _include_usage(request: Mapping[str, Any]) -> bool:
    options = request.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _error(endpoint: Endpoint, refusal: DemoRefusal) -> dict[str, Any]:
    kind = "not_found_error" if refusal.status == 404 else "invalid_request_error"
    if endpoint is Endpoint.COUNT_TOKENS:
        return {"type": "error", "error": {"type": kind, "message": str(refusal)}}
    error = {"message": str(refusal), "type": "invalid_request_error", "param": refusal.param, "code": refusal.code}
    return {"error": error}


def _json(status: int, answer: dict[str, Any]) -> DemoAnswer:
    return DemoAnswer(status, _headers(b"application/json"), iter([msgspec.json.encode(answer)]))


def _headers(content_type: bytes) -> Headers:
    return [(b"content-type", content_type), (b"x-securellm-demo", b"true")]
