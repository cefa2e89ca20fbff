"""Anthropic's answer, decoded into neutral events. Pure.

Thinking keeps its blocks and seals; a call without arguments has the arguments `{}`. Blocks that Anthropic's servers
make for themselves (server tools and their results) and citations have no words of ours: they cannot have been asked
for through another family's door, and are passed over. The terminal event is `message_stop`; pings are nothing.
"""

from collections.abc import Iterator

import msgspec

from securellm.chat import Dialect
from securellm.errors import UpstreamInvalid
from securellm.wire.envelope import parse_in_band_error
from securellm.wire.finish import finish_reason
from securellm.wire.provider_json import object_of, read_answer, text_of
from securellm.wire.sse import SSESplitter, parse_event
from securellm.wire.usage import merge_reported, usage_from_anthropic
from securellm.wire.words import (
    Ended,
    Event,
    Failed,
    Finished,
    JSONObject,
    RedactedThinking,
    Started,
    TextDelta,
    ThinkingDelta,
    ThinkingEnded,
    ToolArguments,
    ToolStarted,
    UsageReported,
)


class _Block:
    """An open block: its kind, its seal so far, its call."""

    __slots__ = ("arguments_seen", "call", "given", "kind", "signature")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.signature = ""
        self.call = 0
        self.given: object = None  # the arguments, where they came with the block itself
        self.arguments_seen = False


class AnthropicDecoder:
    """The decoder of one answer, a stream or a whole."""

    def __init__(self) -> None:
        self._splitter = SSESplitter()
        self._blocks: dict[object, _Block] = {}
        self._calls = 0
        self._reported: dict[str, object] | None = None

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events of the next bytes, cut anywhere. Raises UpstreamInvalid."""
        for event in self._splitter.feed(data):
            if event.data is not None:
                yield from self._payload(read_answer(event.data))

    def end(self) -> Iterator[Event]:
        """The terminal or error event, where only its blank line is missing."""
        data = parse_event(self._splitter.tail()).data
        if data is None:
            return
        try:
            payload = read_answer(data)
        except UpstreamInvalid:  # cut inside the event: the relay says what that means
            return
        if payload.get("type") in ("message_stop", "error"):
            yield from self._payload(payload)

    def whole(self, body: bytes) -> Iterator[Event]:
        """The events of a complete answer. Raises UpstreamInvalid."""
        message = read_answer(body)
        if message.get("type") == "error":
            yield Failed(parse_in_band_error(message))
            return
        yield from self._start(message)
        content = message.get("content")
        for index, block in enumerate(content if isinstance(content, list) else []):
            if isinstance(block, dict):
                yield from self._open(index, block)
                yield from self._close(index)
        yield from self._finish(message)
        yield Ended()

    def _payload(self, payload: JSONObject) -> Iterator[Event]:
        given = payload.get("index")
        index = given if isinstance(given, int) else None  # anything else could not even be looked up
        match payload.get("type"):
            case "message_start":
                yield from self._start(object_of(payload.get("message")))
            case "content_block_start":
                yield from self._open(index, object_of(payload.get("content_block")))
            case "content_block_delta":
                yield from self._delta(self._blocks.get(index), object_of(payload.get("delta")))
            case "content_block_stop":
                yield from self._close(index)
            case "message_delta":
                yield from self._report(payload.get("usage"))
                yield from self._finish(object_of(payload.get("delta")))
            case "message_stop":
                yield Ended()
            case "error":
                yield Failed(parse_in_band_error(payload))

    def _start(self, message: JSONObject) -> Iterator[Event]:
        yield Started(text_of(message.get("id")) or None, text_of(message.get("model")) or None)
        yield from self._report(message.get("usage"))

    def _report(self, reported: object) -> Iterator[Event]:
        if isinstance(reported, dict):
            self._reported = merge_reported(self._reported, reported)
            yield UsageReported(usage_from_anthropic(self._reported))

    def _open(self, index: object, content: JSONObject) -> Iterator[Event]:
        block = self._blocks[index] = _Block(text_of(content.get("type")))
        match block.kind:
            case "text" if text_of(content.get("text")):
                yield TextDelta(text_of(content["text"]))
            case "thinking":
                block.signature = text_of(content.get("signature"))
                if text_of(content.get("thinking")):
                    yield ThinkingDelta(text_of(content["thinking"]))
            case "redacted_thinking":
                yield RedactedThinking(text_of(content.get("data")))
            case "tool_use":
                block.call, block.given = self._calls, content.get("input")
                self._calls += 1
                yield ToolStarted(block.call, text_of(content.get("id")), text_of(content.get("name")))

    def _delta(self, block: _Block | None, delta: JSONObject) -> Iterator[Event]:
        if block is None:
            return
        match delta.get("type"):
            case "text_delta" if text_of(delta.get("text")):
                yield TextDelta(text_of(delta["text"]))
            case "thinking_delta" if text_of(delta.get("thinking")):
                yield ThinkingDelta(text_of(delta["thinking"]))
            case "signature_delta":
                block.signature = text_of(delta.get("signature"))
            case "input_json_delta" if block.kind == "tool_use" and text_of(delta.get("partial_json")):
                block.arguments_seen = True
                yield ToolArguments(block.call, text_of(delta["partial_json"]))

    def _close(self, index: object) -> Iterator[Event]:
        block = self._blocks.pop(index, None)
        if block is None:
            return
        if block.kind == "thinking":
            yield ThinkingEnded(block.signature)
        elif block.kind == "tool_use" and not block.arguments_seen:
            yield ToolArguments(block.call, msgspec.json.encode(block.given or {}).decode())

    def _finish(self, closing: JSONObject) -> Iterator[Event]:
        native = text_of(closing.get("stop_reason"))
        if native:
            sequence = text_of(closing.get("stop_sequence")) or None
            yield Finished(finish_reason(Dialect.ANTHROPIC, native), native, sequence)
