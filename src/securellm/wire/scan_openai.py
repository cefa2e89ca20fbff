"""Chat completions, completions and embeddings relayed as they are. Pure.

A stream ends in `data: [DONE]`. An error comes as `data: {"error": …}`, with (`event: error`, Groq) or without an event
name, or inside a chunk that also has choices (OpenRouter). Usage comes in a chunk of its own (`choices: []`), in the
last chunk with choices, in every chunk (Perplexity), or under `x_groq`.

Nearly every chunk has one of a few well-known fields and nothing else, so chunks are first read by a decoder that
knows only these; what it refuses is read by one that takes any shape. Both lead to the same figures.
"""

from typing import Any

import msgspec

from securellm.chat import Dialect
from securellm.wire.envelope import parse_in_band_error
from securellm.wire.finish import finish_reason
from securellm.wire.scan import UNREADABLE, ScanningRelay, objects, text_bytes, word
from securellm.wire.sse import SSEEvent
from securellm.wire.usage import merge_reported, usage_from_openai


class _Chunk(msgspec.Struct):
    """What is read of a chunk or a body; everything else is skipped unread."""

    id: Any = None
    model: Any = None
    choices: Any = None
    usage: Any = None
    error: Any = None
    x_groq: Any = None


class _PlainDelta(msgspec.Struct, forbid_unknown_fields=True):
    """A delta with nothing but text."""

    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: None = None


class _PlainChoice(msgspec.Struct):
    """A choice that has not finished. Its log probabilities and index are not read."""

    delta: _PlainDelta
    finish_reason: None = None
    text: None = None


class _PlainChunk(msgspec.Struct):
    """A chunk that only says more text."""

    id: str
    model: str
    choices: list[_PlainChoice]
    usage: None = None
    error: None = None
    x_groq: None = None


_DECODER = msgspec.json.Decoder(_Chunk)
_PLAIN_DECODER = msgspec.json.Decoder(_PlainChunk)


class OpenAIScan(ScanningRelay):
    """OpenAI's dialect on both sides."""

    dialect = Dialect.OPENAI
    _reported: dict[str, object] | None = None

    def _see(self, event: SSEEvent) -> tuple[bool, bool]:
        data = event.data or b""
        if not event.event:
            try:
                return False, self._see_plain(_PLAIN_DECODER.decode(data))
            except UNREADABLE:
                pass  # anything but plain text, `[DONE]` included
        if data.strip() == b"[DONE]":
            self.terminal = True
            return False, True
        try:
            chunk = _DECODER.decode(data)
        except UNREADABLE:
            return False, False
        if chunk.error is not None or event.event == b"error":
            self._fail_by(chunk, data)
            return False, False
        self._learn(chunk)
        semantic = False
        for choice in objects(chunk.choices):
            semantic |= self._see_choice(choice, choice.get("delta"))
        return self._hide_usage and chunk.choices == [] and chunk.usage is not None, semantic

    def _is_last(self, event: SSEEvent) -> bool:
        data = event.data or b""
        if data.strip() == b"[DONE]":
            return True
        try:
            return _DECODER.decode(data).error is not None
        except UNREADABLE:
            return False

    def _see_whole(self, body: bytes) -> None:
        answer = _DECODER.decode(body)
        if answer.error is not None and not answer.choices:
            self._fail_by(answer, body)
            return
        self._learn(answer)
        for choice in objects(answer.choices):
            self._see_choice(choice, choice.get("message"))

    def _learn(self, chunk: _Chunk) -> None:
        meter = self.meter
        meter.upstream_id = meter.upstream_id or word(chunk.id)
        meter.upstream_model = meter.upstream_model or word(chunk.model)
        usage = chunk.usage
        if usage is None and isinstance(chunk.x_groq, dict):
            usage = chunk.x_groq.get("usage")
        if isinstance(usage, dict):
            # The first report is kept as it is: most answers have one, and its nulls count as not reported either way.
            self._reported = usage if self._reported is None else merge_reported(self._reported, usage)
            meter.usage = usage_from_openai(self._reported)

    def _see_plain(self, chunk: _PlainChunk) -> bool:
        """As `_learn` and `_see_choice`, for all choices of a chunk that only says more text."""
        meter = self.meter
        meter.upstream_id = meter.upstream_id or chunk.id or None
        meter.upstream_model = meter.upstream_model or chunk.model or None
        size = 0
        for choice in chunk.choices:
            delta = choice.delta
            for text in (delta.content, delta.reasoning_content or delta.reasoning, delta.refusal):
                if text:
                    size += len(text) if text.isascii() else len(text.encode())
        meter.output_bytes += size
        return size > 0

    def _see_choice(self, choice: dict[str, object], said: object) -> bool:
        """Count what a delta or a message says; whether it says anything."""
        text = choice.get("text")
        semantic = bool(text)
        self.meter.output_bytes += text_bytes(text)
        if isinstance(said, dict):
            semantic = semantic or any(value for name, value in said.items() if name != "role")
            self.meter.output_bytes += _delta_bytes(said)
        finish = word(choice.get("finish_reason"))
        if finish is not None:
            self.meter.finish_reason = finish_reason(Dialect.OPENAI, finish)
            self.meter.native_finish = word(choice.get("native_finish_reason")) or finish
        return semantic or finish is not None

    def _fail_by(self, chunk: _Chunk, data: bytes) -> None:
        if self.failure is None:
            said = {"error": chunk.error} if chunk.error is not None else msgspec.json.decode(data)
            self.failure = parse_in_band_error(said)
        meter = self.meter
        meter.upstream_id = meter.upstream_id or word(chunk.id)
        meter.upstream_model = meter.upstream_model or word(chunk.model)


def _delta_bytes(said: dict[str, object]) -> int:
    """Text, reasoning (which some providers send under two names at once), refusal, audio's transcript, tool calls."""
    total = text_bytes(said.get("content")) + text_bytes(said.get("refusal")) + text_bytes(said.get("audio"))
    total += text_bytes(said.get("reasoning_content") or said.get("reasoning"))
    for call in objects(said.get("tool_calls")):
        total += _function_bytes(call.get("function"))
    return total + _function_bytes(said.get("function_call"))


def _function_bytes(function: object) -> int:
    if not isinstance(function, dict):
        return 0
    return text_bytes(function.get("name")) + text_bytes(function.get("arguments"))
