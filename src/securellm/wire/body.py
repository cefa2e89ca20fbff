"""A request's body read without being rebuilt: where its few interesting fields are, and edits by splicing. Pure.

`msgspec` cuts the top-level object into (key, raw value) without making Python objects of the values; it is strict
about everything but UTF-8, which is checked on its own. Of a repeated key it keeps the last value at the first place,
so the pairs are then walked along the body: where the key or the exact bytes of the value differ from what is there,
a key was repeated. JSON values delimit themselves, so a walk that reaches the closing brace proves that there is none,
and gives the place of every value. Rejected: `json.loads` and re-encoding, which costs more and loses the caller's
bytes (prompt caches, signatures). All that is the long way: the compiled twin checks, cuts and counts in one pass
(`survey` in `_fast/members_py.py`), and only what is doubtful to it is decoded.
"""

import codecs
from collections.abc import Mapping, Set
from types import ModuleType

import msgspec

from securellm._fast import members
from securellm._fast.members_py import Survey
from securellm.chat import Endpoint, Headers
from securellm.errors import BadRequest, DestinationField, DuplicateKey
from securellm.wire import reading
from securellm.wire.weight import KINDS, Weight, turns_at, weigh

Span = tuple[int, int]  # first byte, byte after the last

# Where other gateways let a caller say where the request goes or with whose credentials. None of these is a field of a
# provider's API at the top level of a body; deeper in they are data (a tool may well have an `api_key` parameter).
DESTINATION_FIELDS = frozenset(
    {
        "api_base",
        "api_key",
        "api_type",
        "api_version",
        "aws_access_key_id",
        "aws_bedrock_runtime_endpoint",
        "aws_region_name",
        "aws_role_name",
        "aws_secret_access_key",
        "aws_session_token",
        "azure_ad_token",
        "azure_deployment",
        "azure_endpoint",
        "base_url",
        "custom_host",
        "custom_llm_provider",
        "default_headers",
        "endpoint_url",
        "extra_headers",
        "headers",
        "http_client",
        "http_proxy",
        "https_proxy",
        "openai_api_base",
        "openai_api_key",
        "proxies",
        "proxy",
        "vertex_credentials",
        "vertex_location",
        "vertex_project",
    }
)
# The headers by which the same gateways take a destination; compared after any vendor prefix.
DESTINATION_HEADERS = (b"api-base", b"base-url", b"custom-host", b"azure-endpoint", b"target-url", b"upstream-url")
_DESTINATION_ENDS = frozenset(name[-3:] for name in DESTINATION_HEADERS)  # what nearly no other header ends in

# Nearly all fields that ever come; they are no destinations, and need not be spelled out to be told apart from them.
_USUAL_FIELDS = frozenset(
    {
        "frequency_penalty",
        "input",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "model",
        "n",
        "presence_penalty",
        "response_format",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "system",
        "temperature",
        "tool_choice",
        "tools",
        "top_p",
        "user",
    }
)

_MAX_OUTPUT_FIELDS = {
    Endpoint.CHAT: ("max_completion_tokens", "max_tokens"),
    Endpoint.COMPLETIONS: ("max_tokens",),
    Endpoint.RESPONSES: ("max_output_tokens",),
    Endpoint.MESSAGES: ("max_tokens",),
    Endpoint.EMBEDDINGS: (),
    Endpoint.COUNT_TOKENS: (),
}
_STREAMING = frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.RESPONSES, Endpoint.MESSAGES})
_WITH_STREAM_OPTIONS = frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS})
_COUNT_TOKENS = Endpoint.COUNT_TOKENS  # an enum's members are slow to look up

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_MAX_MEMBERS = 1024  # of one object that is walked; the walk is python, and no API has a tenth of that
_SHOWN_CHARACTERS = 64  # of a key, in a message
_UTF8_STEP_BYTES = 64 * 1024  # decoding in pieces keeps a large body from being copied whole
_NOT_COPIED_BYTES = 16 * 1024  # behind the last edit; below, a copy costs less than a second piece
_INCLUDE_USAGE = b'"include_usage":true'
_BOM = b"\xef\xbb\xbf"


class Peeked(msgspec.Struct, frozen=True):
    """What the gateway needs to know of a body, and where in its bytes."""

    model: str
    stream: bool
    include_usage: bool | None  # `stream_options.include_usage`; None when absent or null
    max_output_tokens: int | None  # the largest of the fields that bound the output at this endpoint
    n: int  # answers asked for (`n`, or `best_of` where larger); 1 when absent
    model_span: Span
    first_member: int  # just after the opening brace
    stream_options_span: Span | None = None  # the value, whatever it is
    stream_options_empty: bool = True  # null or {}
    include_usage_span: Span | None = None  # the value inside `stream_options`
    weight: Weight | None = None  # where the same look has told it; else `weigh` tells it


def peek(endpoint: Endpoint, body: bytes, twin: ModuleType = members) -> Peeked:
    """Read a request's body. Raises BadRequest, DuplicateKey or DestinationField; never repeats the body's text.

    `twin` is who surveys it, `_fast.members` but in a comparison.
    """
    surveyed: Survey | None = twin.survey(body, turns_at(endpoint), KINDS)
    if surveyed is not None:
        spans, first_member = surveyed.spans, surveyed.first_member
        _check_destinations(spans)
    else:
        decoded = _read_members(body)
        _check_destinations(decoded)
        spans, first_member = _locate(body, decoded, "")
    model_span = spans.get("model")
    model = _decode(body[slice(*model_span)], "model") if model_span is not None else None
    if not isinstance(model, str) or not model or model_span is None:
        got = "an empty string" if model == "" else "nothing" if model_span is None else "something else"
        raise BadRequest(f"model: got {got}, expected the name of a model", param="model")
    if endpoint is _COUNT_TOKENS:
        _check_countable(body, spans.get("messages"))
    include_usage: bool | None = None
    options_span, options_empty, usage_span = spans.get("stream_options"), True, None
    if options_span is not None and endpoint in _WITH_STREAM_OPTIONS:
        include_usage, options_empty, usage_span = _peek_options(body, options_span)
    stream = False
    if "stream" in spans and endpoint in _STREAMING:
        stream = bool(reading.maybe_boolean(_decode(body[slice(*spans["stream"])], "stream"), "stream"))
    max_output_tokens = _largest(body, spans, _MAX_OUTPUT_FIELDS[endpoint])
    n = 1
    if ("n" in spans or "best_of" in spans) and endpoint in _WITH_STREAM_OPTIONS:
        n = max(_largest(body, spans, ("n", "best_of")) or 1, 1)
    return Peeked(
        model,
        stream,
        include_usage,
        max_output_tokens,
        n,
        model_span,
        first_member,
        options_span,
        options_empty,
        usage_span,
        weigh(endpoint, body, surveyed) if surveyed is not None else None,
    )


def names_of(body: bytes) -> Set[str]:
    """The names of the members of a body that `peek` has checked."""
    return _MEMBERS.decode(body).keys()


class Edited(msgspec.Struct, frozen=True):
    """A large body with something else in it, as pieces of which the largest is not copied."""

    beginning: bytes  # up to the end of the last edit
    original: bytes
    goes_on: int  # the place in the original that comes next

    def __len__(self) -> int:
        return len(self.beginning) + len(self.original) - self.goes_on

    def whole(self) -> bytes:
        """As one."""
        return self.beginning + memoryview(self.original)[self.goes_on :]


def splice(body: bytes, peeked: Peeked, *, model: str | None = None, include_usage: bool = False) -> bytes:
    """`body` with another model and `stream_options.include_usage` true; the same object when nothing changes."""
    edited = edit(body, peeked, model=model, include_usage=include_usage)
    return edited.whole() if isinstance(edited, Edited) else edited


def edit(body: bytes, peeked: Peeked, *, model: str | None = None, include_usage: bool = False) -> bytes | Edited:
    """As `splice`, in pieces where it saves a large copy."""
    include_usage = include_usage and not peeked.include_usage
    if not include_usage and (model is None or model == peeked.model):
        return body
    view = memoryview(body)  # so that a large body is copied once at most
    if not include_usage and model is not None:
        start, at = peeked.model_span
        pieces: list[bytes | memoryview] = [view[:start], msgspec.json.encode(model)]
    else:
        edits = [_usage_edit(peeked)]
        if model is not None and model != peeked.model:
            edits.append((peeked.model_span, msgspec.json.encode(model)))
        pieces = []
        at = 0
        for (start, end), replacement in sorted(edits):
            pieces += (view[at:start], replacement)
            at = end
    if len(body) - at >= _NOT_COPIED_BYTES:
        return Edited(b"".join(pieces), body, at)
    return b"".join((*pieces, view[at:]))


def names_destination(name: bytes) -> bool:
    """Whether a header is one by which a caller would say where the request goes."""
    return name[-3:].lower() in _DESTINATION_ENDS and name.lower().replace(b"_", b"-").endswith(DESTINATION_HEADERS)


def check_headers(headers: Headers) -> None:
    """Refuse a head that names a destination, as `peek` does for bodies. Raises DestinationField."""
    for name, _ in headers:
        if names_destination(name):
            shown = name.decode("latin-1")
            raise DestinationField(
                f"{shown}: where a request goes is the operator's choice, got it in a header", param=shown
            )


def _check_destinations(names: Mapping[str, object]) -> None:
    if names.keys() <= _USUAL_FIELDS:
        return
    for name in names:
        if name not in _USUAL_FIELDS and name.lower().replace("-", "_") in DESTINATION_FIELDS:
            raise DestinationField(
                f"{name}: where a request goes is the operator's choice, got it in the body", param=name
            )


def _check_countable(body: bytes, messages: Span | None) -> None:
    """An estimate of what is no conversation would say nothing, and where no provider counts nobody else refuses it."""
    if messages is None or not body.startswith(b"[", messages[0]):
        raise BadRequest("messages: expected an array", param="messages")
    if not _ELEMENTS.decode(memoryview(body)[slice(*messages)]):
        raise BadRequest("messages: got an empty array, expected at least one message", param="messages")


def _read_members(body: bytes) -> dict[str, msgspec.Raw]:
    if body.startswith(_BOM):
        raise BadRequest("the body begins with a byte order mark, expected json in plain utf-8")
    _check_utf8(body)
    try:
        members = _MEMBERS.decode(body)
    except RecursionError as exc:
        raise BadRequest("the body is nested too deeply") from exc
    except msgspec.ValidationError as exc:
        raise BadRequest("the body is json of another kind, expected an object") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise BadRequest(f"the body is not valid json: {str(exc).lower()}") from exc
    if len(members) > _MAX_MEMBERS:
        raise BadRequest(f"the body has {len(members)} fields at the top level, expected at most {_MAX_MEMBERS}")
    return members


def _check_utf8(body: bytes) -> None:
    if body.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(body), _UTF8_STEP_BYTES):
            decoder.decode(body[start : start + _UTF8_STEP_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as exc:
        raise BadRequest("the body is not valid utf-8") from exc


def _locate(body: bytes, decoded: dict[str, msgspec.Raw], parent: str, start: int = 0) -> tuple[dict[str, Span], int]:
    """The span of every value of the object at `start`, and the place after its brace. Raises DuplicateKey."""
    spans, first_member, repeated = members.locate(body, decoded, start)
    if repeated is not None:
        shown = f"{parent}{repeated}"[:_SHOWN_CHARACTERS]
        raise DuplicateKey(f"{shown}: got twice, expected once", param=shown)
    return spans, first_member


def _peek_options(body: bytes, span: Span) -> tuple[bool | None, bool, Span | None]:
    """What `stream_options` says about usage, whether it is empty, and where it says so."""
    raw = body[slice(*span)]
    if not raw.startswith(b"{"):
        reading.maybe_mapping(_decode(raw, "stream_options"), "stream_options")
        return None, True, None
    options = _MEMBERS.decode(raw)
    if len(options) > _MAX_MEMBERS:
        raise BadRequest(f"stream_options: got {len(options)} fields", param="stream_options")
    name = "stream_options.include_usage"
    include_usage = reading.maybe_boolean(_decode(options.get("include_usage"), name), name)
    spans, _ = _locate(body, options, "stream_options.", span[0])
    return include_usage, not options, spans.get("include_usage")


def _usage_edit(peeked: Peeked) -> tuple[Span, bytes]:
    if peeked.stream_options_span is None:
        at = peeked.first_member
        return (at, at), b'"stream_options":{' + _INCLUDE_USAGE + b"},"
    if peeked.stream_options_empty:
        return peeked.stream_options_span, b"{" + _INCLUDE_USAGE + b"}"
    if peeked.include_usage_span is not None:
        return peeked.include_usage_span, b"true"
    at = peeked.stream_options_span[0] + 1
    return (at, at), _INCLUDE_USAGE + b","


def _decode(raw: msgspec.Raw | bytes | None, param: str) -> object:
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as exc:  # 1e999, or deeper than the outer walk went
        raise BadRequest(f"{param}: got a value that cannot be read", param=param) from exc


def _largest(body: bytes, spans: Mapping[str, Span], names: tuple[str, ...]) -> int | None:
    """The largest of some whole numbers; a bound that is not one is refused, as it decides what is reserved."""
    found: int | None = None
    for name in names:
        if name not in spans:
            continue
        number = reading.maybe_integer(_decode(body[slice(*spans[name])], name), name)
        if number is None:
            continue
        if number < 0:
            raise BadRequest(f"{name}: got a negative number, expected 0 or more", param=name)
        found = number if found is None else max(found, number)
    return found
