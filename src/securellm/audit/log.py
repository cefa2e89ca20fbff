"""The audit log as the ledger holds it: room is reserved at admission, records are appended, receipts are waited for.

Nothing here blocks the event loop, and but for `Receipt.durable` nothing waits: the writer's thread does the rest and
reports each commit with one call. In strict mode the log refuses to begin what it could not record. In relaxed mode it
never refuses; records for which there is no room are counted, and the chain says so when the disk is back (`gap`).
"""

import logging
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal

import msgspec
import trio

from securellm._fast import lines
from securellm.audit.checkpoints import Signer
from securellm.audit.copies import Copies
from securellm.audit.disk import Disk, RealDisk
from securellm.audit.files import SlotLock, make_directory
from securellm.audit.folding import Folding
from securellm.audit.gap import Gap
from securellm.audit.record import Record, timestamp
from securellm.audit.recovery import recover
from securellm.audit.retention import Retention
from securellm.audit.waiting import AWAKE, Place
from securellm.audit.writer import RETRY_S, TICK_S, Writer
from securellm.errors import AuditUnavailable

log = logging.getLogger(__name__)

FOLDED = frozenset({"authentication_failed", "limit_reached"})  # actions that anybody can cause, as often as he likes
BEATS = 20  # of the watch in `commit_timeout_s`: how exact it is
RETRY_AFTER_S = 1.0  # what a refused caller is told; the disk is tried twice as often


class AuditSettings(msgspec.Struct, frozen=True):
    """How the log is kept; names and defaults as in `[audit]`."""

    directory: Path
    key: Signer  # signs checkpoints
    mode: Literal["strict", "relaxed"] = "strict"
    retention_days: int = 90  # UTC days before today; 0 keeps everything
    commit_timeout_s: float = 5.0  # how long a receipt waits for the disk
    group_commit_s: float = 0.0  # how long after one commit the next may begin while many requests are under way
    slot: int = 1
    checkpoint_copy: Path | None = None  # a directory
    max_reserved: int = 10_000  # requests that are open or not yet on disk: as many as there are connections
    max_events: int = 1_000  # security events that are not yet on disk
    longest_request_s: float = 600.0  # `timeouts.total_s`: how far back recovery looks for open intents without a mark


class AuditStatistics(msgspec.Struct, frozen=True):
    """The log's figures."""

    available: bool  # whether the disk takes records now
    records: int  # given a place in the chain since the start
    bytes: int  # on disk since the start
    commits: int
    pending: int  # records that are not yet on disk
    reserved: int  # requests that have a reservation
    gap: int  # records lost since the start
    copies_missed: int  # checkpoints without their second copy
    last_commit_ms: float
    last_error: str | None
    seq: int  # of the last record


class Receipt(msgspec.Struct, eq=False, weakref=False):
    """The promise that one record will be on disk: one whose line's body is made, or one that is left to the chain."""

    # A structure, as the reservation: two of these are in every request, and it is made without a call into Python.
    log: "AuditLog"
    reservation: "Reservation | None"
    event_type: str
    request_id: str | None
    body: bytes | None
    record: Record | None = None
    done: bool = False
    tasks: list[trio.lowlevel.Task] | None = None  # who waits for it

    async def durable(self) -> None:
        """Return when the record is on disk; at once in relaxed mode.

        Raises AuditUnavailable when the disk refuses, or does not answer in `commit_timeout_s`. The record is written
        all the same when the disk is back. Cancelling the wait changes nothing for the record.
        """
        if self.done or not self.log.strict:
            return
        place = self.log.wait_for(self, trio.lowlevel.current_task())
        began = place.began
        try:
            # Two of these are in every request: an Event and a deadline for each would cost three times as much.
            await place
        finally:
            place.task = None
            self.log.places.append(place)
        if not self.done:
            raise self.log.refusal(began)

    def let_go(self) -> None:
        """Nobody waits any more: who still does gets AuditUnavailable at once. The record is written all the same."""
        if self.tasks:
            self.log.wake(list(self.tasks))


class Reservation(msgspec.Struct, eq=False, weakref=False):
    """Room for all the records of one request."""

    log: "AuditLog"
    lost: bool  # there is no room: what is appended is counted
    closed: bool = False
    outstanding: int = 0  # records that are not yet on disk

    def append(self, record: Record) -> Receipt:
        """Queue a record. Never refused, never waits."""
        if self.lost:
            self.log.lose(record)
            return Receipt(self.log, None, record.event_type, record.request_id, None, done=True)
        self.outstanding += 1
        receipt = _receipt(self.log, self, record)
        self.log.submit(receipt)
        return receipt

    def append_line(self, event_type: str, request_id: str, body: bytes) -> Receipt:
        """Queue a record as the body of its line, which was made ahead; not for a reservation that is lost."""
        self.outstanding += 1
        receipt = Receipt(self.log, self, event_type, request_id, body)
        self.log.submit(receipt)
        return receipt

    def close(self) -> None:
        """Nothing more will be appended: the room is free again when all of it is on disk. Later calls do nothing."""
        if not self.closed:
            self.closed = True
            if not self.outstanding and not self.lost:
                self.log.release()


def _receipt(log: "AuditLog", reservation: Reservation | None, record: Record) -> Receipt:
    body = lines.encode_body(record)
    return Receipt(log, reservation, record.event_type, record.request_id, body, record if body is None else None)


class Turns(trio.abc.Instrument):
    """Knows when the event loop has done all it had to do: what was queued in its turn becomes one commit.

    And when it begins another turn: whoever waits for a commit that has ended is let go in that one, not in the next.
    """

    def __init__(self, flush: Callable[[], None], settle: Callable[[], None]) -> None:
        self._flush = flush
        self._settle = settle
        self._is_second = False

    def before_io_wait(self, timeout: float) -> None:
        """Called at the end of each turn; a `timeout` of 0 means that another follows at once, which is waited for."""
        if timeout > 0 or self._is_second:
            self._is_second = False
            self._flush()
        else:
            self._is_second = True

    def after_io_wait(self, timeout: float) -> None:
        """Called before the tasks of a turn are run."""
        self._settle()


class AuditLog:
    """See the module. Made by `open_audit_log`; used in Trio's thread only, but for what the writer calls."""

    def __init__(self, settings: AuditSettings, now_us: Callable[[], int]) -> None:
        self._settings = settings
        self._now_us = now_us
        self.strict = settings.mode == "strict"
        self._token = trio.lowlevel.current_trio_token()
        self._reserved = 0
        self._pending = 0
        self._events = 0
        self._gap = Gap()
        self._folding = Folding()
        self._folding_lock = threading.Lock()
        self.places: list[Place] = []  # at which nobody waits
        self._waiting: dict[trio.lowlevel.Task, tuple[Receipt, int]] = {}  # and since which beat
        self._written: deque[list[Receipt]] = deque()  # what the writer has on disk and nobody has been told of
        self._beat = 0
        self._slow: str | None = None  # the disk takes too long, and nothing has been durable since
        self._watched = trio.Event()  # somebody waits, so the watch goes on
        self._watch_scope = trio.CancelScope()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # rung for each commit
        self._hear_scope = trio.CancelScope()
        self._opened = trio.Event()  # or failed for the first time
        self._stopped = trio.Event()
        self._copies: Copies | None = None
        self._writer: Writer[Receipt]
        self._turns: Turns

    def reserve(self) -> Reservation:
        """Room for one request's records, to be closed.

        Raises AuditUnavailable in strict mode, when the disk takes no records or there is no room.
        """
        full = self._reserved >= self._settings.max_reserved
        why_not = f"{self._reserved} requests wait for the disk" if full else self._writer.failure or self._slow
        if self.strict and why_not is not None:
            raise self._unavailable(why_not)
        if full:
            return Reservation(self, True)
        self._reserved += 1
        return Reservation(self, False)

    def event(self, record: Record) -> None:
        """Queue a security event; counted as lost when too many are queued. Those that come in floods are folded."""
        if record.action in FOLDED:
            with self._folding_lock:
                self._folding.note(record)
        elif self._events >= self._settings.max_events:
            self._gap.add(record)
        else:
            self._events += 1
            self.submit(_receipt(self, None, record))

    def statistics(self) -> AuditStatistics:
        """The figures now."""
        writer = self._writer
        return AuditStatistics(
            available=self._why_not() is None,
            records=writer.records,
            bytes=writer.bytes,
            commits=writer.commits,
            pending=self._pending,
            reserved=self._reserved,
            gap=self._gap.total,
            copies_missed=self._copies.missed if self._copies is not None else 0,
            last_commit_ms=writer.last_commit_ms,
            last_error=writer.last_error,
            seq=writer.seq,
        )

    def __repr__(self) -> str:
        state = self._why_not() or "available"
        return f"<AuditLog slot {self._settings.slot}, record {self._writer.seq}, {self._pending} pending, {state}>"

    # what reservations and receipts call

    def submit(self, receipt: Receipt) -> None:
        """Hand a record to the writer."""
        self._pending += 1
        self._writer.submit(receipt)

    def lose(self, record: Record) -> None:
        """Count a record for which there is no room."""
        self._gap.add(record)

    def release(self) -> None:
        """A reservation's room is free again."""
        self._reserved -= 1

    def wait_for(self, receipt: Receipt, task: trio.lowlevel.Task) -> Place:
        """A task is about to wait, at the place that is returned. Raises AuditUnavailable while the disk refuses."""
        if self._writer.failure is not None:
            raise self._unavailable(self._writer.failure)
        if not self._waiting:
            self._watched.set()
        began = self._beat
        self._waiting[task] = (receipt, began)
        if receipt.tasks is None:
            receipt.tasks = [task]
        else:
            receipt.tasks.append(task)
        place = self.places.pop() if self.places else Place(self.forget)
        place.task, place.began = task, began
        return place

    def forget(self, task: trio.lowlevel.Task) -> None:
        """It waits no more."""
        receipt, _ = self._waiting.pop(task)
        if receipt.tasks is not None:
            receipt.tasks.remove(task)

    def refusal(self, began: int) -> AuditUnavailable:
        """Why a task was let go that has waited since a beat, and whose record is not on disk."""
        late = self._beat - began > BEATS
        return self._unavailable(self._too_slow() if late else self._writer.last_error)

    def _too_slow(self) -> str:
        return f"the disk takes longer than {self._settings.commit_timeout_s:g} s"

    def _why_not(self) -> str | None:
        return self._writer.failure or self._slow

    def _unavailable(self, why: str | None) -> AuditUnavailable:
        return AuditUnavailable(f"the audit log takes no records: {why}", retry_after_s=RETRY_AFTER_S)

    # what the writer calls, in its thread

    def recovered(self) -> None:
        """See Listener."""
        self._soon(self._opened.set)

    def under_way(self) -> int:
        """See Listener."""
        return self._reserved

    def durable(self, entries: list[Receipt]) -> None:
        """See Listener."""
        if entries:
            self._written.append(entries)
            os.eventfd_write(self._bell, 1)  # `_soon` costs the thread five times as much

    def failed(self) -> None:
        """See Listener."""
        self._soon(self._wake_waiting)

    def due(self, now_us: int) -> list[Record]:
        """See Listener."""
        with self._folding_lock:
            folded = self._folding.take() if self._folding else []
        return folded + self._gap.take(now_us)

    def stopped(self) -> None:
        """See Listener."""
        self._soon(self._stopped.set)

    def _soon(self, function: Callable[..., object], *arguments: object) -> None:
        with suppress(trio.RunFinishedError):  # the disk hung until after the end; nobody waits any more
            self._token.run_sync_soon(function, *arguments)

    # what the writer's calls do in Trio's thread

    def _settle_written(self) -> None:
        while self._written:
            self._settle(self._written.popleft())

    def _settle(self, entries: list[Receipt]) -> None:
        self._pending -= len(entries)
        self._slow = None
        reschedule, waiting = trio.lowlevel.reschedule, self._waiting
        for receipt in entries:
            receipt.done = True
            reservation = receipt.reservation
            if reservation is None:
                self._events -= 1
            else:
                reservation.outstanding -= 1
                if reservation.closed and not reservation.outstanding:
                    self._reserved -= 1
            if receipt.tasks is not None:
                for task in receipt.tasks:
                    del waiting[task]
                    reschedule(task, AWAKE)
                receipt.tasks = None

    def _wake_waiting(self) -> None:
        """Let everybody go who waits: the disk has refused."""
        self._settle_written()  # what came before the failure
        self._opened.set()
        self.wake(list(self._waiting))

    def wake(self, tasks: list[trio.lowlevel.Task]) -> None:
        """Let those go who wait, whatever has become of their records."""
        for task in tasks:
            self.forget(task)
            trio.lowlevel.reschedule(task, AWAKE)

    async def _hear(self) -> None:
        """Have the loop take a turn when the bell rings: at its beginning `Turns` settles what was written."""
        with self._hear_scope:
            while True:
                await trio.lowlevel.wait_readable(self._bell)
                os.eventfd_read(self._bell)
                self._settle_written()
        if self._stopped.is_set():  # else a thread that hangs may still ring
            os.close(self._bell)

    async def _watch(self) -> None:
        """Let those go for whom the disk takes too long. One timer for all: each waits as long as the others."""
        with self._watch_scope:
            while True:
                await self._watched.wait()
                await trio.sleep(self._settings.commit_timeout_s / BEATS)
                self._beat += 1
                late = [task for task, (_, began) in self._waiting.items() if self._beat - began > BEATS]
                if late:
                    self._slow = self._too_slow()
                    self.wake(late)
                if not self._waiting:
                    self._watched = trio.Event()

    async def _open(self, writer: Writer[Receipt], copies: Copies | None) -> None:
        self._writer = writer
        self._copies = copies
        self._turns = Turns(writer.flush, self._settle_written)
        trio.lowlevel.add_instrument(self._turns)
        trio.lowlevel.spawn_system_task(self._watch, name="audit-watch")
        trio.lowlevel.spawn_system_task(self._hear, name="audit-hear")
        if copies is not None:
            copies.start()
        writer.start()
        with trio.move_on_after(self._settings.commit_timeout_s):
            await self._opened.wait()

    async def _close(self) -> None:
        """Write what is queued and the end; bounded, and shielded: these are the records of whoever was cancelled."""
        self._writer.stop(self._settings.commit_timeout_s)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._settings.commit_timeout_s + 1):
            await self._stopped.wait()
        self._settle_written()
        self._watch_scope.cancel()
        self._hear_scope.cancel()
        trio.lowlevel.remove_instrument(self._turns)
        if self._pending:
            log.error("the audit log is closed with %d records that are not on disk", self._pending)


@asynccontextmanager
async def open_audit_log(
    settings: AuditSettings,
    *,
    now_us: Callable[[], int],
    disk: Disk | None = None,
    tick_s: float = TICK_S,
    retry_s: float = RETRY_S,
) -> AsyncIterator[AuditLog]:
    """Take the slot over and keep its log until the block ends.

    Raises ConfigError when the directory cannot be used or the slot is held by another process. A disk that is full or
    broken is no reason not to start: the log is then unavailable until the disk is back.
    """
    disk = disk or RealDisk()
    make_directory(settings.directory)
    lock = SlotLock(settings.directory, settings.slot)
    audit_log = AuditLog(settings, now_us)
    told: list[Record] = []
    copies = Copies(settings.checkpoint_copy) if settings.checkpoint_copy is not None else None
    writer: Writer[Receipt] = Writer(
        settings.directory,
        settings.slot,
        audit_log,
        disk=disk,
        signer=settings.key,
        recover=lambda: recover(
            settings.directory,
            settings.slot,
            disk,
            told,
            now_us=now_us,
            longest_request_s=settings.longest_request_s,
        ),
        retention=Retention(settings.directory, settings.slot, settings.retention_days, disk),
        copies=copies,
        now_us=now_us,
        group_s=min(settings.group_commit_s, settings.commit_timeout_s / 4),  # the rest is the disk's
        tick_s=tick_s,
        retry_s=retry_s,
    )
    try:
        await audit_log._open(writer, copies)
        audit_log.event(Record(timestamp(now_us()), "security_event", action="writer_started"))
        yield audit_log
    finally:
        audit_log.event(Record(timestamp(now_us()), "security_event", action="writer_stopped"))
        await audit_log._close()
        if audit_log._stopped.is_set():  # a thread that hangs may still write: the slot stays taken while it lives
            lock.release()
