"""kill -9 under load, again and again: whatever was said to be durable is in the log, and the log verifies."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from rig.audit_log import actions, closings, problems, read_chain, settings
from securellm.audit.log import open_audit_log

KILLS = int(os.environ.get("SECURELLM_KILLS", "8"))  # 200 and more by hand


@pytest.mark.slow
def test_killed_processes_lose_nothing(tmp_path: Path) -> None:
    """Each start takes over what the one before left; every request ends exactly once."""
    dice = random.Random(9)
    told: set[tuple[str, str]] = set()
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root / 'tests'}"}
    for number in range(KILLS):
        command = [sys.executable, "-m", "rig.audit_process", str(tmp_path / "log"), str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline()]  # it is running, under load
            time.sleep(dice.random() * 0.2)  # any moment will do
            process.kill()
            lines += process.stdout.readlines()
        told |= {tuple(line.decode().split()) for line in lines if line.endswith(b"\n")}  # type: ignore[misc]
    trio.run(_take_over, tmp_path / "log")
    records = read_chain(tmp_path / "log")
    assert len(told) > 5 * KILLS
    assert told <= {(record.get("request_id", ""), record["event_type"]) for record in records}
    assert {len(ends) for ends in closings(records).values()} == {1}
    assert any("interrupted" in ends for ends in closings(records).values())
    assert problems(tmp_path / "log") == []
    assert actions(records).count("writer_started") == KILLS + 1


async def _take_over(directory: Path) -> None:
    with trio.fail_after(20):
        async with open_audit_log(settings(directory), now_us=lambda: time.time_ns() // 1000):
            pass
