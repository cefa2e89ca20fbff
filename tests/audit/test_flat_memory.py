"""Reading the log takes as much memory for a million records as for a thousand.

SECURELLM_TEST_SCALE times a million records; the commands run in processes of their own, whose peak is measured.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rig.audit_days import Slot, pair, raw

RECORDS = max(40_000, int(1_000_000 * float(os.environ.get("SECURELLM_TEST_SCALE", "1.0"))))
FEW = 2_000
DEADLINE_S = 300
MORE_AT_MOST_KIB = 16 * 1024  # a record of all these held would be 300 MB
SOURCE = Path(__file__).parent.parent.parent / "src"


def _write_log(directory: Path, records: int) -> None:
    """Days of 100,000 records, in two slots, as a busy gateway writes them."""
    directory.mkdir()
    slots = Slot(directory), Slot(directory, 2)
    for begin in range(0, records, 1_000):
        day = f"2026-11-{1 + begin // 100_000:02d}"
        slot = slots[begin // 1_000 % 2]
        slot.write(
            *(
                one
                for number in range(begin, begin + 1_000, 2)
                for one in pair(
                    f"{day}T{begin // 5_000 % 20:02d}:00:00",
                    f"0198d2e0-0000-7000-8000-{number:012d}",
                    user_id=f"user-{number % 97}",
                    provider="openai",
                    model="gpt-4o-mini",
                    total_tokens=number,
                    cost_nusd=number * 100,
                    duration_ms=raw("123.456"),
                )
            ),
            date=day,
        )


def _peak_kib(directory: Path, *command: str) -> int:
    """The most memory that a command had at once."""
    config = directory.with_suffix(".toml")
    config.write_text(f'state_dir = "{directory.with_suffix(".state")}"\n[audit]\nlog_path = "{directory}"\n')
    environ = {**os.environ, "PYTHONPATH": str(SOURCE)}
    arguments = [sys.executable, "-m", "securellm", "audit", *command, "--config", str(config)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, env=environ)
    guard = threading.Timer(DEADLINE_S, process.kill)
    guard.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        guard.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("flat")
    few, many = directory / "few", directory / "many"
    _write_log(few, FEW)
    _write_log(many, RECORDS)
    return few, many


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("export",),
        ("export", "--format", "csv", "--user", "user-7"),
        ("query", "--files", "--user", "user-7"),
        ("show", "0198d2e0-0000-7000-8000-000000000500"),
        ("tail",),
        ("rebuild",),
    ],
    ids=" ".join,
)
def test_memory_is_flat(logs: tuple[Path, Path], command: tuple[str, ...]) -> None:
    """Each command's peak grows by a few MiB at most from a small log to a large one."""
    few, many = logs
    small_kib, large_kib = _peak_kib(few, *command), _peak_kib(many, *command)
    assert large_kib - small_kib < MORE_AT_MOST_KIB, (small_kib, large_kib, RECORDS)
