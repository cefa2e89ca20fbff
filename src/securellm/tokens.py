"""How many tokens a text or a request has, as far as it can be known here. Pure.

Texts are counted exactly for the models whose vocabulary is public: OpenAI's, by their names. For all others there is
an estimate: four bytes a token is what English text and code come to with the vocabularies in use; other scripts have
more bytes a character and fewer characters a token, which keeps the figure in the right order of magnitude.

What is told to a caller or written to a record says which of the two it is: `counted` or `estimated`. A request is
`counted` when it is nothing but texts in messages. OpenAI does not publish how tools, images and documents become
tokens, so a request that has them is `estimated`, although its texts are counted.
"""

import re
from typing import Literal

import msgspec

from securellm._fast import tokens as twin
from securellm._fast import vocabulary

BYTES_PER_TOKEN = 4

# By the beginning of the name, first match. What is not listed is not known to use either.
_ENCODINGS = (
    ("o200k_base", re.compile(r"(gpt-5|gpt-4\.5|gpt-4\.1|gpt-4o|chatgpt-4o|gpt-oss|o[134])(?![0-9a-z])")),
    ("cl100k_base", re.compile(r"(gpt-4|gpt-3\.5|gpt-35|text-embedding-3|text-embedding-ada-002)(?![0-9a-z.])")),
)
_FINE_TUNED = "ft:"

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_STEP_BYTES = 64 * 1024
_STEPS = 8  # levels; every one reads the body again
_CANNOT_BE_HELD = (msgspec.DecodeError, RecursionError)  # what is JSON, but has a number or a depth beyond us

_loaded: dict[str, twin.TokenCounter] = {}

# What the messages are wrapped in, by OpenAI's cookbook ("How to count tokens with tiktoken").
_TOKENS_A_MESSAGE = 3  # besides its role
_TOKENS_OF_THE_REPLY = 3  # every reply is begun in the prompt


class Counted(msgspec.Struct, frozen=True):
    """The tokens of a request, and how we know."""

    tokens: int
    source: Literal["counted", "estimated"]


def encoding_of(kind: str, model: str) -> str | None:
    """The encoding of a model of a provider of this kind; None where it is not public.

    A name says something only at OpenAI itself: elsewhere whoever runs the server names the models.
    """
    if kind != "openai":
        return None
    for encoding, names in _ENCODINGS:
        if names.match(model.removeprefix(_FINE_TUNED)):
            return encoding
    return None


def count_tokens(text: str, encoding: str) -> int:
    """Tokens of a text in one of `vocabulary.ENCODINGS`; special tokens are text. The first call loads the tables.

    Source: the encodings' `encode_ordinary` in tiktoken, to which it is equal for every text.
    """
    return _counter(encoding).count(text)


def is_loaded(encoding: str) -> bool:
    """Counting in it would not load its tables first, which takes up to 50 ms (the pure twin's some 200)."""
    return encoding in _loaded


def count_request_tokens(body: bytes, encoding: str | None) -> Counted:
    """Input tokens of a body of the Messages API that has been checked; takes time in proportion to its size."""
    if encoding is None:
        return Counted(estimate_request_tokens(body), "estimated")
    try:
        request = _decode(body)
    except _CANNOT_BE_HELD:
        return Counted(estimate_tokens(len(body)), "estimated")
    said = _Said()
    if isinstance(request, dict):
        said.add_request(request)
    tokens = _counter(encoding).count_all(said.texts) + said.framing_tokens
    return Counted(tokens, "counted" if said.only_texts else "estimated")


def estimate_tokens(size_bytes: int) -> int:
    """Tokens in `size_bytes` of UTF-8 text: a quarter, rounded up; 0 only for an empty text."""
    return -(-size_bytes // BYTES_PER_TOKEN)


def estimate_request_tokens(body: bytes) -> int:
    """Tokens that a request's texts may have: its strings, without keys, images and other encoded data.

    `body` is a JSON object that has been checked. Source of the figure for images: none; they count as nothing here,
    because their cost depends on a size in pixels that only the provider works out.
    """
    try:
        request = _decode(body)
    except _CANNOT_BE_HELD:
        return estimate_tokens(len(body))
    return estimate_tokens(sum(len(text.encode("utf-8", "surrogatepass")) for text in _strings(request)))


def _counter(encoding: str) -> twin.TokenCounter:
    counter = _loaded.get(encoding)
    if counter is None:
        tables = vocabulary.read_vocabulary(encoding), vocabulary.read_classes()
        counter = _loaded.setdefault(encoding, twin.TokenCounter(encoding, *tables))
    return counter


class _Said:
    """The texts of a request of the Messages API, as they reach a model behind chat completions."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.framing_tokens = _TOKENS_OF_THE_REPLY
        self.only_texts = True

    def add_request(self, request: dict[str, object]) -> None:
        if system := request.get("system"):
            self._add_message("system", system)
        messages = request.get("messages")
        for message in messages if isinstance(messages, list) else ():
            if isinstance(message, dict):
                self._add_message(message.get("role"), message.get("content"))
        if tools := request.get("tools"):
            self._add_other(tools)

    def _add_message(self, role: object, content: object) -> None:
        self.framing_tokens += _TOKENS_A_MESSAGE
        self.texts.append(role if isinstance(role, str) else "")
        if isinstance(content, str):
            self.texts.append(content)
            return
        for block in content if isinstance(content, list) else ():
            match block:
                case {"type": "text", "text": str(text)}:
                    self.texts.append(text)
                case _:
                    self._add_other(block)

    def _add_other(self, value: object) -> None:
        self.only_texts = False
        self.texts += _strings(value)


def _decode(value: bytes | msgspec.Raw, steps: int = _STEPS) -> object:
    """A JSON value. Large ones level by level, so that other threads get the GIL after 40 ms, not 200, of 20 MB."""
    if steps == 0 or len(memoryview(value)) <= _STEP_BYTES:
        return msgspec.json.decode(value)
    match bytes(memoryview(value)[:16]).lstrip()[:1]:
        case b"{":
            return {key: _decode(member, steps - 1) for key, member in _MEMBERS.decode(value).items()}
        case b"[":
            return [_decode(element, steps - 1) for element in _ELEMENTS.decode(value)]
        case _:
            return msgspec.json.decode(value)


def _strings(root: object) -> list[str]:
    """Every string in a decoded JSON value, without keys, images and other encoded data."""
    found = []
    left = [root]
    while left:
        value = left.pop()
        if isinstance(value, str):
            if not value.startswith("data:"):
                found.append(value)
        elif isinstance(value, list):
            left.extend(value)
        elif isinstance(value, dict):
            encoded = value.get("type") == "base64"
            left.extend(item for key, item in value.items() if not (encoded and key == "data"))
    return found
