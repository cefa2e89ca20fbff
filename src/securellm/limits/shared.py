"""Limits counted in memory that the workers of one machine share: exact, without a server and without a hop.

The memory is a file that every worker maps; `_fast/gcra_py.py` says what stands in it. The first to come makes it. Its
header tells how it is made and which twin decides in it, since the two keep each other out by different means, and a
worker that does not match refuses to attach.

The pure twin decides under flock(2), which the kernel releases when a worker dies. The compiled one takes a word in the
memory by compare-and-exchange, and takes it over from a worker that is dead. Nobody waits for longer than LOCK_WAIT_S:
a worker that is stopped in the middle of a decision must not stop the others, and what is at stake then is one count.

Each worker keeps a record lock on the byte of its slot, by which the others see that it lives. Whatever a dead worker
held of a limit on requests at one time is given back: by the next one in its slot, or by any that meets the limit.
"""

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from securellm._fast import gcra
from securellm.errors import ConfigError
from securellm.limits.quota import (
    Demands,
    Denied,
    Levels,
    Measure,
    Never,
    Short,
    StoreStatistics,
    find_refusal,
    refuse,
)

ROWS = 131_072  # buckets that are not full; 3 MiB, of which only what is used takes memory
COUNT_ROWS = 16_384  # buckets of which requests are being served now
LOCK_WAIT_S = 0.25  # ten thousand times what a decision takes
LOOK_FOR_DEAD_US = 100_000  # between two looks, when limits on requests at one time are met

_MAGIC = b"SLBlimit"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQQQ")  # magic, version, implementation, rows, rows of counts, workers
_IMPLEMENTATIONS = {"pure": 1, "compiled": 2}
_SLOT_LOCKS_AT = 1 << 40  # far past the file's end, where a lock may be all the same
_OFD_LOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid
_BRIEF_TRIES = 20
_BRIEF_SLEEP_S = 0.000_05


@contextmanager
def open_shared_store(path: Path, slot: int, workers: int, *, twin: ModuleType = gcra) -> Iterator["SharedStore"]:
    """Attach to the table at `path` as worker `slot` of `workers`, from 1; makes it if need be. Raises ConfigError.

    Its directory is the owner's alone. A forked process attaches for itself. `twin` is `_fast.gcra` but in a test.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise ConfigError(f"the table of limits {path} cannot be opened: {_reason(exc)}") from exc
    try:
        if not _lock_slot(descriptor, slot, wait_s=LOCK_WAIT_S):
            raise ConfigError(f"the table of limits {path} is in use by another worker {slot}")
        try:
            size_bytes = gcra.table_bytes(ROWS, COUNT_ROWS, workers)
            _make_or_check(descriptor, path, size_bytes, workers, twin)
            memory = mmap.mmap(descriptor, size_bytes)
        except OSError as exc:
            raise ConfigError(f"the table of limits {path} cannot be used: {_reason(exc)}") from exc
        store = SharedStore(descriptor, memory, slot, workers, twin)
        try:
            yield store
        finally:
            store._close()
            memory.close()
    finally:
        os.close(descriptor)


class SharedStore:
    """One worker's view of the buckets. Made by `open_shared_store`."""

    def __init__(self, descriptor: int, memory: mmap.mmap, slot: int, workers: int, twin: ModuleType) -> None:
        self._descriptor = descriptor
        self._slots = [other for other in range(1, workers + 1) if other != slot]
        self._slot = slot
        self._looked_us = 0
        self._now_us = 0
        self._table: gcra.Table = twin.Table(
            memoryview(memory), ROWS, COUNT_ROWS, workers, slot, self._acquire, self._release, self._is_alive
        )
        self._table.forget_worker(slot)

    def __repr__(self) -> str:
        """What an operator may see."""
        return f"<SharedStore worker {self._slot} {self.statistics()}>"

    def take(self, demands: Demands, tokens: int, now_us: int) -> Levels | Denied | Never | Short:
        """See Store."""
        self._now_us = now_us
        levels = self._table.take(demands, tokens, now_us)
        if isinstance(levels, tuple):
            return levels
        refusal = refuse(demands, tokens, now_us, levels)
        if self._bury_the_dead(refusal, now_us):
            return self.take(demands, tokens, now_us)
        return refusal

    def would_allow(self, demands: Demands, tokens: int, now_us: int) -> Denied | Never | Short | None:
        """See Store."""
        return find_refusal(demands, tokens, now_us, self._table.levels(demands))

    def give_back(self, demands: Demands, levels: Levels, tokens: int, now_us: int, *, requests: bool = False) -> None:
        """See Store."""
        self._table.give_back(demands, levels, tokens, now_us, requests)

    async def refill(self, short: Short) -> None:
        """See Store: here everything is always at hand."""

    def statistics(self) -> StoreStatistics:
        """See Store."""
        return StoreStatistics("shared", self._table.used(self._now_us), ROWS + COUNT_ROWS, self._table.forgotten)

    def _bury_the_dead(self, refusal: Denied | Never, now_us: int) -> bool:
        """Give back what dead workers hold, when it may be at fault; whether anybody is."""
        if refusal.demand.measure is not Measure.CONCURRENT or now_us - self._looked_us < LOOK_FOR_DEAD_US:
            return False
        self._looked_us = now_us
        found = False
        for slot in self._slots:
            if _lock_slot(self._descriptor, slot):  # so that nobody begins in it meanwhile
                self._table.forget_worker(slot)
                _unlock_slot(self._descriptor, slot)
                found = True
        return found

    def _is_alive(self, slot: int) -> bool:
        answer = fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, _slot_lock(fcntl.F_WRLCK, slot))
        return bool(_OFD_LOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def _acquire(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _wait_for_lock(self._descriptor)

    def _release(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _close(self) -> None:
        self._table.forget_worker(self._slot)
        self._table.close()


def _make_or_check(descriptor: int, path: Path, size_bytes: int, workers: int, twin: ModuleType) -> None:
    """Give a new file its header, or compare that of an old one. Raises ConfigError, OSError."""
    ours = (_MAGIC, _VERSION, _IMPLEMENTATIONS[twin.IMPLEMENTATION], ROWS, COUNT_ROWS, workers)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        found = os.pread(descriptor, _HEADER.size, 0)
        if not found.strip(b"\0"):  # new, or whoever made it was killed before it was made
            os.ftruncate(descriptor, size_bytes)
            os.pwrite(descriptor, _HEADER.pack(*ours), 0)
            return
        if len(found) < _HEADER.size or os.fstat(descriptor).st_size < size_bytes or found[:8] != _MAGIC:
            raise ConfigError(f"{path} is no table of limits, or is cut short; stop every worker and remove it")
        theirs = _HEADER.unpack(found)
        if theirs != ours:
            raise ConfigError(
                f"the table of limits {path} was made for {_described(theirs)}, this worker is {_described(ours)};"
                " all workers must be of one installation: stop every worker and remove it"
            )
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _described(header: tuple[bytes, int, int, int, int, int]) -> str:
    _, version, implementation, rows, count_rows, workers = header
    names = {number: name for name, number in _IMPLEMENTATIONS.items()}
    twin = names.get(implementation, str(implementation))
    return f"version {version}, {twin} twin, {rows} + {count_rows} rows, {workers} workers"


def _wait_for_lock(descriptor: int) -> None:
    """Another worker decides; without the lock after LOCK_WAIT_S."""
    deadline_s = time.monotonic() + LOCK_WAIT_S
    tries = 0
    while time.monotonic() < deadline_s:
        tries += 1
        if tries <= _BRIEF_TRIES:
            os.sched_yield()
        else:
            time.sleep(_BRIEF_SLEEP_S)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            continue


def _lock_slot(descriptor: int, slot: int, *, wait_s: float = 0.0) -> bool:
    """Become the worker of a slot; False when there is one, who may be about to end or to be buried."""
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _slot_lock(fcntl.F_WRLCK, slot))
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(_BRIEF_SLEEP_S)
        else:
            return True


def _unlock_slot(descriptor: int, slot: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _slot_lock(fcntl.F_UNLCK, slot))


def _slot_lock(kind: int, slot: int) -> bytes:
    return _OFD_LOCK.pack(kind, os.SEEK_SET, _SLOT_LOCKS_AT + slot, 1, 0)


def _reason(error: OSError) -> str:
    return (error.strerror or "input/output error").lower()
