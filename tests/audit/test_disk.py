"""The real disk: what is asked of the system, in which order."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from securellm.audit.disk import RealDisk, write_all

SCRIPT = """
import sys, trio
from pathlib import Path
from rig.audit_log import Clock, intent, sent, settings
from securellm.audit.log import open_audit_log

async def main():
    async with open_audit_log(settings(Path(sys.argv[1])), now_us=Clock()) as log:
        for number in range(5):
            reservation = log.reserve()
            await reservation.append(intent(f"r{number}")).durable()
            reservation.append(sent(f"r{number}"))
            reservation.close()

trio.run(main)
"""


@pytest.mark.tool("strace")
def test_the_system_is_asked_to_sync(tmp_path: Path) -> None:
    """Seen from outside: a new name is synced with its directory, each write is followed by fdatasync of its file."""
    root = Path(__file__).parents[2]
    directory, trace = tmp_path / "log", tmp_path / "trace"
    calls = "trace=openat,pwrite64,fsync,fdatasync"
    subprocess.run(
        ["strace", "-f", "-y", "-o", str(trace), "-e", calls, sys.executable, "-c", SCRIPT, str(directory)],
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root / 'tests'}"},
        check=True,
        timeout=60,
    )
    found = []
    for line in trace.read_text().splitlines():
        if match := re.search(rf"(openat|pwrite64|fsync|fdatasync)\(.*?{re.escape(str(directory))}(/[\w.-]*)?", line):
            made = match[1] == "openat" and "O_CREAT" in line
            if match[1] != "openat" or made:
                found.append((match[1], match[2] or ""))
    log = "/audit.2026-11-18.log"
    assert found.index(("openat", log)) < found.index(("fsync", "")) < found.index(("pwrite64", log))
    of_log = [call for call, path in found if path == log and call != "openat"]
    assert len(of_log) >= 10
    assert of_log == ["pwrite64", "fdatasync"] * (len(of_log) // 2)


def test_a_file_is_written_at_places(tmp_path: Path) -> None:
    """What a failed attempt left is written over; a file that is there is opened as it is."""
    path = tmp_path / "file"
    file = RealDisk().open(path)
    write_all(file, b"0123456789", 0)
    write_all(file, b"abc", 5)
    assert file.size() == 10
    file.truncate(8)
    file.close()
    assert path.read_bytes() == b"01234abc"
    again = RealDisk().open(path)
    assert again.size() == 8
    again.close()
    RealDisk().remove(path)
    RealDisk().remove(path)
    assert not path.exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A link in place of a log does not make the gateway write elsewhere."""
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        RealDisk().open(tmp_path / "link")
