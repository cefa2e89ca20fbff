"""Neutral events as an Anthropic message: a stream of strictly nested blocks, or the same blocks as one body. Pure.

Anthropic's blocks open and close one after the other, while an OpenAI-dialect provider may interleave the fragments of
several calls, or go on with text behind a call. So blocks stand in a queue in the order in which they began: the first
one streams, the others wait. Text and thinking end when another block begins; a call ends when another block has begun
and its arguments are a complete JSON object, at the latest with the answer.

`message_delta` waits for the end of the provider's stream, because usage comes after the finish there. Its usage is
complete; the one in `message_start` is zero, as nothing is known then. `native_stop_reason` is the provider's own word.
The signature of thinking that no one sealed is empty. The id is `msg_` and the request's id.
"""

from collections import deque

import msgspec

from securellm.chat import Usage
from securellm.errors import UpstreamInvalid
from securellm.wire.finish import stop_reason
from securellm.wire.partial import partial_object
from securellm.wire.toolcalls import is_complete
from securellm.wire.usage import usage_to_anthropic
from securellm.wire.words import (
    Ended,
    Event,
    Finished,
    JSONObject,
    RedactedThinking,
    RefusalDelta,
    Started,
    TextDelta,
    ThinkingDelta,
    ThinkingEnded,
    ToolArguments,
    ToolStarted,
    UsageReported,
)


class _Block:
    """A block that is not closed yet: how it opens, and the deltas that wait behind it."""

    __slots__ = ("arguments", "checked", "ended", "kind", "opened", "opening", "waiting")

    def __init__(self, kind: str, opening: JSONObject) -> None:
        self.kind = kind
        self.opening = opening
        self.opened = False
        self.ended = False  # nothing can follow in it
        self.waiting: list[JSONObject] = []
        self.arguments: list[str] = []  # of a call, all of them
        self.checked = 0  # how many of these the last look for completeness has seen

    def may_close(self) -> bool:
        if self.ended or self.kind != "tool_use":
            return True
        if self.checked == len(self.arguments):
            return False
        self.checked = len(self.arguments)
        self.ended = is_complete(self.arguments)
        return self.ended


class AnthropicAnswer:
    """The encoder of one answer; use it for a stream or for a whole, not both."""

    def __init__(self, *, request_id: str, model: str) -> None:
        self._id = f"msg_{request_id}"
        self._model = model
        self._begun = False
        self._queue: deque[_Block] = deque()
        self._calls: dict[int, _Block] = {}
        self._index = 0  # of the block at the head of the queue
        self._usage = Usage()
        self._finished: Finished | None = None
        self._refused = False

    def stream(self, event: Event) -> tuple[bytes, bytes]:
        """The bytes of one event: to be sent now, and to be held. Raises UpstreamInvalid."""
        frames = [_frame(payload) for payload in self._payloads(event)]
        held = frames.pop() if isinstance(event, Ended) else b""
        return b"".join(frames), held

    def whole(self, events: list[Event]) -> bytes:
        """The body of a complete answer. Raises UpstreamInvalid."""
        message: JSONObject = {}
        content: list[JSONObject] = []
        arguments: dict[int, str] = {}
        for event in events:
            for payload in self._payloads(event):
                _accumulate(payload, message, content, arguments)
        for index, text in arguments.items():
            content[index]["input"] = _parsed(text, cut=message["stop_reason"] == "max_tokens")
        message["content"] = content
        return msgspec.json.encode(message)

    def _payloads(self, event: Event) -> list[JSONObject]:
        payloads = []
        if not self._begun and not isinstance(event, UsageReported):
            self._begun = True
            payloads.append(self._message_start())
        match event:
            case TextDelta(text=text):
                self._extend("text", {"type": "text", "text": ""}, {"type": "text_delta", "text": text})
            case RefusalDelta(text=text):
                self._refused = True
                self._extend("text", {"type": "text", "text": ""}, {"type": "text_delta", "text": text})
            case ThinkingDelta(text=text):
                self._extend("thinking", _thinking(), {"type": "thinking_delta", "thinking": text})
            case ThinkingEnded(signature=signature):
                if signature:
                    self._extend("thinking", _thinking(), {"type": "signature_delta", "signature": signature})
                self._end_thinking()
            case RedactedThinking(data=data):
                self._push("redacted_thinking", {"type": "redacted_thinking", "data": data}).ended = True
            case ToolStarted(index=index, id=id_, name=name):
                opening: JSONObject = {"type": "tool_use", "id": id_, "name": name, "input": {}}
                self._calls[index] = self._push("tool_use", opening)
            case ToolArguments(index=index, fragment=fragment):
                self._extend_call(self._calls[index], fragment)
            case Finished():
                self._finished = event
            case UsageReported(usage=usage):
                self._usage = usage
            case Ended():
                return [*payloads, *self._drain(last=True), *self._closing()]
            case Started() | _:
                pass
        return [*payloads, *self._drain(last=False)]

    def _message_start(self) -> JSONObject:
        message: JSONObject = {"id": self._id, "type": "message", "role": "assistant", "model": self._model}
        message.update(content=[], stop_reason=None, stop_sequence=None, usage=usage_to_anthropic(Usage()))
        return {"type": "message_start", "message": message}

    def _closing(self) -> list[JSONObject]:
        delta: JSONObject = {"stop_reason": None, "stop_sequence": None}
        if self._finished is not None:
            refused = self._refused and self._finished.reason == "stop"
            delta["stop_reason"] = "refusal" if refused else stop_reason(self._finished.reason)
            delta["native_stop_reason"] = self._finished.native
        usage = usage_to_anthropic(self._usage)
        return [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]

    def _push(self, kind: str, opening: JSONObject) -> _Block:
        block = _Block(kind, opening)
        self._queue.append(block)
        return block

    def _extend(self, kind: str, opening: JSONObject, delta: JSONObject) -> None:
        last = self._queue[-1] if self._queue else None
        if last is None or last.kind != kind or last.ended:
            last = self._push(kind, opening)
        last.waiting.append(delta)

    def _end_thinking(self) -> None:
        if self._queue and self._queue[-1].kind == "thinking":
            self._queue[-1].ended = True

    def _extend_call(self, call: _Block, fragment: str) -> None:
        if call.ended:
            if fragment.strip():
                raise UpstreamInvalid("the provider went on with the arguments of a tool call that was complete")
            return
        call.arguments.append(fragment)
        call.waiting.append({"type": "input_json_delta", "partial_json": fragment})

    def _drain(self, *, last: bool) -> list[JSONObject]:
        """What may be sent of the queue: the head as it comes, those behind it once it has closed."""
        payloads: list[JSONObject] = []
        while self._queue:
            head = self._queue[0]
            if not head.opened:
                head.opened = True
                payloads.append({"type": "content_block_start", "index": self._index, "content_block": head.opening})
            for delta in head.waiting:
                payloads.append({"type": "content_block_delta", "index": self._index, "delta": delta})
            head.waiting = []
            alone = len(self._queue) == 1 and not head.ended
            if not last and (alone or not head.may_close()):
                break
            head.ended = True
            payloads.append({"type": "content_block_stop", "index": self._index})
            self._queue.popleft()
            self._index += 1
        return payloads


def _thinking() -> JSONObject:
    return {"type": "thinking", "thinking": "", "signature": ""}


def _frame(payload: JSONObject) -> bytes:
    return f"event: {payload['type']}\ndata: ".encode() + msgspec.json.encode(payload) + b"\n\n"


def _accumulate(payload: JSONObject, message: JSONObject, content: list[JSONObject], arguments: dict[int, str]) -> None:
    """Add one event to a message, as a client does."""
    match payload:
        case {"type": "message_start", "message": dict(start)}:
            message.update(start)
        case {"type": "content_block_start", "content_block": dict(block)}:
            content.append(block)
        case {"type": "content_block_delta", "index": int(index), "delta": dict(delta)}:
            kind = delta["type"]
            if kind == "input_json_delta":
                arguments[index] = arguments.get(index, "") + delta["partial_json"]
            elif kind == "signature_delta":
                content[index]["signature"] = delta["signature"]
            else:
                name = "text" if kind == "text_delta" else "thinking"
                content[index][name] = str(content[index][name]) + delta[name]
        case {"type": "message_delta", "delta": dict(delta), "usage": usage}:
            message.update(delta)
            message["usage"] = usage


def _parsed(text: str, *, cut: bool) -> JSONObject:
    if cut or not text.strip():
        partial = partial_object(text)
        if partial is not None:
            return partial
    try:
        value = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise UpstreamInvalid("the arguments of a tool call are not valid json") from exc
    if not isinstance(value, dict):
        raise UpstreamInvalid("the arguments of a tool call are not an object")
    return value
