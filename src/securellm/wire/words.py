"""What a chat request and its answer mean, whatever dialect they are spoken in. Pure.

A translation is two steps with these words in the middle: a door parses the caller's bytes into a `Request` and a
provider's side encodes it again; a provider's decoder turns the answer into `Event`s and a door's encoder turns these
into the caller's bytes. A whole answer is decoded into the same events, so that it cannot differ from a stream.
"""

import re

import msgspec

from securellm.chat import Usage
from securellm.errors import ProviderAnswered

MAX_DROPPED_NAMES = 40  # more are not listed; a header has its limits
MAX_DROPPED_NAME_CHARACTERS = 64

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")


class Capabilities(msgspec.Struct, frozen=True):
    """What one provider understands beyond, or short of, its dialect; a provider's quirks as data."""

    reasoning_content: bool = True  # OpenAI: assistant messages may carry reasoning_content
    reasoning_details: bool = False  # OpenAI: sealed thinking goes as OpenRouter's reasoning_details
    reasoning_effort: bool = True  # OpenAI: the field reasoning_effort exists
    thinking_switch: bool = False  # OpenAI: `thinking: {"type": "enabled" | "disabled"}` exists (DeepSeek)
    max_completion_tokens: bool = True  # OpenAI: false means the older name, max_tokens
    stream_usage: bool = True  # OpenAI: stream_options.include_usage exists
    json_schema: bool = True  # OpenAI: response_format json_schema exists; false refuses it
    files: bool = True  # OpenAI: `file` parts exist; false refuses documents
    content_parts: bool = True  # OpenAI: content may be an array; false joins texts and refuses pictures
    top_k: bool = False  # OpenAI: top_k exists; false drops it
    parallel_tool_calls: bool = True  # OpenAI: the field exists; false refuses `false`
    adaptive_thinking: bool | None = (
        None  # Anthropic: effort instead of a token budget; None decides by the model's name
    )


JSONObject = dict[str, object]


class Text(msgspec.Struct, frozen=True):
    """Words. `cache` is Anthropic's cache_control, opaque."""

    text: str
    cache: object = None


class Image(msgspec.Struct, frozen=True):
    """A picture: base64 `data` of `media_type`, or a `url`."""

    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    detail: str | None = None  # OpenAI's hint: auto, low, high
    cache: object = None


class Document(msgspec.Struct, frozen=True):
    """A PDF as base64 `data`, or one at a `url`."""

    media_type: str
    data: str | None = None
    url: str | None = None
    title: str | None = None
    cache: object = None


class Thinking(msgspec.Struct, frozen=True):
    """Reasoning that the model showed. `signature` is Anthropic's seal; None where the provider has none."""

    text: str
    signature: str | None = None


class Redacted(msgspec.Struct, frozen=True):
    """Reasoning that the model did not show, sealed by Anthropic."""

    data: str


class ToolUse(msgspec.Struct, frozen=True):
    """A call of a tool by the model. `arguments` is the text of a JSON object."""

    id: str
    name: str
    arguments: str
    cache: object = None


class ToolResult(msgspec.Struct, frozen=True):
    """What a tool answered to the call of that id."""

    id: str
    parts: tuple[Text | Image | Document, ...]
    is_error: bool = False
    cache: object = None


Part = Text | Image | Document | Thinking | Redacted | ToolUse | ToolResult


class Turn(msgspec.Struct, frozen=True):
    """One message. Results of tools belong to the user's turns; system turns keep their place."""

    role: str  # system, user, assistant
    parts: tuple[Part, ...]


class Tool(msgspec.Struct, frozen=True):
    """A function that the model may call. `schema` is JSON Schema; None means no arguments."""

    name: str
    description: str | None = None
    schema: JSONObject | None = None
    strict: bool | None = None
    cache: object = None


class ToolChoice(msgspec.Struct, frozen=True):
    """How free the model is to call tools: auto, none, required, or named (then `name`)."""

    mode: str
    name: str | None = None


class Format(msgspec.Struct, frozen=True):
    """The answer must be JSON; of this `schema`, or any object where it is None."""

    schema: JSONObject | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class Reasoning(msgspec.Struct, frozen=True):
    """How much the model should think: switched on or off, an effort, a budget; None leaves it to the model."""

    enabled: bool | None = None
    effort: str | None = None  # none, minimal, low, medium, high, xhigh, max
    budget_tokens: int | None = None
    adaptive: bool = False  # the caller said "adaptive" in so many words
    display: str | None = None  # Anthropic's: summarized, omitted


class Request(msgspec.Struct, frozen=True):
    """A chat request in neutral words. None means that the caller did not say."""

    turns: tuple[Turn, ...]
    stream: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    format: Format | None = None
    reasoning: Reasoning | None = None


class Dropped:
    """The names of what a translation leaves out because it only advises; in order, each once.

    They end up in a header and may be the caller's own words, so they are cut down to what a header may hold.
    """

    __slots__ = ("_names",)

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, name: str) -> None:
        """Note one field, by its path without indexes (`messages.name`)."""
        if len(self._names) < MAX_DROPPED_NAMES:
            self._names[_NOT_IN_NAMES.sub("?", name[:MAX_DROPPED_NAME_CHARACTERS])] = None

    def add_unknown(self, value: JSONObject, known: frozenset[str], path: str) -> None:
        """Note the fields of an object that nobody reads."""
        for name, given in value.items():
            if given is not None and name not in known:
                self.add(f"{path}.{name}")

    def names(self) -> tuple[str, ...]:
        """All of them, for `x-securellm-dropped`."""
        return tuple(self._names)


class Started(msgspec.Struct, frozen=True):
    """The answer has begun; the provider's own id and model are attributes only."""

    id: str | None = None
    model: str | None = None


class TextDelta(msgspec.Struct, frozen=True):
    """More words of the answer."""

    text: str


class RefusalDelta(msgspec.Struct, frozen=True):
    """More words of a refusal, where the dialect keeps these apart."""

    text: str


class ThinkingDelta(msgspec.Struct, frozen=True):
    """More words of reasoning."""

    text: str


class ThinkingEnded(msgspec.Struct, frozen=True):
    """One block of reasoning is complete; with its seal, where there is one (also with no words at all)."""

    signature: str | None = None


class RedactedThinking(msgspec.Struct, frozen=True):
    """One block of sealed reasoning."""

    data: str


class ToolStarted(msgspec.Struct, frozen=True):
    """A call of a tool; `index` counts the calls of the answer densely from 0."""

    index: int
    id: str
    name: str


class ToolArguments(msgspec.Struct, frozen=True):
    """More of the JSON text of a call's arguments; fragments of several calls may interleave."""

    index: int
    fragment: str


class Finished(msgspec.Struct, frozen=True):
    """Why the model stopped: in OpenAI's words, and in the provider's own."""

    reason: str
    native: str
    stop_sequence: str | None = None


class UsageReported(msgspec.Struct, frozen=True):
    """The tokens so far, all of them; a later report replaces an earlier one."""

    usage: Usage


class ContextTruncated(msgspec.Struct, frozen=True):
    """The provider cut the prompt to its window and said nothing."""


class Failed(msgspec.Struct, frozen=True):
    """The provider ended the answer with an error of its own."""

    error: ProviderAnswered


class Ended(msgspec.Struct, frozen=True):
    """The provider's own terminal event."""


Event = (
    Started
    | TextDelta
    | RefusalDelta
    | ThinkingDelta
    | ThinkingEnded
    | RedactedThinking
    | ToolStarted
    | ToolArguments
    | Finished
    | UsageReported
    | ContextTruncated
    | Failed
    | Ended
)
