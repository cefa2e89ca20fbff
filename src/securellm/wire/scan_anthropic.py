"""Messages and count_tokens relayed as they are. Pure.

A stream ends in `message_stop`; an error is the event `error`. Usage opens in `message_start` and is cumulative in
every `message_delta` (docs.anthropic.com, streaming, 2026-11), so its fields replace one another.
"""

from typing import Any

import msgspec

from securellm.chat import Dialect
from securellm.wire.envelope import parse_in_band_error
from securellm.wire.finish import finish_reason
from securellm.wire.scan import UNREADABLE, ScanningRelay, objects, text_bytes, word
from securellm.wire.sse import SSEEvent
from securellm.wire.usage import merge_reported, usage_from_anthropic


class _Event(msgspec.Struct):
    """What is read of an event."""

    type: Any = None
    message: Any = None
    content_block: Any = None
    delta: Any = None
    usage: Any = None
    error: Any = None


class _Message(msgspec.Struct):
    """What is read of a whole body."""

    type: Any = None
    id: Any = None
    model: Any = None
    content: Any = None
    stop_reason: Any = None
    usage: Any = None
    error: Any = None


_EVENTS = msgspec.json.Decoder(_Event)
_MESSAGES = msgspec.json.Decoder(_Message)
_TEXT_DELTAS = {"text_delta": "text", "input_json_delta": "partial_json", "thinking_delta": "thinking"}
_TEXT_BLOCKS = {"text": "text", "thinking": "thinking"}


class AnthropicScan(ScanningRelay):
    """Anthropic's dialect on both sides."""

    dialect = Dialect.ANTHROPIC
    _reported: dict[str, object] | None = None

    def _see(self, event: SSEEvent) -> tuple[bool, bool]:
        try:
            said = _EVENTS.decode(event.data or b"")
        except UNREADABLE:
            return False, False
        match said.type:
            case "content_block_delta":
                return False, self._see_delta(said.delta)
            case "content_block_start":
                return False, self._see_block(said.content_block)
            case "message_start":
                message = said.message if isinstance(said.message, dict) else {}
                self._learn(message.get("id"), message.get("model"), message.get("usage"))
                return False, False
            case "message_delta":
                self._learn(None, None, said.usage)
                return False, self._finish(said.delta.get("stop_reason") if isinstance(said.delta, dict) else None)
            case "message_stop":
                self.terminal = True
            case "error":
                self.failure = self.failure or parse_in_band_error({"error": said.error})
                return False, False
        return False, said.type not in ("ping", "content_block_stop")

    def _is_last(self, event: SSEEvent) -> bool:
        try:
            return _EVENTS.decode(event.data or b"").type in ("message_stop", "error")
        except UNREADABLE:
            return False

    def _see_whole(self, body: bytes) -> None:
        answer = _MESSAGES.decode(body)
        if answer.type == "error":
            self.failure = parse_in_band_error({"error": answer.error})
            return
        self._learn(answer.id, answer.model, answer.usage)
        for block in objects(answer.content):
            self.meter.output_bytes += text_bytes(block)
            if "input" in block:
                self.meter.output_bytes += text_bytes(block.get("name")) + len(msgspec.json.encode(block["input"]))
        self._finish(answer.stop_reason)

    def _see_delta(self, delta: object) -> bool:
        if not isinstance(delta, dict):
            return False
        field = _TEXT_DELTAS.get(str(delta.get("type")))
        if field is None:
            return True  # signature_delta, citations_delta and whatever comes next
        size = text_bytes(delta.get(field))
        self.meter.output_bytes += size
        return size > 0

    def _see_block(self, block: object) -> bool:
        if not isinstance(block, dict):
            return False
        field = _TEXT_BLOCKS.get(str(block.get("type")))
        if field is None:
            self.meter.output_bytes += text_bytes(block.get("name"))
            return True  # a tool call, a result, redacted thinking
        size = text_bytes(block.get(field))
        self.meter.output_bytes += size
        return size > 0

    def _finish(self, stop_reason: object) -> bool:
        native = word(stop_reason)
        if native is None:
            return False
        self.meter.native_finish = native
        self.meter.finish_reason = finish_reason(Dialect.ANTHROPIC, native)
        return True

    def _learn(self, message_id: object, model: object, usage: object) -> None:
        meter = self.meter
        meter.upstream_id = meter.upstream_id or word(message_id)
        meter.upstream_model = meter.upstream_model or word(model)
        if isinstance(usage, dict):
            self._reported = merge_reported(self._reported, usage)
            meter.usage = usage_from_anthropic(self._reported)
