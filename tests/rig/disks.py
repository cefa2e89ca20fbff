"""Disks for the audit writer: one that fails when it is told to, one that hangs, one that remembers for a crash."""

import errno
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from securellm.audit.disk import Disk, DiskFile, RealDisk

SECTOR_BYTES = 512


class FailingDisk:
    """The real disk, but `fails(n, kind)` decides for the n-th call, from 1, which error it ends with (0: none).

    A write that fails leaves half of its bytes behind, as a full disk does.
    """

    def __init__(self, fails: Callable[[int, str], int]) -> None:
        self.calls = 0
        self.failed = 0
        self._fails = fails
        self._real = RealDisk()

    def check(self, kind: str) -> None:
        self.calls += 1
        if number := self._fails(self.calls, kind):
            self.failed += 1
            raise OSError(number, os.strerror(number))

    def open(self, path: Path) -> DiskFile:
        self.check("open")
        return _FailingFile(self, self._real.open(path))

    def remove(self, path: Path) -> None:
        self.check("remove")
        self._real.remove(path)


class _FailingFile:
    def __init__(self, disk: FailingDisk, real: DiskFile) -> None:
        self._disk = disk
        self._real = real

    def write(self, data: memoryview, offset: int) -> int:
        try:
            self._disk.check("write")
        except OSError:
            self._real.write(data[: len(data) // 2], offset)
            raise
        return self._real.write(data, offset)

    def sync(self) -> None:
        self._disk.check("sync")
        self._real.sync()

    def truncate(self, length: int) -> None:
        self._disk.check("truncate")
        self._real.truncate(length)

    def size(self) -> int:
        return self._real.size()

    def close(self) -> None:
        self._real.close()


class HangingDisk(FailingDisk):
    """The real disk, but while `hang` is set a sync returns only when it is cleared."""

    def __init__(self) -> None:
        super().__init__(self._wait)
        self._goes_on = threading.Event()
        self._goes_on.set()
        self.syncing = threading.Event()

    def hang(self) -> None:
        self._goes_on.clear()

    def go_on(self) -> None:
        self._goes_on.set()

    def _wait(self, _: int, kind: str) -> int:
        if kind == "sync" and not self._goes_on.is_set():
            self.syncing.set()
            self._goes_on.wait(20)
        return 0


class Step(NamedTuple):
    """What reached the system: `kind` is write, truncate, sync or remove; a new file is its first step."""

    kind: str
    path: Path
    offset: int = 0
    data: bytes = b""


class RecordingDisk:
    """The real disk without waiting for it, remembering each step; `syncs=False` is a writer that forgot to sync."""

    def __init__(self, *, syncs: bool = True) -> None:
        self.steps: list[Step] = []
        self._syncs = syncs
        self._real = RealDisk()

    def open(self, path: Path) -> DiskFile:
        if not path.exists():
            self.steps.append(Step("create", path))
        return _RecordingFile(self.steps, path, self._real.open(path), syncs=self._syncs)

    def remove(self, path: Path) -> None:
        self.steps.append(Step("remove", path))
        self._real.remove(path)


class _RecordingFile:
    def __init__(self, steps: list[Step], path: Path, real: DiskFile, *, syncs: bool) -> None:
        self._steps = steps
        self._path = path
        self._real = real
        self._syncs = syncs

    def write(self, data: memoryview, offset: int) -> int:
        self._steps.append(Step("write", self._path, offset, bytes(data)))
        return self._real.write(data, offset)

    def sync(self) -> None:
        if self._syncs:
            self._steps.append(Step("sync", self._path))

    def truncate(self, length: int) -> None:
        self._steps.append(Step("truncate", self._path, length))
        self._real.truncate(length)

    def size(self) -> int:
        return self._real.size()

    def close(self) -> None:
        self._real.close()


def image_after_crash(steps: list[Step], dice: random.Random) -> dict[Path, bytes]:
    """What may be on disk when the machine dies after these steps: what was synced, and any part of the rest.

    A new name is on disk at once, because opening it syncs the directory. Of every step that was not synced each
    sector may or may not have arrived, in any order.
    """
    names = {step.path for step in steps if step.kind == "create"}
    names -= {step.path for step in steps if step.kind == "remove"}
    return {path: _file_after_crash([step for step in steps if step.path == path], dice) for path in sorted(names)}


def _file_after_crash(steps: list[Step], dice: random.Random) -> bytes:
    synced = max((place for place, step in enumerate(steps) if step.kind == "sync"), default=-1)
    content = bytearray()
    for step in steps[: synced + 1]:
        _apply(content, step)
    arrives = dice.choice((0.0, 0.5, 1.0, 1.0))
    for step in steps[synced + 1 :]:
        if step.kind == "truncate":
            if dice.random() < arrives:
                _apply(content, step)
            continue
        for start in range(0, len(step.data), SECTOR_BYTES):
            if dice.random() < arrives:
                end = min(start + SECTOR_BYTES, len(step.data))
                if end == len(step.data):
                    end -= dice.choice((0, 0, dice.randrange(end - start)))
                _apply(content, Step("write", step.path, step.offset + start, step.data[start:end]))
    return bytes(content)


def _apply(content: bytearray, step: Step) -> None:
    if step.kind == "truncate":
        del content[step.offset :]
        content.extend(bytes(step.offset - len(content)))
    elif step.kind == "write":
        content.extend(bytes(max(0, step.offset - len(content))))
        content[step.offset : step.offset + len(step.data)] = step.data


def fail_call(wanted: int, number: int = errno.EIO) -> Callable[[int, str], int]:
    """For FailingDisk: one call fails, all others work."""
    return lambda call, _: number if call == wanted else 0


REAL: Disk = RealDisk()
