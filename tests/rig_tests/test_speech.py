"""The answers that scripts are filled with are well formed in their own dialect."""

import json

import pytest
import trio

from rig import doors, pairs, script, speech
from rig.fake_provider import open_fake_provider
from rig.raw_client import fetch
from rig.toml import encode_toml

_CALLS = (speech.Tool("look", '{"at": "x"}'), speech.Tool("wait", "{}"))


@pytest.mark.parametrize("pair", [pair for pair in pairs.STREAMED if pair.same_dialect], ids=str)
def test_streamed_text_equals_whole_text(pair):
    """A door reads the same text from the whole and from the streamed speech of its own dialect."""
    events = pair.speech.events(("Hé", "llo"), () if pair.door.name == "completions" else _CALLS)
    assert pair.door.text_of_whole(pair.speech.whole("Héllo")) == "Héllo"
    assert pair.door.text_of_stream(b"".join(events)) == "Héllo"
    assert events[-1].startswith(pair.door.terminal)


def test_ollama_lines_are_json():
    """Each Ollama frame is one JSON line and only the last is done."""
    lines = speech.OLLAMA.events(("a", "b"), _CALLS)
    assert [json.loads(line)["done"] for line in lines] == [False] * 4 + [True]
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)


@pytest.mark.parametrize("pair", pairs.PAIRS, ids=str)
async def test_scripts_of_pairs_are_http(pair):
    """The script of a pair's good answer is a complete response."""
    with trio.fail_after(5):
        async with open_fake_provider() as provider:
            provider.default = pair.answers(stream_it=pair.speech.events is not None)
            response = await fetch(provider.base_url, "POST", pair.path, pair.door.body(pair.model))
            assert (response.status, response.cut) == (200, None)


def test_toml_of_settings():
    """Settings become TOML that reads back as they were."""
    import tomllib

    sections = {"server": {"port": 1, "x": ["a", "b"]}, "models": {"p/m": {"free": True, "t": 0.25}}}
    assert tomllib.loads(encode_toml(sections)) == sections


def test_every_door_has_a_pair():
    """The table of pairs reaches every front door and every kind of provider."""
    assert {pair.door.name for pair in pairs.PAIRS} == {door.name for door in doors.DOORS}
    assert {pair.provider for pair in pairs.PAIRS} == set(pairs.PROVIDER_KINDS)
    assert script.cut(b"abcd", 2, 0) == [b"ab", b"cd"]
