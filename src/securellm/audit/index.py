"""The index of the audit log: the table `audit_logs`, filled from the files and behind them.

Nothing waits for it, and nothing is lost without it: a store that is away only delays it, and it may be made anew at
any time. Each batch of rows and the place up to which the files are read go into the store in one transaction, so a
record is there exactly once, whenever the process dies and whoever else is filling.

A place in a file holds the hash of the line before it. When the file no longer has that line there (the machine lost
power and recovery cut the log back), the rows of that file are forgotten and it is read again.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from securellm.audit.files import DayFile, list_logs, reason_of
from securellm.audit.filters import Filters
from securellm.audit.reading import list_slots, parse_head
from securellm.audit.record import MAX_LINE_BYTES, hash_line
from securellm.audit.rows import Values, parse_values
from securellm.config.database import Place, describe_place
from securellm.config.secrets import Secret
from securellm.config.tree import Config
from securellm.errors import StoreUnavailable

if TYPE_CHECKING:
    from securellm.accounts.audit_logs import Position, Row
    from securellm.accounts.database import Database

log = logging.getLogger(__name__)

BATCH_LINES = 1_000  # in one transaction; the store is locked for some ten milliseconds
LINES_A_TURN = 64  # read in a fraction of a millisecond
BATCH_BYTES = 4 * 1024 * 1024
INTERVAL_S = 2.0  # how far the index may be behind an idle gateway
PAUSE_S = 0.02  # between batches at least, and as long as the last one took: others have a turn at store and processor
BUSY_PAUSES = 18  # so many times longer where the process was busy all the time: a batch takes as much as 50 requests


class IndexStatistics(msgspec.Struct, frozen=True):
    """What this process has added, and why it could not; `behind_bytes` of the files are not yet read."""

    rows: int
    behind_bytes: int
    last_error: str | None


class AuditIndex:
    """See the module. Blocks, but for `keep_filled`; use it from one thread at a time."""

    def __init__(self, directory: Path, place: Place, node: str = "") -> None:
        self._directory = directory
        self._place = place
        self._node = node  # this machine among those that share a server
        self._database: Database | None = None
        self._file: tuple[int, int] | None = None  # device and inode of the store that is open
        self._oldest: dict[int, str] = {}  # slot -> the file before which nothing is indexed
        self._rows = 0
        self._behind_bytes = 0
        self._last_error: str | None = None

    def __repr__(self) -> str:
        return f"<AuditIndex {describe_place(self._place)}, {self._behind_bytes} bytes behind>"

    def close(self) -> None:
        """Close the store; the next use opens it again."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def statistics(self) -> IndexStatistics:
        """The figures now."""
        return IndexStatistics(self._rows, self._behind_bytes, self._last_error)

    async def keep_filled(self, interval_s: float = INTERVAL_S) -> None:
        """Fill it, again and again, in a thread; never raises but when cancelled.

        The busier the process was meanwhile, the longer are the pauses: a gateway under load is further behind, keeps
        its processor for requests, and makes up for it when there are fewer.
        """
        load = 0.0
        try:
            while True:
                began_s = trio.current_time()
                more = await trio.to_thread.run_sync(self._try_fill)
                ended_s, ended_cpu_s = trio.current_time(), time.process_time()
                await trio.sleep(pause_s(ended_s - began_s, load) if more else interval_s)
                load = min(1.0, (time.process_time() - ended_cpu_s) / max(PAUSE_S, trio.current_time() - ended_s))
        finally:
            self.close()

    def fill_some(self) -> bool:
        """Add the next batch of each slot; whether there may be more. Raises StoreUnavailable, OSError."""
        from securellm.accounts.audit_logs import read_positions  # not at the top: SQLAlchemy takes long to load

        database = self._open()
        positions = read_positions(database, self._node)
        more, behind_bytes = False, 0
        for slot in list_slots(self._directory):
            days = list_logs(self._directory, slot)
            more = self._forget_pruned(database, slot, days) or more
            read, left_bytes = self._fill_slot(database, slot, days, positions.get(slot))
            more = more or read
            behind_bytes += left_bytes
        self._behind_bytes = behind_bytes
        return more

    def fill(self, within_s: float | None = None) -> bool:
        """Add everything, for so long at most; whether it came to the end. Raises StoreUnavailable, OSError."""
        give_up_s = time.monotonic() + within_s if within_s is not None else None
        while self.fill_some():
            if give_up_s is not None and time.monotonic() >= give_up_s:
                return False
        return True

    def rebuild(self, progress: Callable[[int], None] = lambda rows: None) -> int:
        """Forget everything and read all files again; how many rows there are. Raises StoreUnavailable, OSError."""
        from securellm.accounts.audit_logs import count_rows, move_back, read_positions

        database = self._open()
        for position in read_positions(database, self._node).values():
            move_back(database, position, None, 0)
        while self.fill_some():
            progress(self._rows)
        return count_rows(database, self._node)

    def find(self, filters: Filters, limit: int) -> "list[Row]":
        """The newest rows that are asked for, oldest first. Raises StoreUnavailable."""
        from securellm.accounts.audit_logs import find_rows

        equal = {
            name: value
            for name in ("request_id", "user_id", "key_id", "provider", "model")
            if (value := getattr(filters, name)) is not None
        }
        among = {"status": filters.statuses, "event_type": filters.event_types}
        return find_rows(
            self._open(),
            equal=equal,
            among={name: values for name, values in among.items() if values},
            since=filters.since,
            until=filters.until,
            limit=limit,
        )

    def _try_fill(self) -> bool:
        try:
            more = self.fill_some()
        except (StoreUnavailable, OSError) as exc:
            self._note_failure(exc.message if isinstance(exc, StoreUnavailable) else reason_of(exc))
            return False
        if self._last_error is not None:
            log.info("the index of the audit log is filled again")
            self._last_error = None
        return more

    def _note_failure(self, reason: str) -> None:
        if self._last_error != reason:
            log.warning("the index of the audit log falls behind: %s", reason)
        self._last_error = reason

    def _open(self) -> "Database":
        from securellm.accounts.database import open_database

        if self._database is not None and self._identity() != self._file:
            self.close()
        if self._database is None:
            # What power loss takes from an index is read again from the files: it need not wait for the disk.
            self._database = open_database(self._place, int(time.time()), synchronous="NORMAL")
            self._file = self._identity()
        return self._database

    def _identity(self) -> tuple[int, int] | None:
        """What file the store is; None of a server."""
        if isinstance(self._place, Secret):
            return None
        try:
            found = os.stat(self._place)
        except OSError as exc:
            raise StoreUnavailable(f"{self._place} is gone: {reason_of(exc)}") from exc
        return found.st_dev, found.st_ino

    def _forget_pruned(self, database: "Database", slot: int, days: list[DayFile]) -> bool:
        """Forget rows of files that retention has deleted, a few at a time; whether there were any."""
        from securellm.accounts.audit_logs import delete_before

        if self._oldest.get(slot) == days[0].path.name:
            return False
        first_seq = _first_seq(days[0].path)
        if first_seq is not None and delete_before(database, self._node, slot, first_seq):
            return True
        self._oldest[slot] = days[0].path.name
        return False

    def _fill_slot(
        self, database: "Database", slot: int, days: list[DayFile], before: "Position | None"
    ) -> tuple[bool, int]:
        """Add a batch; whether another may follow at once, and how many bytes are left."""
        from securellm.accounts.audit_logs import Position, add_rows, move_back

        day, offset = _next_place(days, before)
        if day is None:
            return False, 0
        if before is not None and day.path.name == before.file and not _still_holds(day.path, before):
            log.warning("the index reads %s again: the file was cut back", day.path.name)
            first_seq = _first_seq(day.path)
            if first_seq is not None:
                move_back(database, before, Position(self._node, slot, day.path.name, 0, 0, ""), first_seq)
            else:
                move_back(database, before, None, 0)
            return True, 0
        rows: list[Values] = []
        line_offset, line, end, is_full = 0, b"", offset, False
        for line in _read_lines(day.path, offset):
            line_offset = end
            end += len(line) + 1
            if (values := parse_values(line)) is not None and values[0] == slot:
                rows.append(values)
                if len(rows) % LINES_A_TURN == 0:
                    time.sleep(0)  # lets the event loop have the interpreter's lock
            if end - offset >= BATCH_BYTES or len(rows) >= BATCH_LINES:
                is_full = True
                break
        left_bytes = sum(one.path.stat().st_size for one in days if one >= day) - end
        if end > offset:
            after = Position(self._node, slot, day.path.name, end, line_offset, hash_line(line))
        elif day is not days[-1]:  # it ends in a line that nobody will finish
            after = Position(self._node, slot, days[days.index(day) + 1].path.name, 0, 0, "")
        else:
            return False, max(0, left_bytes)
        if add_rows(database, rows, before, after):
            self._rows += len(rows)
        # What is written meanwhile waits for the interval: a batch of few lines costs almost as much as a full one.
        return is_full or day is not days[-1], max(0, left_bytes)


def pause_s(took_s: float, load: float) -> float:
    """How long to leave store and processor to others after a batch; `load` is 0 to 1, of one processor."""
    return max(PAUSE_S, took_s * (1 + BUSY_PAUSES * load))


def open_index(config: Config, directory: Path | None = None) -> AuditIndex:
    """The index of a configuration's log, or of the one in `directory`; close it. Raises StoreUnavailable."""
    from securellm.accounts.node import load_node

    return AuditIndex(directory or config.log_dir, config.database.place, load_node(config))


def _next_place(days: list[DayFile], before: "Position | None") -> tuple[DayFile | None, int]:
    """The file and offset where reading goes on; None when everything is read."""
    if before is None:
        return days[0], 0
    for day in days:
        if day.path.name == before.file:
            if day.path.stat().st_size != before.offset or day is days[-1]:
                return day, before.offset
        elif day.path.name > before.file:
            return day, 0
    return None, 0


def _still_holds(path: Path, position: "Position") -> bool:
    """Whether the file has, before the place, the line that it had."""
    if not position.line_hash:
        return True
    with path.open("rb") as file:
        file.seek(position.line_offset)
        raw = file.read(position.offset - position.line_offset)
    return raw.endswith(b"\n") and hash_line(raw[:-1]) == position.line_hash


def _read_lines(path: Path, offset: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            yield raw[:-1]


def _first_seq(path: Path) -> int | None:
    with path.open("rb") as file:
        raw = file.readline(MAX_LINE_BYTES + 1)
    head = parse_head(raw[:-1]) if raw.endswith(b"\n") else None
    return head.seq if head is not None else None
