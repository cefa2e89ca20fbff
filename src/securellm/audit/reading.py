"""Reads the records of a directory in the order of their times, a line at a time, however large the log is.

Each slot's files are read one after the other, as its chain goes, and the slots are merged by time. What is no record
is left out and counted: saying what is wrong with it is the verifier's task. A line without its end is one that is just
being written.
"""

import heapq
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from securellm.audit.files import DayFile, days_before, list_logs
from securellm.audit.filters import Head
from securellm.audit.record import Record

LATEST_S = 253_402_300_799  # the end of the year 9999
BUFFER_BYTES = 256 * 1024  # of each open file; one a slot is open
FOLLOWED_BYTES = 8 * 1024 * 1024  # at once, of what is new in a file; a line has at most one of these
TAIL_BLOCK_BYTES = 256 * 1024  # read at once from a file's end


class Entry(Record, frozen=True, omit_defaults=True, kw_only=True):
    """A whole record with its place in the chain. Numbers with decimals are floats here: they are to be looked at."""

    v: int
    seq: int
    slot: int
    prev: str
    estimated_cost_usd: float | None = None  # type: ignore[assignment]  # a Raw can be written, not read
    duration_ms: float | None = None  # type: ignore[assignment]  # the same
    first_token_ms: float | None = None  # type: ignore[assignment]  # the same
    attempts: tuple[dict[str, Any], ...] | None = None  # type: ignore[assignment]  # the same is within


class Placed(NamedTuple):
    """A line, without its end, and its head."""

    head: Head
    line: bytes


_decode_head = msgspec.json.Decoder(Head).decode
_decode_entry = msgspec.json.Decoder(Entry).decode


def parse_head(line: bytes) -> Head | None:
    """The head of a line; None when it is no record."""
    try:
        return _decode_head(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def parse_entry(line: bytes) -> Entry | None:
    """The whole record; None when it is none."""
    try:
        return _decode_entry(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def list_slots(directory: Path) -> list[int]:
    """The slots that have a log file. Raises OSError."""
    slots = set()
    for path in directory.iterdir():
        parts = path.name.split(".")
        if parts[0] != "audit" or parts[-1] != "log":
            continue
        if len(parts) == 3:
            slots.add(1)
        elif len(parts) == 4 and parts[2][:1] == "w" and parts[2][1:].isdecimal():
            slots.add(int(parts[2][1:]))
    return sorted(slots)


class Reading:
    """One pass over a directory: iterate it, once. `damaged` counts the lines that were no records. Raises OSError."""

    def __init__(self, directory: Path, *, since: str | None = None) -> None:
        self.damaged = 0
        self._directory = directory
        # A record is written within moments of its time; a day is room enough for a disk that was away at midnight.
        self._oldest = days_before(since[:10], 1) if since is not None else ""

    def __iter__(self) -> Iterator[Placed]:
        slots = [self._read_slot(slot) for slot in list_slots(self._directory)]
        return slots[0] if len(slots) == 1 else heapq.merge(*slots, key=_time_of)

    def _read_slot(self, slot: int) -> Iterator[Placed]:
        for day in list_logs(self._directory, slot):
            if day.date >= self._oldest:
                yield from self._read_file(day.path)

    def _read_file(self, path: Path) -> Iterator[Placed]:
        with path.open("rb", buffering=BUFFER_BYTES) as file:
            for raw in file:
                if not raw.endswith(b"\n"):
                    return
                line = raw[:-1]
                head = parse_head(line)
                if head is None:
                    self.damaged += 1
                else:
                    yield Placed(head, line)


def read_story(directory: Path, request_id: str) -> list[Placed]:
    """Every record of a request, in the order of their times; empty when there is none. Raises OSError.

    Its id says when it began; files from then on are read until its end is found.
    """
    wanted = request_id.encode()
    began = _began(request_id)
    oldest = days_before(began, 1) if began is not None else ""
    story: list[Placed] = []
    for slot in list_slots(directory):
        for day in list_logs(directory, slot):
            if day.date < oldest:
                continue
            found = [placed for placed in _read_containing(day.path, wanted) if placed.head.request_id == request_id]
            story += found
            if any(placed.head.event_type in ("response_sent", "request_failed") for placed in found):
                break
    return sorted(story, key=_time_of)


def read_last(directory: Path, count: int) -> list[Placed]:
    """The newest records, oldest first. Reads from the ends of the files. Raises OSError."""
    newest: list[Placed] = []
    for slot in list_slots(directory):
        found: list[Placed] = []
        for day in reversed(list_logs(directory, slot)):
            if len(found) >= count:
                break
            found = _last_lines(day.path, count - len(found)) + found
        newest += found
    return sorted(newest, key=_time_of)[-count:] if count else []


class Follower:
    """What is written from now on, over midnight and in new slots."""

    def __init__(self, directory: Path) -> None:
        """Begin where the log ends now. Raises OSError."""
        self._directory = directory
        self._places: dict[int, tuple[DayFile, int]] = {}
        for slot in list_slots(directory):
            newest = list_logs(directory, slot)[-1]
            self._places[slot] = (newest, _whole_bytes(newest.path))

    def read(self) -> list[Placed]:
        """What is new, in the order of the times; empty when nothing is. Never waits. Raises OSError."""
        fresh: list[Placed] = []
        for slot in list_slots(self._directory):
            fresh += self._read_slot(slot)
        return sorted(fresh, key=_time_of)

    def _read_slot(self, slot: int) -> list[Placed]:
        days = list_logs(self._directory, slot)
        place = self._places.get(slot)
        day, offset = place if place is not None else (days[0], 0)
        fresh: list[Placed] = []
        for current in days:
            if current < day:
                continue
            if current > day:
                day, offset = current, 0
            lines, offset, is_all = _read_from(day.path, offset)
            fresh += lines
            if not is_all:
                break
        self._places[slot] = (day, offset)
        return fresh


def _time_of(placed: Placed) -> str:
    return placed.head.timestamp


def _began(request_id: str) -> str | None:
    """The UTC date in a UUIDv7; None for any other text."""
    try:
        parsed = uuid.UUID(request_id)
    except ValueError:
        return None
    began_s = (parsed.int >> 80) // 1000
    if parsed.version != 7 or began_s > LATEST_S:
        return None
    return datetime.fromtimestamp(began_s, UTC).date().isoformat()


def _read_containing(path: Path, wanted: bytes) -> Iterator[Placed]:
    with path.open("rb", buffering=BUFFER_BYTES) as file:
        for raw in file:
            if wanted in raw and raw.endswith(b"\n") and (head := parse_head(raw[:-1])) is not None:
                yield Placed(head, raw[:-1])


def _last_lines(path: Path, count: int) -> list[Placed]:
    """The last `count` records of a file."""
    with path.open("rb") as file:
        begin = file.seek(0, 2)
        data = b""
        while begin and data.count(b"\n") <= count:
            step = min(TAIL_BLOCK_BYTES, begin)
            begin -= step
            file.seek(begin)
            data = file.read(step) + data
    lines = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
    return [Placed(head, line) for line in lines[-count:] if (head := parse_head(line)) is not None]


def _whole_bytes(path: Path) -> int:
    """Where the last whole line of a file ends."""
    with path.open("rb") as file:
        begin = file.seek(0, 2)
        while begin:
            step = min(TAIL_BLOCK_BYTES, begin)
            begin -= step
            file.seek(begin)
            at = file.read(step).rfind(b"\n")
            if at >= 0:
                return begin + at + 1
    return 0


def _read_from(path: Path, offset: int) -> tuple[list[Placed], int, bool]:
    """Whole lines behind `offset`, where they end, and whether these are all; what recovery cut off is not missed."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        offset = min(offset, size)
        file.seek(offset)
        data = file.read(FOLLOWED_BYTES)
    whole = data[: data.rfind(b"\n") + 1]
    lines = [Placed(head, line) for line in whole.split(b"\n")[:-1] if (head := parse_head(line)) is not None]
    return lines, offset + len(whole), offset + len(data) >= size
