"""Real midnights, with the process's clock moved: a new file each day, one chain, and old days go in time.

The clock is moved by libfaketime; the monotonic one stays, so that timers are real.
"""

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from rig import doors, script, speech
from rig.audit_log import actions, read_chain
from rig.books import check_pairs, verify
from rig.fake_provider import FakeProvider
from rig.gateway import PROVIDER_KEY, make_config
from rig.process import Process, open_process
from rig.raw_client import fetch
from rig.waiting import until_true

_CHAT = doors.CHAT
BEFORE_MIDNIGHT_S = 6  # time for the process to start in

pytestmark = [pytest.mark.tool("faketime"), pytest.mark.slow]


@asynccontextmanager
async def serve_at(folder: Path, provider: FakeProvider, time: str) -> AsyncIterator[Process]:
    """A process for which it is that time, UTC, when it starts."""
    make_config(folder, {"openai": provider}, audit={"retention_days": 1})
    preloaded = subprocess.run(
        ["faketime", "-f", "+0", "printenv", "LD_PRELOAD"], capture_output=True, text=True, check=True
    )
    environ = {
        "CONFIG_PATH": str(folder / "config.toml"),
        "RIG_PROVIDER_KEY": PROVIDER_KEY,
        "API_KEYS": doors.KEY,
        "LD_PRELOAD": preloaded.stdout.strip(),
        "FAKETIME": f"@{time}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "TZ": "UTC",
    }
    async with open_process(folder, environ) as process:
        yield process
        assert await process.stop() == 0, process.stderr.decode()


@pytest.mark.parametrize("load", [False, True], ids=["idle", "under load"])
async def test_midnight(tmp_path: Path, provider, load: bool):
    """At midnight UTC the next day's file begins, idle or not; the chain goes on and every request has its pair."""
    provider.default = script.answer(200, speech.CHAT.whole("Hello"))
    log = tmp_path / "log"
    next_day = log / "audit.2026-03-01.log"
    asked = 0

    async def ask_on(process: Process) -> None:
        nonlocal asked
        while not (next_day.exists() and next_day.stat().st_size):
            asked += 1
            response = await fetch(process.base_url, "POST", _CHAT.path, _CHAT.body("openai/m1"), _CHAT.auth())
            assert response.status == 200

    with trio.fail_after(60):
        async with serve_at(tmp_path, provider, f"2026-02-28 23:59:{60 - BEFORE_MIDNIGHT_S:02d}") as process:
            assert {path.name for path in log.glob("*.log")} == {"audit.2026-02-28.log"}
            if load:
                async with trio.open_nursery() as nursery:
                    for _ in range(4):
                        nursery.start_soon(ask_on, process)
            else:
                await until_true(next_day.exists, look_every_s=0.05)
    records = read_chain(log)
    assert len(check_pairs(records)) == asked
    (first,) = [record["timestamp"] for record in map(json.loads, next_day.read_bytes().splitlines()[:1])]
    assert first[:10] == "2026-03-01" or (load and first >= "2026-02-28T23:59:59"), "it was made before its day"
    assert actions(records)[-1] == "writer_stopped"
    assert (log / "audit.2026-02-28.checkpoints").exists()
    assert b"rotation" in (log / "audit.2026-02-28.checkpoints").read_bytes()
    verify(tmp_path)


async def test_old_days_go_and_the_rest_verifies(tmp_path: Path, provider):
    """Three days, one kept: past midnight the oldest are deleted after a signed `pruned`, and what is left verifies."""
    provider.default = script.answer(200, speech.CHAT.whole("Hello"))
    log = tmp_path / "log"
    with trio.fail_after(120):
        for time in ("2026-02-26 12:00:00", "2026-02-27 12:00:00"):
            async with serve_at(tmp_path, provider, time) as process:
                response = await fetch(process.base_url, "POST", _CHAT.path, _CHAT.body("openai/m1"), _CHAT.auth())
                assert response.status == 200
        assert {path.name for path in log.glob("*.log")} == {"audit.2026-02-26.log", "audit.2026-02-27.log"}
        verify(tmp_path)
        async with serve_at(tmp_path, provider, f"2026-02-28 23:59:{60 - BEFORE_MIDNIGHT_S:02d}"):
            await until_true(lambda: not (log / "audit.2026-02-27.log").exists(), look_every_s=0.05)
            await until_true((log / "audit.2026-03-01.log").exists, look_every_s=0.05)
    assert {path.name for path in log.glob("*.log")} == {"audit.2026-02-28.log", "audit.2026-03-01.log"}
    records = read_chain(log)
    assert records[0]["seq"] > 1
    assert actions(records).count("pruned") == 2
    verify(tmp_path)
