"""Counters in plain memory: a cell is eight bytes, counting is adding to it, and any process can read the cells of all.

Each worker has a file of its own in `<state>/run`, mapped into memory, and is the only one that writes it; whoever is
asked for the metrics adds up the files. So counting costs no lock and no call, a worker that is killed takes no count
with it, and the one in its place goes on counting where it stopped: a sum never falls. A process that serves alone has
the same cells in memory of its own.

    file    8 bytes: how much of it is used | entries
    entry   4 bytes: length of the key | 4 bytes: number of cells | the key, up to a multiple of 8 | the cells (float64)

prometheus_client's own mode for several processes does the same with files by process id, whose number grows with every
worker that is replaced; it counts twenty times as slowly.
"""

import bisect
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

FILE_BYTES = 2 * 1024 * 1024  # sparse: what is not used takes no room; ten thousand counters fit
FILE_MODE = 0o600
UNKNOWN = float("nan")  # a gauge that this worker has not set

_HEAD = struct.Struct("<Q")
_ENTRY = struct.Struct("<II")
_NAME = re.compile(r"metrics\.w\d+")

Key = tuple[str, tuple[str, ...]]  # the metric, and the values of its labels
Merge = Callable[[Sequence[float]], float]


class Cells:
    """The cells of one process. Write them in one thread only."""

    def __init__(self, memory: "mmap.mmap | bytearray") -> None:
        self._memory = memory
        self._places = {key: first for key, first, _ in _entries(memory)}
        self._used = max(_HEAD.size, _HEAD.unpack_from(memory)[0])
        self.values = memoryview(memory).cast("d")

    def __repr__(self) -> str:
        return f"<Cells {len(self._places)} entries, {self._used} of {len(self._memory)} bytes>"

    def claim(self, key: Key, count: int) -> int:
        """The index of the first of its cells; they are 0 when nobody had them before."""
        first = self._places.get(key)
        if first is None:
            text = msgspec.json.encode(key)
            padded = -(-len(text) // 8) * 8
            cells_at = self._used + _ENTRY.size + padded
            end = cells_at + count * 8
            if end > len(self._memory):
                raise MemoryError(f"no room for {key[0]} in {len(self._memory)} bytes of metrics")
            _ENTRY.pack_into(self._memory, self._used, len(text), count)
            self._memory[self._used + _ENTRY.size : self._used + _ENTRY.size + len(text)] = text
            self._used = end
            _HEAD.pack_into(self._memory, 0, end)  # last: a reader, or a successor, sees whole entries only
            first = self._places[key] = cells_at // 8
        return first

    def read(self) -> dict[Key, list[float]]:
        """Every key with its cells."""
        return _read(self._memory)


def open_cells(run_dir: Path | None, slot: int) -> Cells:
    """The cells of a worker, as its predecessor left them; without a directory, new ones in memory."""
    if run_dir is None:
        # Mapped, too: a bytearray of that size is written with zeroes and resident as a whole, a map where it is used.
        return Cells(mmap.mmap(-1, FILE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    handle = os.open(run_dir / f"metrics.w{slot}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        os.ftruncate(handle, FILE_BYTES)
        return Cells(mmap.mmap(handle, FILE_BYTES))
    finally:
        os.close(handle)


def read_others(run_dir: Path | None, slot: int) -> list[dict[Key, list[float]]]:
    """What all other workers have counted, dead ones included."""
    if run_dir is None:
        return []
    found = []
    for path in sorted(run_dir.iterdir()):
        if _NAME.fullmatch(path.name) and path.name != f"metrics.w{slot}":
            data = path.read_bytes()
            if len(data) == FILE_BYTES:  # else it is being made
                found.append(_read(data))
    return found


class Counter:
    """One series that only grows."""

    __slots__ = ("_values", "at")

    def __init__(self, cells: Cells, key: Key) -> None:
        self.at = cells.claim(key, 1)  # its cell
        self._values = cells.values

    def inc(self, amount: float = 1.0) -> None:
        """Add to it."""
        self._values[self.at] += amount


class Gauge:
    """One series that is set; unknown until then, also when a predecessor had set it."""

    __slots__ = ("_values", "at")

    def __init__(self, cells: Cells, key: Key) -> None:
        self.at = cells.claim(key, 1)
        self._values = cells.values
        self._values[self.at] = UNKNOWN

    def set(self, value: float) -> None:
        """It is this now."""
        self._values[self.at] = value


class Histogram:
    """One series of observations, by bounds: a cell for each bucket, one for what is above, one for the sum."""

    __slots__ = ("_bounds", "_values", "at")

    def __init__(self, cells: Cells, key: Key, bounds: tuple[float, ...]) -> None:
        self.at = cells.claim(key, len(bounds) + 2)  # the first of its cells
        self._bounds = bounds
        self._values = cells.values

    def observe(self, value: float) -> None:
        """Count it in its bucket."""
        self._values[self.at + bisect.bisect_left(self._bounds, value)] += 1.0
        self._values[self.at + len(self._bounds) + 1] += value


def merge(parts: Sequence[dict[Key, list[float]]], merges: dict[str, Merge]) -> dict[Key, list[float]]:
    """All workers as one: counts are added, and gauges merged as `merges` says by metric. Unknown ones are left out."""
    merged: dict[Key, list[float]] = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        found = [part[key] for part in parts if key in part]
        how = merges.get(key[0], sum)
        columns = ([value for value in column if value == value] for column in zip(*found, strict=False))
        cells = [how(column) for column in columns if column]
        if cells:
            merged[key] = cells
    return merged


def _read(memory: "mmap.mmap | bytearray | bytes") -> dict[Key, list[float]]:
    return {key: list(struct.unpack_from(f"<{count}d", memory, first * 8)) for key, first, count in _entries(memory)}


def _entries(memory: "mmap.mmap | bytearray | bytes") -> Iterator[tuple[Key, int, int]]:
    used = _HEAD.unpack_from(memory)[0]
    at = _HEAD.size
    while at < used:
        length, count = _ENTRY.unpack_from(memory, at)
        text = bytes(memory[at + _ENTRY.size : at + _ENTRY.size + length])
        first = at + _ENTRY.size + -(-length // 8) * 8
        name, labels = msgspec.json.decode(text, type=tuple[str, tuple[str, ...]])
        yield (name, labels), first // 8, count
        at = first + count * 8
