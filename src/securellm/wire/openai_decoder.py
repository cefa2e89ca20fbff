"""An OpenAI-dialect provider's answer, decoded into neutral events. Pure.

Reads what the followers of the dialect are known to send: reasoning as `reasoning_content`, `reasoning` or
`reasoning_details` (in which OpenRouter passes Anthropic's seals on); content as text or as an array of parts
(Mistral); tool calls with unreliable indexes (`toolcalls.py`); usage in the last chunk, in the choice (Moonshot) or
under `x_groq`; errors as a chunk of their own. The terminal event is `[DONE]`. A finish of `stop` after a tool call
counts as `tool_calls`.
"""

from collections.abc import Iterator

from securellm.chat import Dialect
from securellm.errors import UpstreamInvalid
from securellm.wire.envelope import parse_in_band_error
from securellm.wire.finish import finish_reason
from securellm.wire.provider_json import objects_of, read_answer, text_of
from securellm.wire.sse import SSESplitter, parse_event
from securellm.wire.toolcalls import ToolCalls
from securellm.wire.usage import merge_reported, usage_from_openai
from securellm.wire.words import (
    Ended,
    Event,
    Failed,
    Finished,
    JSONObject,
    RedactedThinking,
    RefusalDelta,
    Started,
    TextDelta,
    ThinkingDelta,
    ThinkingEnded,
    UsageReported,
)

_DONE = b"[DONE]"


class OpenAIDecoder:
    """The decoder of one answer, a stream or a whole. `tool_id_prefix` begins ids that the provider leaves out."""

    def __init__(self, tool_id_prefix: str) -> None:
        self._splitter = SSESplitter()
        self._calls = ToolCalls(tool_id_prefix)
        self._started = False
        self._reported: dict[str, object] | None = None

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events of the next bytes, cut anywhere. Raises UpstreamInvalid."""
        for event in self._splitter.feed(data):
            if event.data is not None:
                yield from self._payload(event.event, event.data)

    def end(self) -> Iterator[Event]:
        """The terminal or error event, where only its blank line is missing."""
        event = parse_event(self._splitter.tail())
        if event.data is None:
            return
        if event.data.strip() == _DONE:
            yield Ended()
        elif is_error(event.data):
            yield from self._payload(event.event, event.data)

    def whole(self, body: bytes) -> Iterator[Event]:
        """The events of a complete answer. Raises UpstreamInvalid."""
        answer = read_answer(body)
        if answer.get("error"):
            yield Failed(parse_in_band_error(answer))
            return
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise UpstreamInvalid("the provider's answer has no choices")
        choice: JSONObject = choices[0]
        message = choice.get("message")
        yield from self._start(answer)
        if isinstance(message, dict):
            yield from self._said(message)
            for call in objects_of(message.get("tool_calls")):
                yield from self._calls.whole(call)
            if isinstance(message.get("function_call"), dict):
                yield from self._calls.whole({"function": message["function_call"]})
        yield from self._closing(answer, choice)
        yield Ended()

    def _payload(self, name: bytes, data: bytes) -> Iterator[Event]:
        if data.strip() == _DONE:
            yield Ended()
            return
        chunk = read_answer(data)
        if chunk.get("error") or name == b"error":
            yield Failed(parse_in_band_error(chunk))
            return
        yield from self._start(chunk)
        choice = next((choice for choice in objects_of(chunk.get("choices")) if choice.get("index") in (0, None)), {})
        delta = choice.get("delta")
        if isinstance(delta, dict):
            yield from self._said(delta)
            for call in objects_of(delta.get("tool_calls")):
                yield from self._calls.fragment(call)
            if isinstance(delta.get("function_call"), dict):
                yield from self._calls.fragment({"function": delta["function_call"], "index": 0})
        yield from self._closing(chunk, choice)

    def _start(self, answer: JSONObject) -> Iterator[Event]:
        if not self._started:
            self._started = True
            yield Started(text_of(answer.get("id")) or None, text_of(answer.get("model")) or None)

    def _said(self, message: JSONObject) -> Iterator[Event]:
        """The words in a message or a delta: reasoning first, as the model wrote it."""
        yield from _thought(message)
        content = message.get("content")
        if isinstance(content, str) and content:
            yield TextDelta(content)
        for part in objects_of(content):
            if part.get("type") == "text" and text_of(part.get("text")):
                yield TextDelta(text_of(part["text"]))
            elif part.get("type") == "thinking" and _joined(part.get("thinking")):
                yield ThinkingDelta(_joined(part["thinking"]))
        if text_of(message.get("refusal")):
            yield RefusalDelta(text_of(message["refusal"]))

    def _closing(self, answer: JSONObject, choice: JSONObject) -> Iterator[Event]:
        native = choice.get("finish_reason")
        if isinstance(native, str) and native:
            yield from self._calls.close()
            reason = finish_reason(Dialect.OPENAI, native)
            yield Finished("tool_calls" if reason == "stop" and len(self._calls) else reason, native)
        groq = answer.get("x_groq")
        for reported in (
            choice.get("usage"),
            groq.get("usage") if isinstance(groq, dict) else None,
            answer.get("usage"),
        ):
            if isinstance(reported, dict) and reported:
                self._reported = merge_reported(self._reported, reported)
                yield UsageReported(usage_from_openai(self._reported))


def is_error(data: bytes) -> bool:
    """Whether this is a complete JSON object that reports an error."""
    try:
        return bool(read_answer(data).get("error"))
    except UpstreamInvalid:
        return False


def _thought(message: JSONObject) -> Iterator[Event]:
    """Reasoning; block by block where OpenRouter's details bring Anthropic's seals."""
    details = objects_of(message.get("reasoning_details"))
    if any(detail.get("signature") or _is_redacted(detail) for detail in details):
        for detail in details:
            if _is_redacted(detail):
                yield RedactedThinking(text_of(detail["data"]))
            elif _detail_text(detail):
                yield ThinkingDelta(_detail_text(detail))
            if text_of(detail.get("signature")):
                yield ThinkingEnded(text_of(detail["signature"]))
        return
    reasoning = text_of(message.get("reasoning_content")) or text_of(message.get("reasoning"))
    reasoning = reasoning or "".join(map(_detail_text, details))
    if reasoning:
        yield ThinkingDelta(reasoning)


def _detail_text(detail: JSONObject) -> str:
    return text_of(detail.get("text")) or text_of(detail.get("summary"))


def _is_redacted(detail: JSONObject) -> bool:
    """Whether this is Anthropic's redacted_thinking; others' encrypted details are theirs to keep."""
    by_anthropic = text_of(detail.get("format")).startswith("anthropic")
    return by_anthropic and detail.get("type") == "reasoning.encrypted" and bool(text_of(detail.get("data")))


def _joined(value: object) -> str:
    return text_of(value) or "".join(text_of(part.get("text")) for part in objects_of(value))
