"""Recorded answers behind the door of another dialect: the stream, once accumulated, equals the whole answer.

Every recorded stream is also served whole (accumulated here, independently of the product), so that each recording
crosses the gateway twice and the caller must end up with the same answer. Ollama's recordings go behind both doors.
"""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import trio

from rig import doors, script
from rig.accumulate import accumulate_chat, accumulate_messages, accumulate_ollama
from rig.doors import Door
from rig.replay import Recording, corpus_is_there, load_recordings
from securellm.chat import Status

pytestmark = pytest.mark.corpus

Accumulate = Callable[[bytes], dict[str, Any]]
_SHOWN: dict[str, Accumulate] = {"chat": accumulate_chat, "messages": accumulate_messages}
_ENDED_BADLY = frozenset({"midstream_error", "truncated_stream", "error_in_200", "error"})


def _recorded(endpoint: str) -> list[Recording]:
    if not corpus_is_there():
        return []
    return [
        recording
        for recording in load_recordings(endpoint)
        if recording.status == 200 and not _ENDED_BADLY & recording.features
    ]


def _groups(endpoint: str) -> list[str]:
    return sorted({recording.provider for recording in _recorded(endpoint) if recording.streamed})


@pytest.mark.parametrize("door", [doors.CHAT, doors.MESSAGES], ids=lambda door: door.name)
async def test_ollama_behind_both_doors(serving, provider, door: Door):
    """Every raw Ollama recording, streamed and whole: one text, the same calls, reason, usage and settlement."""
    recordings = _recorded("ollama.chat")
    assert len(recordings) == len(load_recordings("ollama.chat")) - 1  # one is an error, tested below
    pairs = []
    for recording in recordings:
        whole = accumulate_ollama(recording.response) if recording.streamed else json.loads(recording.response)
        stream = recording.response if recording.streamed else json.dumps(whole).encode() + b"\n"
        pairs.append((recording, stream, whole))
    await _assert_equal(serving, provider, door, "ollama", "ndjson", pairs)


@pytest.mark.parametrize("door", [doors.CHAT, doors.MESSAGES], ids=lambda door: door.name)
async def test_ollamas_recorded_error(serving, provider, door: Door):
    """Ollama's recorded 404 keeps its status and its words in both doors' envelopes."""
    (recording,) = [recording for recording in load_recordings("ollama.chat") if recording.status != 200]
    provider.default = script.answer(recording.status, recording.response)
    with trio.fail_after(10):
        gateway = await serving({"ollama": provider})
        response = await gateway.ask(door, door.body("ollama/nothing"))
        assert response.status == recording.status
        assert json.loads(recording.response)["error"] in door.error_of(response)["message"]


@pytest.mark.parametrize("name", _groups("chat.completions"))
async def test_chat_behind_the_messages_door(serving, provider, name: str):
    """Every recorded chat stream, shown to callers of the Messages door."""
    recordings = [r for r in _recorded("chat.completions") if r.streamed and r.provider == name and _one_choice(r)]
    pairs = [(recording, recording.response, accumulate_chat(recording.response)) for recording in recordings]
    await _assert_equal(serving, provider, doors.MESSAGES, "openai", "sse", pairs)


@pytest.mark.parametrize("name", _groups("messages"))
async def test_messages_behind_the_chat_door(serving, provider, name: str):
    """Every recorded stream of messages, shown to callers of the chat door."""
    recordings = [recording for recording in _recorded("messages") if recording.streamed and recording.provider == name]
    assert recordings
    pairs = [(recording, recording.response, accumulate_messages(recording.response)) for recording in recordings]
    await _assert_equal(serving, provider, doors.CHAT, "anthropic", "sse", pairs)


async def _assert_equal(
    serving: Any, provider: Any, door: Door, name: str, kind: str, pairs: list[tuple[Recording, bytes, dict[str, Any]]]
) -> None:
    chance = random.Random(f"{door.name} {name}")
    wrong = []
    with trio.fail_after(120):
        gateway = await serving({name: provider}, providers={name: {"circuit_breaker": {"failure_threshold": 1000}}})
        for recording, stream, whole in pairs:
            places = sorted(chance.sample(range(1, len(stream)), min(len(stream) - 1, 40)))
            provider.enqueue(*script.stream(script.cut(stream, *places), kind))
            provider.enqueue(*script.answer(200, whole))
            asked = {"stream_options": {"include_usage": True}} if door.name == "chat" else {}
            streamed = await gateway.ask(door, door.body(f"{name}/{recording.id}", stream=True, **asked))
            at_once = await gateway.ask(door, door.body(f"{name}/{recording.id}"))
            if (streamed.status, at_once.status, streamed.cut) != (200, 200, None):
                wrong.append((recording.id, streamed.status, streamed.body[-300:], at_once.body[:300]))
                continue
            left = _comparable(door, _SHOWN[door.name](streamed.body))
            right = _comparable(door, at_once.json())
            if left != right:
                wrong.append((recording.id, left, right))
        settlements = gateway.settlements
        assert wrong == []
        assert len(settlements) == 2 * len(pairs)
        assert {settlement.outcome.status for settlement in settlements} == {Status.SUCCESS}
        for one, other in zip(settlements[::2], settlements[1::2], strict=True):
            assert (one.usage, one.finish_reason) == (other.usage, other.finish_reason), one.requested_model


def _comparable(door: Door, whole: dict[str, Any]) -> dict[str, Any]:
    """The answer without what is made anew for each request, empty fields left out."""
    if door.name == "messages":
        kept = {name: whole.get(name) for name in ("role", "content", "stop_reason", "stop_sequence", "usage")}
        kept["content"] = [_without_id(block) for block in whole["content"]]
        return kept
    choices = []
    for choice in whole["choices"]:
        message = {name: value for name, value in choice["message"].items() if value}
        message["tool_calls"] = [_call(call) for call in message.get("tool_calls", [])]
        choices.append({"index": choice["index"], "message": message, "finish_reason": choice["finish_reason"]})
    return {"choices": choices, "usage": whole.get("usage")}


def _without_id(block: dict[str, Any]) -> dict[str, Any]:
    """Ollama gives its calls no ids, so ours differ between two requests."""
    return {name: value for name, value in block.items() if name != "id" and value is not None}


def _call(call: dict[str, Any]) -> tuple[str, Any]:
    return call["function"]["name"], json.loads(call["function"]["arguments"] or "{}")


def _one_choice(recording: Recording) -> bool:
    """Messages has one answer to a request: a recording with several choices cannot have been asked for there."""
    return "n>1" not in recording.features
