"""Recorded traffic through the gateway, same dialect on both sides: bodies byte for byte, both ways (guarantee 12).

The recording plays the provider and its request is the caller's. The only differences allowed are the named ones:
`include_usage` spliced into a stream's request, and the usage-only chunk that this causes removed from the answer.
"""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import trio

from rig import doors, script
from rig.doors import Door
from rig.replay import RAW, Recording, corpus_is_there, load_recordings, open_replay

pytestmark = pytest.mark.corpus

_LEFT_OUT = Path(__file__).with_name("left_out.tsv")
_LEFT_OUT_COUNT = 8
_DOORS = {
    "chat.completions": doors.CHAT,
    "messages": doors.MESSAGES,
    "embeddings": doors.EMBEDDINGS,
    "responses": doors.RESPONSES,
}
_SUFFIXES = {"chat.completions": "/chat/completions"}
# Recorded providers that are adapters of ours at this endpoint; any other is openai-compatible.
_KINDS = ("openai", "anthropic", "deepseek", "groq", "mistral", "openrouter", "llamacpp")
_OTHERS = {("responses", "deepseek"), ("chat.completions", "ollama")}  # our adapters ask these elsewhere
_USAGE_ALWAYS = ("mistral",)  # its quirk: `include_usage` is never spliced in
_EVENT = re.compile(rb"(?<=\n\n)|(?<=\r\n\r\n)")


def _left_out() -> dict[str, str]:
    lines = _LEFT_OUT.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "id\treason"
    return dict(line.split("\t") for line in lines[1:])


def _groups() -> dict[tuple[str, str], list[Recording]]:
    groups: dict[tuple[str, str], list[Recording]] = {}
    if corpus_is_there():
        left_out = _left_out()
        for recording in load_recordings(*_DOORS):
            if recording.id not in left_out:
                groups.setdefault((recording.endpoint, recording.provider), []).append(recording)
    return groups


_GROUPS = _groups()


@pytest.mark.parametrize("group", sorted(_GROUPS), ids="-".join)
async def test_bodies_are_byte_identical(serving, provider, group: tuple[str, str]):
    """Every raw recording of a provider at an endpoint: request and answer arrive as they were recorded."""
    endpoint, name = group[0], _name_of(*group)
    door = _DOORS[endpoint]
    chance = random.Random(f"{endpoint} {name}")
    wrong: list[tuple[str, str]] = []
    for prefix, recordings in _by_prefix(_GROUPS[group]).items():
        with trio.fail_after(60):
            gateway = await serving({name: provider.base_url + prefix}, providers=_settings(name))
            for recording in recordings:
                provider.enqueue(*_replayed(recording, chance))
                response = await gateway.ask(door, recording.request, {"x-provider": name})
                sent = provider.asked[-1]
                if response.status != recording.status:
                    wrong.append((recording.id, f"status {response.status}: {response.body[:300]!r}"))
                elif response.body != _expected(recording, name):
                    wrong.append((recording.id, _first_difference(response.body, _expected(recording, name))))
                elif (why := _wrong_request(recording, sent.body, name)) is not None:
                    wrong.append((recording.id, why))
                elif prefix and sent.path != recording.path.partition("?")[0]:
                    wrong.append((recording.id, f"asked at {sent.path}, recorded at {recording.path}"))
            await gateway.settled(len(recordings))
            assert len(gateway.settlements) == len(recordings)
            await gateway.stop()
    assert wrong == []


@pytest.mark.parametrize("chunk", ["event", "13"])
async def test_streams_from_the_replay_server(serving, chunk: str):
    """The streams of OpenAI and Anthropic once more, from the replay server in its own process."""
    wrong: list[str] = []
    with trio.fail_after(120):
        async with open_replay(chunk=chunk) as replay:
            gateway = await serving({"openai": replay.base_url, "anthropic": replay.base_url})
            for (_, name), recordings in sorted(_GROUPS.items()):
                for recording in recordings:
                    if name not in ("openai", "anthropic") or not recording.streamed or recording.content_type is None:
                        continue  # without a recorded content-type the replay server says JSON
                    await replay.queue([recording.id])
                    door = _DOORS[recording.endpoint]
                    response = await gateway.ask(door, recording.request, {"x-provider": name})
                    if response.body != _expected(recording, name):
                        wrong.append(recording.id)
    assert wrong == []


@pytest.mark.parametrize(
    "recording",
    [r for r in load_recordings(*_DOORS) if r.status in (401, 403)] if corpus_is_there() else [],
    ids=lambda r: r.id,
)
async def test_refused_keys_are_the_operators(serving, provider, recording: Recording):
    """A recorded 401 is about the operator's key: 502 `upstream_auth`, and none of its text reaches the caller."""
    door, name = _DOORS[recording.endpoint], _name_of(recording.endpoint, recording.provider)
    provider.default = script.answer(recording.status, recording.response)
    with trio.fail_after(10):
        gateway = await serving({name: provider.base_url + "/v1"}, providers=_settings(name))
        response = await gateway.ask(door, recording.request, {"x-provider": name})
        assert response.status == 502
        assert door.error_of(response)["code"] == "upstream_auth"
        assert json.loads(recording.response).get("error") != response.json()["error"]


async def test_a_stream_that_begins_with_an_error(serving, provider):
    """The recorded stream whose first word is an error never becomes a 200: a status and the message do."""
    (recording,) = [r for r in load_recordings("responses") if "unknown-error" in r.id]
    provider.default = _replayed(recording, random.Random(1))
    with trio.fail_after(10):
        gateway = await serving({"openai": provider})
        response = await gateway.ask(doors.RESPONSES, recording.request, {"x-provider": "openai"})
        assert response.status >= 400
        assert doors.RESPONSES.error_of(response)["message"] == "Foobar"


def test_what_is_left_out_is_pinned():
    """Recordings are left out by name and reason only, and their number is known."""
    left_out = _left_out()
    assert len(left_out) == _LEFT_OUT_COUNT
    assert all(reason for reason in left_out.values())
    every = {recording.id for recording in load_recordings(*_DOORS)}
    assert set(left_out) <= every
    assert sum(map(len, _GROUPS.values())) == len(every) - _LEFT_OUT_COUNT
    index = (_LEFT_OUT.parents[3] / "shared" / "corpus" / "INDEX.tsv").read_text(encoding="utf-8").splitlines()
    rows = [row.split("\t") for row in index[1:]]
    assert len(every) == sum(row[3] in _DOORS and row[7] in RAW for row in rows)


def _name_of(endpoint: str, provider: str) -> str:
    """What the recorded provider is called here: an adapter's name means that adapter."""
    return f"recorded-{provider}" if (endpoint, provider) in _OTHERS or provider not in _KINDS else provider


def _settings(name: str) -> dict[str, Any]:
    also = {} if name in _KINDS else {"endpoints": ["responses"]}
    return {name: {"circuit_breaker": {"failure_threshold": 1000}, **also}}


def _by_prefix(recordings: list[Recording]) -> dict[str, list[Recording]]:
    """The recordings by what stands before the endpoint in their path: a gateway's base URL has one such prefix."""
    found: dict[str, list[Recording]] = {}
    for recording in recordings:
        suffix = _SUFFIXES.get(recording.endpoint, f"/{recording.endpoint}")
        path = recording.path.partition("?")[0]
        assert path.endswith(suffix), recording
        found.setdefault(path.removesuffix(suffix), []).append(recording)
    return found


def _replayed(recording: Recording, chance: random.Random) -> list[script.Step]:
    headers = {
        "content-type": recording.content_type or ("text/event-stream" if recording.streamed else "application/json")
    }
    if not recording.streamed:
        return script.answer(recording.status, recording.response, headers)
    size = len(recording.response)
    places = sorted(chance.sample(range(1, size), min(size - 1, 25)))
    return script.stream(script.cut(recording.response, *places), recording.kind, headers)


def _usage_injected(recording: Recording, name: str) -> bool:
    """Whether the gateway had to ask for usage itself."""
    if not recording.streamed or recording.endpoint != "chat.completions" or name in _USAGE_ALWAYS:
        return False
    return not (recording.asked.get("stream_options") or {}).get("include_usage")


def _expected(recording: Recording, name: str) -> bytes:
    if not _usage_injected(recording, name):
        return recording.response
    return b"".join(event for event in _EVENT.split(recording.response) if not _is_usage_only(event))


def _is_usage_only(event: bytes) -> bool:
    if not event.startswith(b"data: {"):
        return False
    value = json.loads(event.removeprefix(b"data: "))
    return value.get("choices") == [] and value.get("usage") is not None


def _wrong_request(recording: Recording, sent: bytes, name: str) -> str | None:
    if not _usage_injected(recording, name):
        return None if sent == recording.request else _first_difference(sent, recording.request)
    at = next(
        (n for n, (a, b) in enumerate(zip(sent, recording.request, strict=False)) if a != b), len(recording.request)
    )
    kept = len(recording.request) - at
    inserted = sent[at : len(sent) - kept]
    if sent[:at] + sent[len(sent) - kept :] != recording.request or b"include_usage" not in inserted:
        return f"expected one insertion, got {inserted[:200]!r}"
    options = {**(recording.asked.get("stream_options") or {}), "include_usage": True}
    return None if json.loads(sent) == {**recording.asked, "stream_options": options} else "not the same JSON"


def _first_difference(got: bytes, expected: bytes) -> str:
    at = next((n for n, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b), min(len(got), len(expected)))
    return f"at {at}: got {got[at : at + 80]!r}, expected {expected[at : at + 80]!r}"


def test_the_doors_are_those_of_the_rig():
    """Each recorded endpoint of this suite is a door that the rig knows."""
    assert all(isinstance(door, Door) for door in _DOORS.values())
