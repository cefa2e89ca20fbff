"""Ollama's answer to POST /api/chat, decoded into neutral events. Pure.

Lines of JSON end in LF and in nothing else. A call of a tool comes whole, anywhere in the answer, and often without an
id; its presence makes the finish `tool_calls`, whatever `done_reason` says. A line with `error` is the end in an error.

Ollama cuts a prompt that is longer than its window and does not say so. It shows in the counts: the prompt fills the
window exactly, or prompt and answer do. Where no window was configured, the ones that Ollama picks by itself count.
Sources: docs/api.md and docs/context-length.md of ollama/ollama (2026-11).
"""

from collections.abc import Iterator

from securellm.chat import Dialect
from securellm.errors import UpstreamInvalid
from securellm.wire.envelope import parse_in_band_error
from securellm.wire.finish import finish_reason
from securellm.wire.ndjson import NDJSONSplitter
from securellm.wire.provider_json import objects_of, read_answer, text_of
from securellm.wire.toolcalls import ToolCalls
from securellm.wire.usage import usage_from_ollama
from securellm.wire.words import (
    ContextTruncated,
    Ended,
    Event,
    Failed,
    Finished,
    JSONObject,
    Started,
    TextDelta,
    ThinkingDelta,
    UsageReported,
)

DEFAULT_WINDOWS = (2048, 4096, 32768, 262144)  # tokens; older versions, then by the memory of the machine


class OllamaDecoder:
    """The decoder of one answer, a stream or a whole. `num_ctx` is the window that the request asked for."""

    def __init__(self, tool_id_prefix: str, num_ctx: int | None) -> None:
        self._splitter = NDJSONSplitter()
        self._calls = ToolCalls(tool_id_prefix)
        self._windows = DEFAULT_WINDOWS if num_ctx is None else (num_ctx,)
        self._started = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events of the next bytes, cut anywhere. Raises UpstreamInvalid."""
        for line in self._splitter.feed(data):
            yield from self._line(read_answer(line))

    def end(self) -> Iterator[Event]:
        """The last line, where only its LF is missing."""
        tail = self._splitter.tail()
        if not tail.strip():
            return
        try:
            line = read_answer(tail)
        except UpstreamInvalid:  # cut inside the line: the relay says what that means
            return
        yield from self._line(line)

    def whole(self, body: bytes) -> Iterator[Event]:
        """The events of a complete answer. Raises UpstreamInvalid."""
        answer = read_answer(body)
        if not answer.get("error") and not isinstance(answer.get("message"), dict):
            raise UpstreamInvalid("the provider's answer has no message")
        yield from self._line(answer)

    def _line(self, line: JSONObject) -> Iterator[Event]:
        if line.get("error"):
            yield Failed(parse_in_band_error(line))
            return
        if not self._started:
            self._started = True
            yield Started(model=text_of(line.get("model")) or None)
        message = line.get("message")
        if isinstance(message, dict):
            yield from self._said(message)
        if line.get("done"):
            yield from self._closing(line)

    def _said(self, message: JSONObject) -> Iterator[Event]:
        if text_of(message.get("thinking")):
            yield ThinkingDelta(text_of(message["thinking"]))
        if text_of(message.get("content")):
            yield TextDelta(text_of(message["content"]))
        for call in objects_of(message.get("tool_calls")):
            yield from self._calls.whole(call)

    def _closing(self, line: JSONObject) -> Iterator[Event]:
        native = text_of(line.get("done_reason"))
        if native:
            reason = "tool_calls" if len(self._calls) else finish_reason(Dialect.OLLAMA, native)
            yield Finished(reason, native)
        elif len(self._calls):
            yield Finished("tool_calls", "")
        if line.get("prompt_eval_count") is not None or line.get("eval_count") is not None:
            usage = usage_from_ollama(line)
            yield UsageReported(usage)
            if usage.prompt_tokens in self._windows or usage.total_tokens in self._windows:
                yield ContextTruncated()
        yield Ended()
