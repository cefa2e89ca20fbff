"""OpenAI Responses relayed as they are. Pure.

A stream ends in `response.completed`, `response.incomplete` or `response.failed`; the last is an error as well. An
`error` event may come before it or alone. Unknown events pass. Our own `response.failed` goes on with the sequence
numbers, the id, the time and the model that the stream has shown.
"""

from typing import Any

import msgspec

from securellm.chat import Dialect
from securellm.errors import SecureLLMError
from securellm.wire.envelope import encode_error_event, parse_in_band_error
from securellm.wire.finish import finish_reason
from securellm.wire.scan import UNREADABLE, ScanningRelay, objects, text_bytes, word
from securellm.wire.sse import SSEEvent
from securellm.wire.usage import merge_reported, usage_from_responses


class _Event(msgspec.Struct):
    """What is read of an event."""

    type: Any = None
    sequence_number: Any = None
    response: Any = None
    delta: Any = None
    item: Any = None
    part: Any = None
    error: Any = None
    code: Any = None
    message: Any = None
    param: Any = None


_EVENTS = msgspec.json.Decoder(_Event)
_BODIES = msgspec.json.Decoder(dict[str, Any])
_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})
_OPENINGS = frozenset({"response.created", "response.queued", "response.in_progress", "keepalive", "ping"})
_EMPTY_ITEMS = frozenset({"message", "reasoning"})  # output items that say nothing when they are added


class ResponsesScan(ScanningRelay):
    """The Responses dialect on both sides."""

    dialect = Dialect.RESPONSES
    _sequence_number = -1  # the last one seen
    _response_id: str | None = None
    _reported: dict[str, object] | None = None

    def fail(self, error: SecureLLMError) -> bytes:
        """`response.failed`, next in sequence."""
        return encode_error_event(
            self.dialect,
            error,
            self._request_id,
            sequence_number=self._sequence_number + 1,
            response_id=self._response_id,
            created_s=self._created_s,
            model=self._model,
        )

    def count(self, semantic_events: int, output_bytes: int, sequence_number: int) -> None:
        """As in every dialect; the last sequence number is remembered."""
        super().count(semantic_events, output_bytes, sequence_number)
        if sequence_number >= 0:
            self._sequence_number = sequence_number

    def _see(self, event: SSEEvent) -> tuple[bool, bool]:
        try:
            said = _EVENTS.decode(event.data or b"")
        except UNREADABLE:
            return False, False
        if isinstance(said.sequence_number, int):
            self._sequence_number = said.sequence_number
        if isinstance(said.response, dict):
            self._see_response(said.response)
        kind = word(said.type)
        if kind == "error":
            self._fail_by(said.error or {"code": said.code, "message": said.message, "param": said.param})
        if kind in _TERMINAL:
            self.terminal = True
            self._finish(said.response if isinstance(said.response, dict) else {})
            return False, True
        return False, self._is_semantic(said)

    def _is_last(self, event: SSEEvent) -> bool:
        try:
            said = _EVENTS.decode(event.data or b"")
        except UNREADABLE:
            return False
        return word(said.type) in {*_TERMINAL, "error"}

    def _see_whole(self, body: bytes) -> None:
        answer = _BODIES.decode(body)
        self._see_response(answer)
        self._finish(answer)
        for item in objects(answer.get("output")):
            self.meter.output_bytes += text_bytes(item.get("content")) + text_bytes(item.get("summary"))
            self.meter.output_bytes += text_bytes(item.get("name")) + text_bytes(item.get("arguments"))

    def _is_semantic(self, said: _Event) -> bool:
        """Whether an event that is not the last says something; counts what it says."""
        kind = word(said.type)
        if kind is None or kind == "error" or kind in _OPENINGS:
            return False
        if kind == "response.output_item.added":
            item = said.item if isinstance(said.item, dict) else {}
            self.meter.output_bytes += text_bytes(item.get("name"))
            return word(item.get("type")) not in _EMPTY_ITEMS
        if kind.endswith("part.added"):
            return text_bytes(said.part) > 0
        if kind.endswith(".delta"):
            self.meter.output_bytes += text_bytes(said.delta)
            return bool(said.delta)
        return True

    def _see_response(self, response: dict[str, Any]) -> None:
        self._response_id = self._response_id or word(response.get("id"))
        self.meter.upstream_id = self._response_id
        self.meter.upstream_model = word(response.get("model")) or self.meter.upstream_model
        self._model = self.meter.upstream_model or self._model
        if isinstance(response.get("created_at"), int):
            self._created_s = response["created_at"]
        if isinstance(response.get("usage"), dict):
            self._reported = merge_reported(self._reported, response["usage"])
            self.meter.usage = usage_from_responses(self._reported)

    def _finish(self, response: dict[str, Any]) -> None:
        """Why it ended, from the last state of the response."""
        status = word(response.get("status"))
        if status == "failed" or response.get("error") is not None:
            self._fail_by(response.get("error"))
        if status is None:
            return
        self.meter.native_finish = status
        if status == "completed":
            called = any(item.get("type") == "function_call" for item in objects(response.get("output")))
            self.meter.finish_reason = "tool_calls" if called else "stop"
        elif status == "incomplete":
            details = response.get("incomplete_details")
            reason = word(details.get("reason")) if isinstance(details, dict) else None
            self.meter.native_finish = reason or status
            self.meter.finish_reason = finish_reason(Dialect.RESPONSES, reason) if reason is not None else None

    def _fail_by(self, error: object) -> None:
        if self.failure is None:
            self.failure = parse_in_band_error({"error": error})
