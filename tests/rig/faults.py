"""A gateway process whose writes, syncs and sends are told in their order, and whose disk fails when it is told to.

`faults.c` is compiled and preloaded: what it sees is what the process asked of the system, whoever in it asked.
"""

import errno
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("faults.c")


class Told(NamedTuple):
    """One call. `kind` is write, sync, truncate or send; `name` the file's, without its directory."""

    kind: str
    fd: int
    offset: int
    data: bytes
    name: str


class Faults:
    """What is preloaded into one process, and how to steer it."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._library = library
        self._directory = folder / "log"
        self._order = folder / "order"
        self._control = folder / "control"
        self.heal()

    def environ(self, *, syncs: bool = True) -> dict[str, str]:
        """For the process."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAULTS_DIRECTORY": str(self._directory),
            "FAULTS_LOG": str(self._order),
            "FAULTS_CONTROL": str(self._control),
            **({} if syncs else {"FAULTS_NO_SYNC": "1"}),
        }

    def heal(self) -> None:
        """The disk works."""
        self._say("ok")

    def fail(self, number: int = errno.EIO) -> None:
        """Every write and sync fails from now on."""
        self._say(f"fail {number}")

    def slow(self, pause_s: float) -> None:
        """Every sync takes so long from now on."""
        self._say(f"slow {round(pause_s * 1000)}")

    def fail_call(self, kind: str, number: int, error: int = errno.EIO) -> None:
        """The so-manyeth write, or sync, from now on fails."""
        self._say(f"{kind} {number} {error}")

    def told(self) -> list[Told]:
        """What has been told so far."""
        data = self._order.read_bytes() if self._order.exists() else b""
        calls, at = [], 0
        while at < len(data):
            end = data.index(b"\n", at)
            kind, fd, offset, length, path = data[at:end].decode().split(" ", 4)
            stop = end + 1 + int(length)
            calls.append(Told(kind, int(fd), int(offset), data[end + 1 : stop], Path(path).name if path else ""))
            at = stop + 1
        return calls

    def _say(self, line: str) -> None:
        fresh = self._control.with_suffix(".new")
        fresh.write_text(line + "\n")
        fresh.replace(self._control)  # never seen half written


class SyncedDisk:
    """The files as they are on disk if the machine dies now: what was written and then synced, and nothing else."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}
        self._waiting: dict[str, list[Told]] = {}

    def take(self, call: Told) -> None:
        """Follow one call."""
        if call.kind in ("write", "truncate"):
            self._waiting.setdefault(call.name, []).append(call)
        elif call.kind == "sync":
            content = self.files.setdefault(call.name, bytearray())
            for step in self._waiting.pop(call.name, []):
                if step.kind == "truncate":
                    del content[step.offset :]
                else:
                    content[step.offset : step.offset + len(step.data)] = step.data

    def copy(self) -> "SyncedDisk":
        """As it is now."""
        other = SyncedDisk()
        other.files = {name: bytearray(content) for name, content in self.files.items()}
        return other

    def records(self) -> bytes:
        """All logs, one after the other."""
        return b"".join(bytes(self.files[name]) for name in sorted(self.files) if name.endswith(".log"))

    def lay_out(self, directory: Path) -> None:
        """Write the files there."""
        directory.mkdir(mode=0o700)
        for name, content in self.files.items():
            (directory / name).write_bytes(content)


def compile_faults(folder: Path) -> Path:
    """The library."""
    library = folder / "faults.so"
    flags: Sequence[str] = ("-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(SOURCE), "-ldl")
    subprocess.run(["cc", *flags], check=True, capture_output=True, timeout=60)
    return library
