"""However a request ends and however far it had come, it leaves one pair of records with the right bill (3).

Who breaks it off (the caller, the provider in two ways, a timer, the shutdown) x how far it was x streamed or whole x
the dialects. What was delivered is never free, and what the provider did not produce is never billed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pytest
import trio

from rig import doors, pairs, script, speech
from rig.books import INPUT_NUSD, OUTPUT_NUSD, PRICED, Entry, only_entry
from rig.pairs import Pair
from rig.raw_client import open_client
from rig.script import Step

CAUSES = ("caller leaves", "provider hangs up", "provider fails", "timer", "shutdown")
PHASES = ("before headers", "after a chunk", "after usage", "before the end")
TEXT = "Hello there, caller"
TIMER_S = 0.2
PROVIDER_ERROR = b'data: {"error":{"message":"scripted","type":"server_error","param":null,"code":"scripted"}}\n\n'
ANTHROPIC_ERROR = b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"scripted"}}\n\n'

_OPENAI, _ANTHROPIC, _CROSSED = (
    next(pair for pair in pairs.PAIRS if str(pair) == name)
    for name in ("chat-openai", "messages-anthropic", "messages-openai")
)
CELLS = [
    pytest.param(pair, stream, cause, phase, id=f"{pair}-{'stream' if stream else 'whole'}-{cause}-{phase}")
    for pair in (_OPENAI, _ANTHROPIC, _CROSSED)
    for stream in (True, False)
    for cause in CAUSES
    for phase in PHASES
    if pair is _OPENAI or (stream and (pair is _ANTHROPIC or cause in ("caller leaves", "provider hangs up")))
]


class Expected(NamedTuple):
    """What the closing record says."""

    status: str
    http_status: int | None
    error_code: str | None


@pytest.mark.parametrize(("pair", "stream", "cause", "phase"), CELLS)
async def test_every_end_in_every_phase(serving, provider, pair: Pair, stream: bool, cause: str, phase: str):
    """One pair of records; the status, the source of the usage, the tokens and the cost are those of the table."""
    reached = trio.Event()
    opening = _opening(pair, phase) if stream else _part_of_whole(pair, phase)
    provider.enqueue(*opening, script.signal(reached), *_breaks(pair, stream, cause, phase))
    timeouts = {"first_token_s": TIMER_S, "idle_s": TIMER_S} if stream else {"total_s": TIMER_S}
    with trio.fail_after(10):
        gateway = await serving(provider, models={pair.model: PRICED}, timeouts=timeouts if cause == "timer" else {})
        async with open_client(gateway.base_url) as client:
            await client.request("POST", pair.door.path, pair.door.body(pair.model, stream=stream), pair.door.auth())
            delivered = b""
            committed = stream and phase != "before headers"
            if committed and cause == "caller leaves":
                await client.read_head()
                delivered = await client.read_until(b"Hello")
            await reached.wait()
            if cause == "caller leaves":
                client.rst()
            else:
                if cause == "shutdown":
                    if committed:
                        await client.read_head()
                        delivered = await client.read_until(b"Hello")
                    gateway.runtime.gateway.end_streams()
                delivered += await client.read_eof() if delivered else b""
                await gateway.settled()
        entry = await only_entry(gateway)
    assert len(entry.asked) == 1 == len(provider.asked), entry
    _check_end(entry, _expected(cause, stream, phase))
    _check_bill(entry, pair, stream, phase)


def _opening(pair: Pair, phase: str) -> list[Step]:
    """What the provider sends of a stream before something happens."""
    if phase == "before headers":
        return []
    assert pair.speech.events is not None
    events = pair.speech.events((TEXT,))
    first = next(number for number, event in enumerate(events) if b"Hello" in event)
    begun = events[: first + 1]
    if phase == "after usage":
        begun = events[:-1] if pair.speech is speech.MESSAGES else [*begun, speech.chat_usage_chunk()]
    elif phase == "before the end":
        begun = [*events[:-1], events[-1][: len(events[-1]) // 2]]
    # In one write, so that a caller who has seen the text leaves after the gateway has read the rest.
    return script.stream([b"".join(begun)], pair.speech.kind, ended=False)


def _part_of_whole(pair: Pair, phase: str) -> list[Step]:
    """What the provider sends of a whole body before something happens."""
    if phase == "before headers":
        return []
    head, body = script.answer(200, pair.speech.whole(TEXT)), script.json_bytes(pair.speech.whole(TEXT))
    part = {"after a chunk": body[:40], "after usage": body[: body.index(b'"usage"') + 60], "before the end": body[:-1]}
    return [head[0], script.raw(part[phase])]


def _breaks(pair: Pair, stream: bool, cause: str, phase: str) -> Sequence[Step]:
    if cause == "provider hangs up":
        return [script.fin()]
    if cause != "provider fails":
        return [script.never()]
    if phase == "before headers":
        return script.answer(500, pair.speech.error(500))
    if not stream:
        return [script.rst()]
    end_of_half = b"\n\n" if phase == "before the end" else b""
    return [script.chunk(end_of_half + (ANTHROPIC_ERROR if pair.speech is speech.MESSAGES else PROVIDER_ERROR))]


def _expected(cause: str, stream: bool, phase: str) -> Expected:
    committed = stream and phase != "before headers"
    begun = phase != "before headers"
    match cause:
        case "caller leaves":
            return Expected("cancelled", 200 if committed else None, None)
        case "provider hangs up":
            return Expected("truncated", 200 if committed else 502, "upstream_truncated")
        case "provider fails" if not begun:
            return Expected("failed", 500, "upstream_error")
        case "provider fails" if stream:
            return Expected("failed", 200, None)
        case "provider fails":
            return Expected("truncated", 502, "upstream_truncated")
        case "timer" if stream:
            return Expected("timeout", 200 if begun else 504, "idle_timeout" if begun else "first_token_timeout")
        case "timer":
            return Expected("timeout", 504, "total_timeout")
    return Expected("shutdown", 200 if committed else 503, "shutting_down")


def _check_end(entry: Entry, expected: Expected) -> None:
    closing = entry.closing
    assert closing["status"] == expected.status, closing
    assert closing.get("http_status") == expected.http_status, closing
    if expected.error_code is not None:
        assert closing["error_code"] == expected.error_code, closing
    assert "cancelled" in (closing["status"], closing.get("error_code")) or "error_code" in closing, closing


def _check_bill(entry: Entry, pair: Pair, stream: bool, phase: str) -> None:
    closing = entry.closing
    if not stream or phase == "before headers":
        assert "usage" not in closing, closing
        assert "cost_nusd" not in closing, closing
        return
    assert closing["bytes_out"] > 0
    # The usage is the provider's last word on it when the reason of the finish has come, too.
    finished = phase == "before the end" or (phase == "after usage" and pair.speech is speech.MESSAGES)
    assert closing["usage_source"] == ("reported" if finished else "estimated"), closing
    delivered = -(-len(TEXT) // 4)
    reported = phase != "after a chunk"
    assert closing["completion_tokens"] == (max(speech.OUTPUT_TOKENS, delivered) if reported else delivered), closing
    if reported or pair.speech is speech.MESSAGES:  # its first event has the input's tokens
        assert closing["prompt_tokens"] == speech.INPUT_TOKENS, closing
    else:
        assert len(doors.PROMPT) // 4 <= closing["prompt_tokens"] <= len(pair.door.body(pair.model)), closing
    cost_nusd = closing["prompt_tokens"] * INPUT_NUSD + closing["completion_tokens"] * OUTPUT_NUSD
    assert closing["cost_nusd"] == cost_nusd, closing
    assert entry.asked[0]["cost_nusd"] == cost_nusd, closing
