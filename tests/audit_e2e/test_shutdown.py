"""A process that is told to stop: whatever is open leaves its pair, in every way of stopping (3)."""

import signal
from pathlib import Path

import pytest
import trio

from rig import doors, script, speech
from rig.audit_log import actions, read_chain
from rig.books import check_pairs, verify
from rig.fake_provider import FakeProvider
from rig.gateway import PROVIDER_KEY, make_config
from rig.process import open_process
from rig.raw_client import open_client

_CHAT = doors.CHAT
_STREAMS = 3


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "two signals"])
async def test_stopping_with_requests_open(tmp_path: Path, provider: FakeProvider, how: str):
    """Streams that are open and requests that wait are closed in the log, as shutdown or as cut; nothing is left open,
    and the last record says that the writer stopped."""
    events = speech.CHAT.events(("Hel", "lo"))
    streamed = [*script.stream(events[:2], ended=False), script.never()]
    provider.choose = lambda request: streamed if request.json().get("stream") else [script.never()]
    make_config(tmp_path, {"openai": provider}, drain={"term_s": 0.2, "interrupt_s": 0.2})
    environ = {
        "CONFIG_PATH": str(tmp_path / "config.toml"),
        "RIG_PROVIDER_KEY": PROVIDER_KEY,
        "API_KEYS": doors.KEY,
    }
    with trio.fail_after(60):
        async with open_process(tmp_path, environ) as process:
            async with trio.open_nursery() as nursery:
                begun = [trio.Event() for _ in range(_STREAMS)]
                for one in begun:
                    nursery.start_soon(_read_on, process.base_url, one)
                nursery.start_soon(_wait, process.base_url)
                for one in begun:
                    await one.wait()
                await provider.arrived(_STREAMS + 1)
                process.process.send_signal(signal.SIGINT if how == "SIGINT" else signal.SIGTERM)
                if how == "two signals":
                    process.process.send_signal(signal.SIGINT)
            assert await process.process.wait() == 0, process.stderr.decode()
    records = read_chain(tmp_path / "log")
    entries = check_pairs(records)
    assert len(entries) == _STREAMS + 1
    assert {entry.closing["status"] for entry in entries.values()} <= {"shutdown", "cancelled"}
    if how != "two signals":
        assert {entry.closing["status"] for entry in entries.values()} == {"shutdown"}
    for entry in entries.values():
        assert (entry.closing.get("completion_tokens", 0) > 0) is entry.intent["stream"]
    assert actions(records)[-1] == records[-1]["action"] == "writer_stopped"
    assert verify(tmp_path).open_requests == 0


async def _read_on(base_url: str, begun: trio.Event) -> None:
    async with open_client(base_url) as client:
        await client.request("POST", _CHAT.path, _CHAT.body("openai/m1", stream=True), _CHAT.auth())
        await client.read_head()
        delivered = await client.read_until(b"Hel")
        begun.set()
        assert _CHAT.terminal not in delivered + await client.read_eof()


async def _wait(base_url: str) -> None:
    async with open_client(base_url) as client:
        await client.request("POST", _CHAT.path, _CHAT.body("openai/m1"), _CHAT.auth())
        await client.read_eof()
