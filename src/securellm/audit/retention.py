"""Which files of a slot are too old, and what the chain says before they go.

The record names the last line that goes, so that what is left verifies from there. Logs go oldest first, and then the
checkpoints over them: if that is interrupted, the rest is still one piece of the chain, and nothing is unsigned.
Encrypted bodies lie in a directory a day and go with the day.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from securellm.audit.disk import Disk
from securellm.audit.files import DayFile, date_of, days_before, list_checkpoints, list_logs
from securellm.audit.record import MAX_LINE_BYTES, Record, hash_line, timestamp

CONTENT = "content"


class Retention:
    """The rule of one slot: `days` UTC days are kept, today not counted; 0 keeps everything."""

    def __init__(self, directory: Path, slot: int, days: int, disk: Disk) -> None:
        self._directory = directory
        self._slot = slot
        self._days = days
        self._disk = disk

    def due(self, now_us: int, current: Path) -> tuple[Record, Iterator[None]] | None:
        """The record that has to be on disk first, and then the deleting, a file a step; None when nothing is old.

        Raises OSError.
        """
        if not self._days:
            return None
        oldest_kept = days_before(date_of(now_us), self._days)
        old = [day for day in list_logs(self._directory, self._slot) if day.date < oldest_kept and day.path != current]
        notes = [day for day in list_checkpoints(self._directory, self._slot) if day.date < oldest_kept]
        bodies = [path for path in sorted((self._directory / CONTENT).glob("????-??-??")) if path.name < oldest_kept]
        last = next((line for day in reversed(old) if (line := _last_line(day.path))), None)
        removals = self._remove([*old, *notes], bodies)
        if last is None:
            for _ in removals:  # nothing of the chain goes: empty files, and what an interruption left
                pass
            return None
        detail: dict[str, str | int] = {
            "slot": self._slot,
            "last_seq": _seq_of(last),
            "last_hash": hash_line(last),
            "until": old[-1].date,
        }
        return Record(timestamp(now_us), "security_event", action="pruned", count=len(old), detail=detail), removals

    def _remove(self, files: list[DayFile], bodies: list[Path]) -> Iterator[None]:
        for day in files:
            self._disk.remove(day.path)
            yield
        for directory in bodies:
            for path in directory.iterdir():
                self._disk.remove(path)
                yield
            directory.rmdir()
            yield


class _Placed(msgspec.Struct):
    seq: int


def _seq_of(line: bytes) -> int:
    try:
        return msgspec.json.decode(line, type=_Placed).seq
    except msgspec.DecodeError:
        return 0  # a damaged line; its hash is told all the same


def _last_line(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - MAX_LINE_BYTES - 2))
        return file.read().rstrip(b"\n").rpartition(b"\n")[2]
