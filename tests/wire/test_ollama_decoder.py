"""Ollama's lines become streams of the doors: framing, tools, errors, usage, a cut context (guarantees 27, 28)."""

import json
from typing import Any

import pytest

from rig.sdk_accumulators import accumulate_anthropic, accumulate_openai
from securellm.chat import Dialect, Endpoint
from securellm.errors import UpstreamInvalid, UpstreamTruncated
from securellm.wire.translate import TranslatingRelay, open_translating_relay

DONE = {"done": True, "done_reason": "stop", "prompt_eval_count": 20, "eval_count": 5, "total_duration": 9}


def line(message: dict[str, Any] | None = None, **extra: Any) -> bytes:
    said = {} if message is None else {"message": {"role": "assistant", "content": "", **message}}
    value = {"model": "llama", "created_at": "2026-01-01T00:00:00Z", "done": False, **said, **extra}
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


STREAMS = {
    "text": line({"content": "Hel"}) + line({"content": "lo\u2028\u0085\x0b"}) + line({"content": ""}, **DONE),
    "tools": line({"tool_calls": [{"function": {"name": "f", "arguments": {"a": "é"}}}]})
    + line({"tool_calls": [{"id": "own", "function": {"name": "g", "arguments": {}}}]})
    + line({"content": ""}, **DONE),
    "tools in the last line": line({"content": "x"})
    + line({"tool_calls": [{"function": {"name": "f", "arguments": {}}}]}, **DONE),
    "thinking": line({"thinking": "hm "}) + line({"thinking": "so"}) + line({"content": "4"}) + line({}, **DONE),
    "load": line({}, done=True, done_reason="load"),
    "length": line({"content": "cut"}) + line({}, **(DONE | {"done_reason": "length"})),
    "crlf": (line({"content": "a"}) + line({}, **DONE)).replace(b"\n", b"\r\n"),
}
DOORS = pytest.mark.parametrize("door", [Endpoint.CHAT, Endpoint.MESSAGES], ids=lambda door: door.name)


def relay(door: Endpoint, num_ctx: int | None = 8192) -> TranslatingRelay:
    return open_translating_relay(
        door,
        Dialect.OLLAMA,
        stream=True,
        show_usage=True,
        injected_usage=False,
        request_id="0190-ab",
        model="ollama/llama",
        created_s=1,
        num_ctx=num_ctx,
    )


def through(door: Endpoint, *pieces: bytes, num_ctx: int | None = 8192) -> tuple[bytes, TranslatingRelay]:
    opened = relay(door, num_ctx)
    relayed = [*(opened.feed(piece) for piece in pieces), opened.end()]
    return b"".join(part.data + part.held for part in relayed), opened


@DOORS
@pytest.mark.parametrize("name", list(STREAMS))
def test_split_at_every_byte(door: Endpoint, name: str):
    """Wherever the bytes are cut, the caller's stream is the same; lines end in LF only."""
    stream = STREAMS[name]
    expected, _ = through(door, stream)
    for cut in range(len(stream) + 1):
        assert through(door, stream[:cut], stream[cut:])[0] == expected


@DOORS
def test_a_last_line_without_its_newline_counts(door: Endpoint):
    """The closing line is complete without its LF at the end of the connection."""
    stream = STREAMS["text"]
    assert through(door, stream.rstrip(b"\n"))[0] == through(door, stream)[0]


@pytest.mark.parametrize("name", ["tools", "tools in the last line"])
def test_calls_anywhere_finish_as_tool_calls(name: str):
    """A call anywhere makes the finish tool_calls, though done_reason says stop; ids are there and unique."""
    out, opened = through(Endpoint.CHAT, STREAMS[name])
    choice = accumulate_openai(out)["choices"][0]
    assert choice["finish_reason"] == "tool_calls" == opened.meter.finish_reason
    assert opened.meter.native_finish == "stop"
    ids = [call["id"] for call in choice["message"]["tool_calls"]]
    assert ids == (["call_0190ab0", "own"] if name == "tools" else ["call_0190ab0"])


def test_usage_comes_from_the_counts():
    """prompt_eval_count and eval_count are the usage, in both shapes and on the meter."""
    out, opened = through(Endpoint.CHAT, STREAMS["text"])
    assert accumulate_openai(out)["usage"]["total_tokens"] == 25
    assert opened.meter.usage is not None
    assert (opened.meter.usage.input_tokens, opened.meter.usage.output_tokens) == (20, 5)
    usage = accumulate_anthropic(through(Endpoint.MESSAGES, STREAMS["text"])[0])["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (20, 5)


def test_a_line_with_an_error_ends_the_stream_in_an_error():
    """An error in mid-stream is the door's error event, held, and never a terminal one."""
    opened = relay(Endpoint.CHAT)
    relayed = opened.feed(line({"content": "Hel"}) + b'{"error":"model runner has stopped"}\n' + line({}, **DONE))
    assert b'"content":"Hel"' in relayed.data
    assert json.loads(relayed.held.removeprefix(b"data: "))["error"]["message"] == "model runner has stopped"
    assert opened.failure is not None
    assert not opened.terminal
    assert opened.feed(line({}, **DONE)) == opened.end() == (b"", b"", False)
    assert relay(Endpoint.MESSAGES).feed(b'{"error":"x"}\n').held.startswith(b"event: error\n")


@DOORS
@pytest.mark.parametrize("broken", [b"nonsense\n", b"[1]\n", b'{"message":{"content":"\\ud83d"}}\n', b"\xff\n"])
def test_a_broken_line_is_invalid(door: Endpoint, broken: bytes):
    """What is not a JSON object, half of a surrogate pair included, is UpstreamInvalid, after what came before it."""
    with pytest.raises(UpstreamInvalid):
        relay(door).feed(broken)
    opened = relay(door)
    assert b"before" in opened.feed(line({"content": "before"}) + broken).data
    with pytest.raises(UpstreamInvalid):
        opened.end()


@DOORS
def test_a_stream_without_its_last_line_is_truncated(door: Endpoint):
    """The end of the connection without `done` is a cut, also in the middle of a line."""
    for stream in (b"", STREAMS["text"][:-40], line({"content": "x"})):
        opened = relay(door)
        assert opened.feed(stream).held == b""
        with pytest.raises(UpstreamTruncated):
            opened.end()


@pytest.mark.parametrize(
    ("num_ctx", "prompt", "output", "flagged"),
    [
        (8192, 8192, 3, True),
        (8192, 8000, 192, True),
        (8192, 8000, 191, False),
        (8192, 4096, 10, False),
        (None, 4096, 10, True),
        (None, 4000, 96, True),
        (None, 2048, 1, True),
        (None, 5000, 10, False),
    ],
)
def test_a_cut_context_is_flagged(num_ctx: int | None, prompt: int, output: int, flagged: bool):
    """The prompt at the window, or prompt and answer together, is a cut; unconfigured, Ollama's own windows count."""
    closing = DONE | {"prompt_eval_count": prompt, "eval_count": output}
    _, opened = through(Endpoint.CHAT, line({"content": "x"}) + line({}, **closing), num_ctx=num_ctx)
    assert opened.meter.context_truncated is flagged
    whole = relay(Endpoint.CHAT, num_ctx)
    whole.whole(line({"content": "x"}, **closing))
    assert whole.meter.context_truncated is flagged


def test_a_whole_answer_without_a_message_is_invalid():
    """A 200 that is not a chat answer is not passed off as an empty one."""
    with pytest.raises(UpstreamInvalid):
        relay(Endpoint.CHAT).whole(b'{"models":[]}')


def test_a_whole_error_sets_the_failure():
    """An error in a 200 body is the caller's error body, and `failure` says so."""
    opened = relay(Endpoint.MESSAGES)
    assert json.loads(opened.whole(b'{"error":"boom"}'))["error"]["message"] == "boom"
    assert opened.failure is not None
