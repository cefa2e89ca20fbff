"""What of a body a provider may charge as input: bytes that are text, images, and what only the window bounds. Pure.

A token is at least one byte, so the bytes of a body bound its tokens, but for three things. An image is charged by its
size in pixels, whatever its bytes; it is counted, and the bytes of one that is in the body are left out. A file, audio
or an earlier answer that the body only names may be larger than the body; for these `windowed` is set, and the model's
context window is the bound. Instructions that a provider adds for tools are `ADDED_TOKENS`.

Only what is known to be text, or an image where images stand, is taken as such: an unknown part is `windowed`, and
text that merely looks like an image (in a tool's schema or arguments) stays text. The body is cut, its texts are not
decoded; and not even cut where a survey of it (`_fast/members_py.py`) has counted all this already.
"""

from collections.abc import Mapping

import msgspec

from securellm._fast.members_py import IMAGE, TEXT, Survey
from securellm.chat import Endpoint

ADDED_TOKENS = 100  # words that a provider puts around any conversation
TOOLS_ADDED_TOKENS = 700  # instructions added when there are tools (Anthropic: at most 530, docs of 2026-11)
DEFINED_TOOL_ADDED_TOKENS = 800  # a tool that the provider defines and the caller runs (Anthropic: at most 735)

_IMAGES = frozenset({"image", "image_url", "input_image"})
_TEXTS = frozenset(
    {
        "text", "input_text", "output_text", "refusal", "message", "thinking", "redacted_thinking", "reasoning",
        "tool_use", "tool_result", "server_tool_use", "search_result", "web_search_tool_result", "function_call",
        "function_call_output", "custom_tool_call", "custom_tool_call_output", "summary_text", "reasoning_text", "",
    }
)  # fmt: skip
_CALLERS_TOOLS = frozenset({"", "function", "custom"})
_DEFINED_TOOLS = ("bash_", "text_editor_", "computer_", "memory_")
_NOT_THERE = (b"", b"null", b"false", b"[]", b"{}")
# Top-level fields that bring in what the body does not hold.
_REFERENCES = ("previous_response_id", "conversation", "container", "mcp_servers", "web_search_options", "plugins")
_NONE = msgspec.Raw(b"")

KINDS = dict.fromkeys(_TEXTS, TEXT) | dict.fromkeys(_IMAGES, IMAGE)
_WITH_TURNS = frozenset({"messages", "input", "system"})  # members that hold turns
_EMBEDDINGS = Endpoint.EMBEDDINGS  # an enum's members are slow to look up
_WITHOUT_TURNS: frozenset[str] = frozenset()
# Members that say more of what is charged than their bytes.
_WEIGHTY = frozenset({"tools", "functions", "prompt", "audio", "modalities", "prediction", *_REFERENCES})


_Value = msgspec.Raw | memoryview  # the bytes of one value


class Weight(msgspec.Struct, frozen=True):
    """What a body may be charged for, without prices."""

    input_tokens: int  # at most, of text, images left out
    images: int = 0
    windowed: bool = False  # holds or names what only the context window bounds; may be audio, too
    audio_output: bool = False  # spoken answers are asked for
    answers: int = 1  # how many prompts are answered, each up to the bound on the output
    predicted_tokens: int = 0  # output that may be charged beside the answer (predicted outputs that were rejected)


class _Turn(msgspec.Struct):
    """A message, an item or a part: whatever may hold parts."""

    type: str = ""
    content: msgspec.Raw = _NONE
    output: msgspec.Raw = _NONE
    source: msgspec.Raw = _NONE
    image_url: msgspec.Raw = _NONE


class _Source(msgspec.Struct):
    type: str = ""
    data: msgspec.Raw = _NONE


class _Url(msgspec.Struct):
    url: msgspec.Raw = _NONE


class _Tool(msgspec.Struct):
    type: str = ""


_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TURNS = msgspec.json.Decoder(list[_Turn])
_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_SOURCE = msgspec.json.Decoder(_Source)
_URL = msgspec.json.Decoder(_Url)
_TOOLS = msgspec.json.Decoder(list[_Tool])
_WORDS = msgspec.json.Decoder(list[str])


def turns_at(endpoint: Endpoint) -> frozenset[str]:
    """The members that hold turns at a door."""
    return _WITH_TURNS if endpoint is not _EMBEDDINGS else _WITHOUT_TURNS


def weigh(endpoint: Endpoint, body: bytes, surveyed: Survey | None = None) -> Weight:
    """The weight of a body that `peek` has checked. What cannot be read is `windowed`: no provider will take it."""
    if surveyed is not None and _WEIGHTY.isdisjoint(surveyed.spans):
        return Weight(len(body) - surveyed.image_bytes + ADDED_TOKENS, surveyed.images, surveyed.windowed)
    added = ADDED_TOKENS
    tally = _Tally()
    try:
        members: dict[str, _Value]
        if surveyed is not None:
            tally.images, tally.image_bytes, tally.windowed = surveyed.images, surveyed.image_bytes, surveyed.windowed
            spans, view = surveyed.spans, memoryview(body)
            members = {name: view[slice(*spans[name])] for name in _WEIGHTY if name in spans}
            tool_types = surveyed.tool_types
        else:
            members = dict(_MEMBERS.decode(body))
            for name in turns_at(endpoint):
                if _head(members.get(name)) == b"[":
                    tally.count(members[name])
            tool_types = None
        added += _added_by_tools(members, tool_types, tally)
        tally.windowed = tally.windowed or any(_is_there(members, name) for name in _REFERENCES)
        if endpoint is Endpoint.RESPONSES and _is_there(members, "prompt"):
            tally.windowed = True
        return Weight(
            input_tokens=len(body) - tally.image_bytes + added,
            images=tally.images,
            windowed=tally.windowed,
            audio_output=_is_there(members, "audio") or "audio" in _words(members, "modalities"),
            answers=_prompts(members) if endpoint is Endpoint.COMPLETIONS else 1,
            predicted_tokens=len(members.get("prediction", _NONE)),
        )
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Weight(input_tokens=len(body) + added, windowed=True)


class _Tally:
    """What was found in the turns of a body."""

    def __init__(self) -> None:
        self.images = 0
        self.image_bytes = 0
        self.windowed = False

    def count(self, raw: _Value) -> None:
        """Take an array of turns or parts."""
        for turn in _TURNS.decode(raw):
            if turn.type in _IMAGES:
                self.images += 1
                self.image_bytes += _image_bytes(turn)
            elif turn.type not in _TEXTS:
                self.windowed = True
            for held in (turn.content, turn.output):
                if _head(held) == b"[":
                    self.count(held)


def _image_bytes(part: _Turn) -> int:
    """The bytes of an image that the part itself holds; 0 for one that it names."""
    for raw in (part.source, part.image_url):
        if _head(raw) == b"{":
            source = _SOURCE.decode(raw)
            if source.type == "base64":
                return len(source.data)
            url = _URL.decode(raw).url
            return len(url) if _head(url, 6) == b'"data:' else 0
        if _head(raw, 6) == b'"data:':
            return len(raw)
    return 0


def _added_by_tools(members: Mapping[str, _Value], types: list[str] | None, tally: _Tally) -> int:
    if not (_is_there(members, "tools") or _is_there(members, "functions")):
        return 0
    added = TOOLS_ADDED_TOKENS
    if _is_there(members, "tools"):
        for of_type in types if types is not None else [tool.type for tool in _TOOLS.decode(members["tools"])]:
            if of_type.startswith(_DEFINED_TOOLS):
                added += DEFINED_TOOL_ADDED_TOKENS
            elif of_type not in _CALLERS_TOOLS:
                tally.windowed = True  # it runs at the provider, and what it finds is charged as input
    return added


def _prompts(members: Mapping[str, _Value]) -> int:
    """Prompts of a completion: an array of texts or of arrays has one for each element, one of numbers is one."""
    raw = members.get("prompt", _NONE)
    if _head(raw) != b"[":
        return 1
    elements = _ELEMENTS.decode(raw)
    return max(sum(1 for element in elements if _head(element) in (b'"', b"[")), 1)


def _words(members: Mapping[str, _Value], name: str) -> list[str]:
    return _WORDS.decode(members[name]) if _is_there(members, name) else []


def _is_there(members: Mapping[str, _Value], name: str) -> bool:
    raw = members.get(name)
    return raw is not None and (len(raw) > 5 or bytes(raw) not in _NOT_THERE)


def _head(raw: _Value | None, size_bytes: int = 1) -> bytes:
    """The first bytes of a value, without a copy of the rest."""
    return b"" if raw is None else bytes(memoryview(raw)[:size_bytes])
