"""Care for a slot that no process writes: its chain is closed with a signature, its old files are deleted.

The slot's lock is held meanwhile, so a running gateway and this are never in the same files. What a crash left is put
right first, exactly as a starting gateway would.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from securellm.audit.chain import Chain
from securellm.audit.checkpoints import Checkpointer, Signer
from securellm.audit.disk import Disk, RealDisk, write_all
from securellm.audit.files import DayFile, SlotLock, checkpoints_name, date_of, log_name
from securellm.audit.record import Record, timestamp
from securellm.audit.recovery import Recovered, recover
from securellm.audit.retention import Retention

CLOSING = ("close", "seal")  # reasons of a last checkpoint


class Sealed(msgspec.Struct, frozen=True):
    """What closing a slot did. `interrupted`: requests that a crash had left open; all 0 when it was closed already."""

    slot: int
    seq: int  # of its last record
    added: int
    interrupted: int


class Pruned(msgspec.Struct, frozen=True):
    """How many of a slot's days were deleted."""

    slot: int
    days: int


class Keeper:
    """See the module. `longest_request_s` is how far back a request may have been begun that is still open."""

    def __init__(
        self,
        directory: Path,
        signer: Signer,
        *,
        now_us: Callable[[], int],
        longest_request_s: float,
        disk: Disk | None = None,
    ) -> None:
        self._directory = directory
        self._signer = signer
        self._now_us = now_us
        self._longest_request_s = longest_request_s
        self._disk = disk or RealDisk()

    def seal(self, slot: int) -> Sealed:
        """Close the chain of a slot with a last checkpoint. Raises ConfigError while the slot is written, OSError."""
        with _held(self._directory, slot):
            found = self._recover(slot)
            last = found.tail.last if found.tail is not None else None
            if not found.records and last is not None and last.seq == found.seq and last.reason in CLOSING:
                return Sealed(slot, found.seq, 0, 0)
            interrupted = sum(record.status == "interrupted" for record in found.records)
            sealed = self._event("slot_sealed", {"slot": slot, "last_seq": found.seq, "interrupted": interrupted})
            seq = self._append(slot, found, sealed, "seal")
            return Sealed(slot, seq, seq - found.seq, interrupted)

    def prune(self, slot: int, days: int) -> Pruned:
        """Delete what is older than `days` UTC days, once the chain says so under a checkpoint.

        Raises ConfigError while the slot is written, OSError.
        """
        with _held(self._directory, slot):
            found = self._recover(slot)
            current = self._file(slot, found)
            due = Retention(self._directory, slot, days, self._disk).due(self._now_us(), current.path)
            if due is None:
                return Pruned(slot, 0)
            record, removals = due
            self._append(slot, found, record, "prune")
            for _ in removals:
                pass
            return Pruned(slot, record.count or 0)

    def _recover(self, slot: int) -> Recovered:
        return recover(
            self._directory,
            slot,
            self._disk,
            [],
            now_us=self._now_us,
            longest_request_s=self._longest_request_s,
        )

    def _event(self, action: str, detail: dict[str, str | int]) -> Record:
        return Record(timestamp(self._now_us()), "security_event", action=action, detail=detail)

    def _file(self, slot: int, found: Recovered) -> DayFile:
        """Where the next record goes: today's file, or the newest when the clock has gone back."""
        today = date_of(self._now_us())
        if found.day is not None and found.day.date >= today:
            return found.day
        return DayFile(today, self._directory / log_name(today, slot))

    def _append(self, slot: int, found: Recovered, record: Record, reason: str) -> int:
        """Write what recovery wants written, then the record, and sign; the number of the last record."""
        chain = Chain(slot, found.seq, found.prev)
        lines = [chain.place(one) + b"\n" for one in (*found.records, record)]
        day = self._file(slot, found)
        self._write(day.path, b"".join(lines), found.length if day == found.day else None)
        checkpointer = Checkpointer(self._signer, slot, found.tail)
        note = checkpointer.encode(chain.seq, chain.prev, self._now_us(), reason)
        self._write(self._directory / checkpoints_name(day.date, slot), note, None)
        return chain.seq

    def _write(self, path: Path, data: bytes, offset: int | None) -> None:
        """Write at an offset, else at the end, and have it on disk."""
        file = self._disk.open(path)
        try:
            write_all(file, data, offset if offset is not None else file.size())
        finally:
            file.close()


@contextmanager
def _held(directory: Path, slot: int) -> Iterator[None]:
    """The slot's lock. Raises ConfigError while another process has it."""
    lock = SlotLock(directory, slot)
    try:
        yield
    finally:
        lock.release()
