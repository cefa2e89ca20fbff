"""The relay where caller and provider speak one dialect: the bytes pass as they are, and are read on the way. Pure.

What all dialects share. A scanner (`_fast/sse_py.py`) cuts the stream into events; a dialect looks at each
(`scan_openai`, `scan_anthropic`, `scan_responses`) and fills the meter. The compiled scanner counts by itself what only
says more text, and a whole answer that is plain is read without being decoded (`_fast/answers_py.py`), with the same
result. Nothing is re-encoded. The one edit is the removal of a usage-only chunk that we asked for and the caller did
not.

- *Semantic* is an event that carries text, reasoning, a tool call or a finish, and the terminal event. Pings, comments,
  openings without content (`message_start`, a delta with nothing but a role) and errors are not: they neither commit
  the 200 nor reset the idle timer. An event of an unknown type counts as semantic, because cutting a good stream for
  being idle is the worse mistake.
- *Held* is the terminal or error event and every byte after it.
- An event is passed on when it is complete. What is left unfinished at the end of a stream is never passed on, so that
  an error event can follow cleanly, except a terminal event that lacks nothing but its blank line.
"""

import abc
from collections.abc import Callable
from typing import ClassVar

import msgspec

from securellm._fast import answers, sse
from securellm._fast.answers_py import Said
from securellm._fast.sse_py import HOLDING, IDENTIFIED, REMOVED, SEMANTIC, TERMINAL
from securellm.chat import Dialect, Meter, Relayed
from securellm.errors import ProviderError, SecureLLMError, UpstreamInvalid, UpstreamTruncated
from securellm.wire.envelope import encode_error_event
from securellm.wire.finish import finish_reason
from securellm.wire.sse import SSEEvent, parse_event

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # what msgspec raises for bad JSON


class ScanningRelay(abc.ABC):
    """A `chat.Relay` whose output is its input; a subclass says what the events of its dialect mean."""

    dialect: ClassVar[Dialect]
    _dialect_name: ClassVar[str]  # an enum's value is slow to look up

    def __init_subclass__(cls) -> None:
        cls._dialect_name = cls.dialect.value

    def __init__(
        self,
        *,
        hide_usage: bool,
        request_id: str,
        model: str,
        created_s: int,
        scanner: type[sse.StreamScanner] = sse.StreamScanner,
        read: Callable[[str, bytes], Said | None] = answers.read,
    ) -> None:
        self.meter = Meter()
        self.terminal = False
        self.failure: ProviderError | None = None
        self.scanner = scanner(self._dialect_name)
        self._read = read
        self._hide_usage = hide_usage
        self._request_id = request_id
        self._model = model
        self._created_s = created_s

    def __repr__(self) -> str:
        return f"<{type(self).__name__} terminal={self.terminal} failure={self.failure!r} {self.scanner!r}>"

    def feed(self, data: bytes) -> Relayed:
        """Take the next bytes of a stream, cut anywhere. Raises UpstreamInvalid."""
        return self.scanner.feed(self, data)

    def end(self) -> Relayed:
        """The provider's stream is over. Raises UpstreamTruncated when no terminal or error event has passed."""
        if self._holding():
            return Relayed()
        tail = self.scanner.tail()
        last = parse_event(tail)
        if last.data is not None and self._is_last(last):
            self.see(last)
            return Relayed(held=tail, semantic=self.terminal)
        raise UpstreamTruncated("the provider's stream ended before its terminal event")

    def fail(self, error: SecureLLMError) -> bytes:
        """The error event that ends the caller's stream after the commit point."""
        return encode_error_event(self.dialect, error, self._request_id)

    def whole(self, body: bytes) -> bytes:
        """The body unchanged, once it is known to be a JSON object. Nothing else is fed. Raises UpstreamInvalid."""
        said = self._read(self._dialect_name, body)
        if said is None:
            try:
                self._see_whole(body)
            except UNREADABLE as exc:
                raise UpstreamInvalid("the provider answered with a body that is not a json object") from exc
            return body
        meter = self.meter
        meter.upstream_id, meter.upstream_model, meter.usage, meter.output_bytes, finish, native_finish = said
        if finish is not None:
            meter.finish_reason, meter.native_finish = finish_reason(self.dialect, finish), native_finish
        return body

    def refused(self, status: int, body: bytes) -> bytes:
        """The provider's error body, unchanged."""
        return body

    def see(self, event: SSEEvent) -> int:
        """Learn from one event with data; what it is, in the scanner's flags."""
        removed, semantic = self._see(event)
        flags = REMOVED if removed else 0
        if semantic and self.failure is None:
            self.meter.semantic_events += 1
            flags |= SEMANTIC
        if self.terminal:
            flags |= TERMINAL | HOLDING
        elif self.failure is not None:
            flags |= HOLDING
        if self.meter.upstream_id is not None and self.meter.upstream_model is not None:
            flags |= IDENTIFIED
        return flags

    def count(self, semantic_events: int, output_bytes: int, sequence_number: int) -> None:
        """Learn from events that only said more text, and that the scanner read by itself."""
        self.meter.semantic_events += semantic_events
        self.meter.output_bytes += output_bytes

    def _holding(self) -> bool:
        return self.terminal or self.failure is not None

    @abc.abstractmethod
    def _see(self, event: SSEEvent) -> tuple[bool, bool]:
        """Fill the meter, `terminal` and `failure` from an event with data; whether to remove it, whether semantic."""

    @abc.abstractmethod
    def _is_last(self, event: SSEEvent) -> bool:
        """Whether this is a complete terminal or error event."""

    @abc.abstractmethod
    def _see_whole(self, body: bytes) -> None:
        """Fill the meter from a whole body, and `failure` when it is an error in spite of its status."""


def text_bytes(value: object) -> int:
    """The UTF-8 length of a text, or of the texts in a list of content parts."""
    if value is None:
        return 0
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode())
    if isinstance(value, list):
        return sum(map(text_bytes, value))
    if isinstance(value, dict):
        return sum(text_bytes(value.get(name)) for name in ("text", "thinking", "refusal", "arguments", "transcript"))
    return 0


def objects(value: object) -> list[dict[str, object]]:
    """The JSON objects in an array; nothing for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def word(value: object) -> str | None:
    """A non-empty string, else None."""
    return value if isinstance(value, str) and value else None
