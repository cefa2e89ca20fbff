"""Neutral events as an OpenAI chat completion: a stream of chunks, or the same chunks merged into one body. Pure.

Beyond the dialect, and only where another family said more than it can:
- `reasoning_content`: the text of thinking, as DeepSeek introduced it;
- `securellm_thinking`: one entry for each sealed block, opaque to clients and to be sent back unchanged. It holds the
  block as Anthropic made it, and how many characters of content and how many tool calls came before it, so that
  `openai_door.py` can put it back in its place. Entries have an `index`, by which the official SDK merges arrays;
- `native_finish_reason` on the choice: the provider's own word for why it stopped; `native_stop_sequence`: which of the
  caller's stops it met.

The id is `chatcmpl-` and the request's id; the provider's own is an attribute of the meter.
"""

import msgspec

from securellm.chat import Usage
from securellm.wire.usage import usage_to_openai
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

DONE = b"data: [DONE]\n\n"


class OpenAIAnswer:
    """The encoder of one answer; use it for a stream or for a whole, not both."""

    def __init__(self, *, request_id: str, model: str, created_s: int, show_usage: bool) -> None:
        self._common: JSONObject = {"id": f"chatcmpl-{request_id}", "created": created_s, "model": model}
        self._show_usage = show_usage
        self._usage: Usage | None = None
        self._begun = False
        self._thought: list[str] = []  # of the open block
        self._characters = 0
        self._calls = 0
        self._sealed = 0

    def stream(self, event: Event) -> tuple[bytes, bytes]:
        """The bytes of one event: to be sent now, and to be held."""
        frames = [self._frame(choice) for choice in self._choices(event)]
        if not isinstance(event, Ended):
            return b"".join(frames), b""
        if self._show_usage and self._usage is not None:
            frames.append(self._frame(None))
        return b"".join(frames), DONE

    def whole(self, events: list[Event]) -> bytes:
        """The body of a complete answer."""
        message: JSONObject = {"role": "assistant", "content": None, "refusal": None}
        finish: JSONObject = {"finish_reason": None}
        for event in events:
            for choice in self._choices(event):
                delta = choice.pop("delta")
                if isinstance(delta, dict):
                    _merge(message, delta)
                if choice["finish_reason"] is not None:
                    finish = choice
        if "tool_calls" in message:
            message["tool_calls"] = _in_order(message["tool_calls"])
        body: JSONObject = {"object": "chat.completion", **self._common}
        body["choices"] = [{**finish, "index": 0, "message": message, "logprobs": None}]
        if self._usage is not None:
            body["usage"] = usage_to_openai(self._usage)
        return msgspec.json.encode(body)

    def _frame(self, choice: JSONObject | None) -> bytes:
        """One chunk; without a choice it is the one that shows usage."""
        chunk: JSONObject = {"object": "chat.completion.chunk", **self._common}
        chunk["choices"] = [] if choice is None else [choice]
        if self._show_usage:
            chunk["usage"] = None if choice is not None or self._usage is None else usage_to_openai(self._usage)
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"

    def _choices(self, event: Event) -> list[JSONObject]:
        if isinstance(event, UsageReported):
            self._usage = event.usage
            return []
        delta, finish = self._delta(event), None
        if isinstance(event, Finished):
            finish = event
        if delta is None:
            return []
        choices: list[JSONObject] = []
        if not self._begun:
            self._begun = True
            choices.append({"index": 0, "delta": {"role": "assistant"}, "finish_reason": None})
        if isinstance(event, Started | Ended):
            return choices
        choice: JSONObject = {"index": 0, "delta": delta, "finish_reason": None if finish is None else finish.reason}
        if finish is not None:
            choice["native_finish_reason"] = finish.native
            if finish.stop_sequence is not None:
                choice["native_stop_sequence"] = finish.stop_sequence
        return [*choices, choice]

    def _delta(self, event: Event) -> JSONObject | None:
        match event:
            case Started() | Ended():
                return {}
            case TextDelta(text=text):
                self._characters += len(text)
                return {"content": text}
            case RefusalDelta(text=text):
                return {"refusal": text}
            case ThinkingDelta(text=text):
                self._thought.append(text)
                return {"reasoning_content": text}
            case ThinkingEnded(signature=signature):
                thought, self._thought = "".join(self._thought), []
                if signature is None:
                    return None
                return self._seal({"type": "thinking", "thinking": thought, "signature": signature})
            case RedactedThinking(data=data):
                return self._seal({"type": "redacted_thinking", "data": data})
            case ToolStarted(index=index, id=id_, name=name):
                self._calls += 1
                function: JSONObject = {"name": name, "arguments": ""}
                return {"tool_calls": [{"index": index, "id": id_, "type": "function", "function": function}]}
            case ToolArguments(index=index, fragment=fragment):
                return {"tool_calls": [{"index": index, "function": {"arguments": fragment}}]}
            case Finished():
                # Content is null only beside tool calls; an answer without a word has an empty one.
                return {} if self._characters or self._calls else {"content": ""}
            case _:
                return None

    def _seal(self, block: JSONObject) -> JSONObject:
        block.update(index=self._sealed, text_before=self._characters, tool_calls_before=self._calls)
        self._sealed += 1
        return {"securellm_thinking": [block]}


def _merge(message: JSONObject, delta: JSONObject) -> None:
    """Add a delta to a message, as a client does."""
    for name, value in delta.items():
        before = message.get(name)
        if name == "tool_calls" and isinstance(value, list):
            calls = message.setdefault("tool_calls", [])
            if isinstance(calls, list):
                _merge_calls(calls, value)
        elif isinstance(value, list):
            message[name] = [*(before if isinstance(before, list) else []), *value]
        elif isinstance(before, str) and isinstance(value, str) and name != "role":
            message[name] = before + value
        else:
            message[name] = value


def _merge_calls(calls: list[JSONObject], deltas: list[JSONObject]) -> None:
    """Calls keep their index while they are merged: one that gets its name late is announced after its followers."""
    for delta in deltas:
        if "id" in delta:
            calls.append(dict(delta))
            continue
        for call in calls:
            function, update = call["function"], delta["function"]
            if call["index"] == delta["index"] and isinstance(function, dict) and isinstance(update, dict):
                function["arguments"] += update["arguments"]


def _in_order(calls: object) -> list[JSONObject]:
    """The merged calls as a whole answer lists them: by their index, which is shown in streams only."""
    by_index = {call["index"]: call for call in calls} if isinstance(calls, list) else {}
    return [{name: value for name, value in by_index[index].items() if name != "index"} for index in sorted(by_index)]
