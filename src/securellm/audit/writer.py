"""The thread that writes a slot's chain: takes whatever is queued, writes it, syncs once, tells who waits.

One commit is one write and one fdatasync for all records that came in while the last one was on its way; nobody else
ever waits for a disk. A commit costs as much as ten records, so a few records wait for the end of the event loop's turn
(`flush`), or for `GATHERED` of them: those whom one commit lets go have their next records in one commit again.

Where many requests are under way and come one by one, commits keep a distance (`group_s`, from the beginning of one to
that of the next): whoever comes in it shares the next. A batch that has one in `SHARE` of those under way goes at once:
the few, and callers who ask again as soon as they have their answers, wait for nothing. Neither does a record that is
the first for so long. Nobody rings for those who wait, and the thread wakes once for all of them.

What a commit puts into the chain stays as it is: when the disk refuses, the same bytes are written again, at the same
place, until they are on disk. After a failed fsync nothing is known of what came before it in the page cache (a later
fsync would not say), so the file is opened anew and the commit is written again from the last byte that was known to be
on disk. Meanwhile whoever waits is told at once.

Everything here runs in the thread, but for `submit`, `flush`, `stop` and the figures. Tests give it a disk that fails.
"""

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, Protocol

from securellm._fast import lines
from securellm.audit.chain import Chain
from securellm.audit.checkpoints import Checkpointer, Signer
from securellm.audit.disk import Disk, DiskFile, write_all
from securellm.audit.files import DayFile, checkpoints_name, date_of, day_ends, log_name, reason_of
from securellm.audit.listener import Entry, Listener
from securellm.audit.record import Record
from securellm.audit.recovery import Mark, Recovered, encode_mark, mark_path
from securellm.audit.retention import Retention

log = logging.getLogger(__name__)

RETRY_S = 0.5  # between attempts while the disk refuses
TICK_S = 1.0  # how late a rotation, a checkpoint or a folded line may be
MAX_BATCH_RECORDS = 2_000  # a longer queue is several commits, so that the first in it do not wait for the last
GATHERED = 32
GATHER_S = 0.005  # how long fewer may wait, for an event loop that does not come to an end of its turn
SHARE = 8  # a smaller part of those under way waits: with more of them, callers who ask again at once would be held up
MAX_BATCH_BYTES = 1024 * 1024  # recovery cuts no more than a few of these
COPIES_END_S = 1.0  # for the last checkpoint to reach its second place
REMOVALS_A_TICK = 100  # files that retention deletes between two commits


class Copies(Protocol):
    """A second place for checkpoints."""

    def put(self, name: str, note: bytes) -> None:
        """Append to the file of that name there, some time. Never waits."""

    def stop(self, within_s: float) -> None:
        """Finish what waits, for so long at most."""


class Writer(Generic[Entry]):
    """See the module."""

    def __init__(
        self,
        directory: Path,
        slot: int,
        listener: Listener[Entry],
        *,
        disk: Disk,
        signer: Signer,
        recover: Callable[[], Recovered],
        retention: Retention,
        copies: Copies | None,
        now_us: Callable[[], int],
        group_s: float = 0.0,
        tick_s: float = TICK_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self.failure: str | None = "it is being opened"
        """why nothing can be written now; None when it can"""
        self.last_error: str | None = None
        """the last one there was, also of a checkpoint"""
        self.records = 0
        self.bytes = 0
        self.commits = 0
        self.last_commit_ms = 0.0
        self._directory = directory
        self._slot = slot
        self._listener = listener
        self._disk = disk
        self._signer = signer
        self._recover = recover
        self._retention = retention
        self._copies = copies
        self._now_us = now_us
        self._group_s = group_s
        self._tick_s = tick_s
        self._retry_s = retry_s

        self._queue: deque[Entry] = deque()
        self._bell = threading.Lock()  # the thread waits to get it; released once for each ring
        self._bell.acquire()
        self._idle = False
        self._keeps_distance = False  # waits for others to share the next commit
        self._turn_ended = False  # the event loop's, with entries in the queue, since the last commit was told
        self._began_s = 0.0  # when the last commit began
        self._told = 0  # how many the last commit was for
        self._stop_s: float | None = None  # when to give up, on the monotonic clock; None while it runs
        self._next_tick_s = 0.0

        self._began = False  # the first commit of this start is signed
        self._chain = Chain(slot)
        self._own: deque[Record] = deque()  # records without a receipt, written with the next commits
        self._day: DayFile | None = None
        self._rotate_us = 0  # when the current day's file ends
        self._file: DiskFile | None = None
        self._length = 0  # of what is known to be on disk
        self._dirty = False  # there may be more behind it
        self._open: dict[str, lines.Opened] = {}  # the intents without an end, the oldest first
        self._last: Mark | None = None
        self._checkpointer: Checkpointer | None = None
        self._notes: tuple[Path, int] | None = None  # the checkpoint file, and how much of it is known to be good
        self._looks_for_old = True  # at start and with each new day
        self._pruning: Iterator[None] | None = None  # begins when the record of it is on disk
        self._removals: Iterator[None] | None = None

    @property
    def seq(self) -> int:
        """Of the last record that has a place in the chain."""
        return self._chain.seq

    @property
    def queued(self) -> int:
        """How many entries wait for their commit to begin."""
        return len(self._queue)

    def start(self) -> None:
        """Begin: in a thread that does not keep the process alive, because a disk may hang."""
        threading.Thread(target=self._run, name=f"audit-writer-{self._slot}", daemon=True).start()

    def submit(self, entry: Entry) -> None:
        """Queue an entry; a few wait for `flush`. Never waits."""
        queue = self._queue
        queue.append(entry)
        if self._idle and len(queue) >= GATHERED:
            self._ring()

    def flush(self) -> None:
        """Begin with what is queued, unless it is to wait for others: nothing more comes in this turn of the loop."""
        if self._queue:
            self._turn_ended = True
            if self._idle and (not self._keeps_distance or len(self._queue) >= self._share()):
                self._ring()

    def stop(self, within_s: float) -> None:
        """Write what is queued, close the chain with a checkpoint, end; what a disk refuses for so long is lost."""
        self._stop_s = time.monotonic() + within_s
        self._ring()

    def _ring(self) -> None:
        """Wake the thread. A condition would do the same with three locks."""
        self._idle = False
        if self._bell.locked():  # only one thread rings, so nobody else releases it meanwhile
            self._bell.release()

    def _run(self) -> None:
        try:
            if self._persist(self._take_over):
                self._listener.recovered()
                self._serve()
        except Exception as exc:
            log.exception("the audit writer ends by a defect")
            self.failure = self.last_error = f"a defect ended its writer ({type(exc).__name__})"
            self._listener.failed()
        finally:
            self.failure = self.failure or "it is closed"
            self._close_file()
            if self._copies is not None:
                self._copies.stop(COPIES_END_S)
            self._listener.stopped()

    def _serve(self) -> None:
        while True:
            stopping = self._await_work()
            now_us = self._now_us()
            if now_us >= self._rotate_us and not self._persist(lambda: self._turn_to(now_us)):  # noqa: B023  # done at once
                return
            if stopping:
                self._own += self._listener.due(now_us)
            while self._own or self._queue:
                batch, data = self._place()
                if not self._persist(lambda: self._commit(data)):  # noqa: B023  # done at once
                    return
                if not self._began:  # before anybody relies on them: a chain without a signature proves nothing
                    self._began = True
                    self._sign(now_us, "start")
                self._told = len(batch)
                self._turn_ended = False
                self._listener.durable(batch)
                if not stopping:
                    break
            if stopping:
                self._persist(lambda: self._append_checkpoint(now_us, "close"))  # noqa: B023  # done at once
                return
            if time.monotonic() >= self._next_tick_s:
                self._tick(now_us)

    def _await_work(self) -> bool:
        """Wait for entries, for the next tick or for the end; whether it is the end."""
        if not self._own:
            self._keep_distance()
            # Those who were just told are likely to come back: their next records make one commit with what is here.
            enough = 1 if self._told < GATHERED // 4 or self._turn_ended else GATHERED
            self._idle = True  # whoever queues enough from now on rings; what was queued before is seen here
            queued = len(self._queue)
            if queued < enough and self._stop_s is None:
                wait_s = GATHER_S if queued else self._next_tick_s - time.monotonic()
                self._bell.acquire(timeout=max(0.0, wait_s))
            self._idle = False
        return self._stop_s is not None

    def _keep_distance(self) -> None:
        """Let others join while many are under way, until the next commit may begin."""
        wait_s = self._began_s + self._group_s - time.monotonic()
        if wait_s <= 0:
            return
        # In this order: who leaves from now on is seen by the `flush` of that turn, who left before is not counted.
        self._keeps_distance = self._idle = True
        if len(self._queue) < self._share() and self._stop_s is None:
            self._bell.acquire(timeout=wait_s)
        self._keeps_distance = self._idle = False

    def _share(self) -> int:
        """How many of those under way make a commit that waits for no others; 0 where they are few."""
        share = min(GATHERED, self._listener.under_way() // SHARE)
        return share if share > 1 else 0

    def _persist(self, step: Callable[[], None]) -> bool:
        """Do it, again and again while the disk refuses; False when that lasted beyond the end."""
        while True:
            try:
                step()
            except OSError as exc:
                self._note_failure(exc)
            else:
                if self.failure is not None:
                    # After a failure it is news; at the start it is what everybody expects.
                    log.log(logging.DEBUG if self.last_error is None else logging.INFO, "the audit log can be written")
                    self.failure = None
                return True
            wait_s = self._retry_s
            if self._stop_s is not None:
                wait_s = min(wait_s, self._stop_s - time.monotonic())
            if wait_s <= 0:
                log.error("the audit log is closed while its disk refuses: %s", self.failure)
                return False
            self._bell.acquire(timeout=wait_s)

    def _note_failure(self, error: OSError) -> None:
        reason = reason_of(error)
        if self.failure != reason:
            log.error("the audit log cannot be written: %s", reason)
        self.failure = self.last_error = reason
        self._dirty = True
        self._close_file()
        self._listener.failed()

    def _take_over(self) -> None:
        found = self._recover()
        self._chain = Chain(self._slot, found.seq, found.prev)
        self._own = deque(found.records)
        self._last = found.last
        self._day, self._length = found.day, found.length
        self._rotate_us = day_ends(found.day.date) if found.day is not None else 0
        self._checkpointer = Checkpointer(self._signer, self._slot, found.tail)

    def _turn_to(self, now_us: int) -> None:
        """Close the old day's file with a checkpoint, begin the new one; a clock that went back never comes here."""
        if self._day is not None and not self._dirty:
            self._sign(now_us, "rotation")
        self._close_file()
        date = date_of(now_us)
        day = DayFile(date, self._directory / log_name(date, self._slot))
        self._file = self._disk.open(day.path)
        self._length = self._file.size()
        self._dirty = False
        self._day = day
        self._rotate_us = day_ends(date)
        self._looks_for_old = True
        self._next_tick_s = 0.0

    def _place(self) -> tuple[list[Entry], bytes]:
        """Give what is queued its place in the chain, as much as one commit takes."""
        assert self._day is not None
        name, own, queue, opened, chain = self._day.path.name, self._own, self._queue, self._open, self._chain
        batch: list[Entry] = []
        placed: list[bytes] = []
        length = self._length
        fits_until = length + MAX_BATCH_BYTES
        while (own or queue) and length < fits_until and len(placed) < MAX_BATCH_RECORDS:
            if not own and queue[0].body is not None:
                ends_at = chain.slot, chain.seq, chain.prev
                chain.seq, chain.prev, length = lines.place(
                    queue, batch, placed, opened, ends_at, name, length, fits_until, MAX_BATCH_RECORDS
                )
                continue
            if own:
                record = own.popleft()
            else:
                batch.append(entry := queue.popleft())
                assert entry.record is not None, "an entry without a body has its record"
                record = entry.record
            placed.append(line := chain.place(record))
            lines.note(opened, record.event_type, record.request_id, (name, length, chain.seq, chain.prev))
            length += len(line) + 1
        self._last = Mark(name, length - len(placed[-1]) - 1, chain.seq, chain.prev)
        placed.append(b"")
        self.records += len(placed) - 1
        return batch, b"\n".join(placed)

    def _commit(self, data: bytes) -> None:
        """Have these bytes on disk behind what is there. Raises OSError; then nothing is known of them."""
        assert self._day is not None
        began_s = self._began_s = time.monotonic()
        if self._file is None:
            self._file = self._disk.open(self._day.path)
        if self._dirty:
            self._file.truncate(self._length)
        write_all(self._file, data, self._length)
        self._dirty = False
        self._length += len(data)
        self.bytes += len(data)
        self.commits += 1
        self.last_commit_ms = (time.monotonic() - began_s) * 1000

    def _tick(self, now_us: int) -> None:
        """What is due once a second; records that come of it are in the next commit."""
        self._next_tick_s = time.monotonic() + self._tick_s
        assert self._checkpointer is not None
        if reason := self._checkpointer.due(now_us, self._chain.seq):
            self._sign(now_us, reason)
        self._own += self._listener.due(now_us)
        try:
            self._prune(now_us)
        except OSError as exc:
            self.last_error = reason_of(exc)
            log.error("old files of the audit log cannot be deleted: %s", self.last_error)
            self._removals = None

    def _prune(self, now_us: int) -> None:
        """Retention, in steps: say what goes, have that on disk, delete a few files a tick."""
        assert self._day is not None
        if self._looks_for_old:
            self._looks_for_old = False
            if found := self._retention.due(now_us, self._day.path):
                record, self._pruning = found
                self._own.append(record)
        elif self._pruning is not None and not self._own:
            self._removals, self._pruning = self._pruning, None
            self._sign(now_us, "prune")
        if self._removals is not None and not list(itertools.islice(self._removals, REMOVALS_A_TICK)):
            self._removals = None

    def _sign(self, now_us: int, reason: str) -> None:
        """Append a checkpoint over the last record; one that fails is made again when it is due."""
        try:
            self._append_checkpoint(now_us, reason)
        except OSError as exc:
            self.last_error = reason_of(exc)
            log.error("a checkpoint of the audit log cannot be written: %s", self.last_error)

    def _append_checkpoint(self, now_us: int, reason: str) -> None:
        if self._checkpointer is None or self._last is None or self._day is None:
            return
        path = self._directory / checkpoints_name(self._day.date, self._slot)
        note = self._checkpointer.encode(self._last.seq, self._last.hash, now_us, reason)
        self._append_note(path, note)
        self._checkpointer.written()
        if self._copies is not None:
            self._copies.put(path.name, note)
        if not self._own:  # else it may hold the ends of requests that recovery found open
            self._leave_mark()

    def _append_note(self, path: Path, note: bytes) -> None:
        file = self._disk.open(path)
        try:
            if self._notes is None or self._notes[0] != path:
                self._notes = (path, file.size())
            length = self._notes[1]
            file.truncate(length)
            write_all(file, note, length)
            self._notes = (path, length + len(note))
        finally:
            file.close()

    def _leave_mark(self) -> None:
        """Say where recovery has to begin. Not synced, and a failure is nothing: an older mark is as good, but slow."""
        assert self._last is not None
        oldest = next(iter(self._open.values()), None)
        mark = Mark(*oldest) if oldest is not None else self._last
        try:
            file = self._disk.open(mark_path(self._directory, self._slot))
            try:
                file.write(memoryview(encode_mark(mark)), 0)
            finally:
                file.close()
        except OSError as exc:
            log.warning("the audit log's mark cannot be written: %s", reason_of(exc))

    def _close_file(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError as exc:
                log.warning("the audit log's file cannot be closed: %s", reason_of(exc))
