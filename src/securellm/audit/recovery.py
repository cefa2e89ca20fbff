"""What a slot's files say when it is taken over: where its chain ends, and which requests it left open.

A crash can leave three things behind, and each is put right before the first new record:
- a torn tail: whatever follows the last good line of the newest file is cut off and kept beside it as
  `<file>.torn-<time>`. Only what one commit may have left unsynced is ever cut (`MAX_TORN_BYTES`, and nothing that a
  checkpoint covers); a bad line further back is damage, not a crash: it stays for `audit verify` to show, and the
  chain goes on from the last line.
- lines that are read from the page cache though they never reached the disk (a failed fsync marks pages as clean): the
  end of the file is written once more.
- open intents: each gets a closing record with status `interrupted`.

Reading starts at the slot's mark, `slot-<n>.mark`: with every checkpoint the writer notes the place of its oldest open
intent, or of its last line when there is none. So recovery reads what was written since, and as far back as the
longest request that was open; a mark is at worst too old, which costs reading and nothing else. Without a good mark
(it names a line by number and hash) it reads whole files: the newest, and those of as many days before as a request
may take (`audit` is given the total timeout), and one more. Rejected: a list of the open requests in the chain, which
would make every checkpoint as long as there are requests in flight.
"""

import logging
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from securellm.audit.checkpoints import TAIL_BYTES, Tail, parse_tail
from securellm.audit.disk import Disk, write_all
from securellm.audit.files import DayFile, days_before, list_checkpoints, list_logs
from securellm.audit.note import NoteMalformed
from securellm.audit.record import GENESIS, Record, hash_line, timestamp

log = logging.getLogger(__name__)

MAX_TORN_BYTES = 4 * 1024 * 1024  # what a commit holds at most, with room to spare
MARK_BYTES = 256  # a mark is padded to one length, so that a new one covers the old one
SECONDS_PER_DAY = 86_400


class Mark(msgspec.Struct, frozen=True):
    """A line that is on disk: from here on recovery reads."""

    file: str
    offset: int
    seq: int
    hash: str


class Recovered(msgspec.Struct, frozen=True):
    """The state in which a slot was found, put right."""

    seq: int
    prev: str
    day: DayFile | None  # the newest file; None when the slot is new
    length: int  # of that file
    last: Mark | None  # the last line
    tail: Tail | None  # the last checkpoint; None when there is none
    records: list[Record]  # to be written first: what was cut, and the ends of interrupted requests


class _Placed(msgspec.Struct, frozen=True):
    seq: int
    slot: int
    prev: str
    event_type: str
    request_id: str | None = None


_decode_placed = msgspec.json.Decoder(_Placed).decode
_decode_record = msgspec.json.Decoder(Record).decode


def mark_path(directory: Path, slot: int) -> Path:
    """Where a slot's mark is."""
    return directory / f"slot-{slot}.mark"


def encode_mark(mark: Mark) -> bytes:
    """A mark as its file has it."""
    return msgspec.json.encode(mark).ljust(MARK_BYTES - 1) + b"\n"


def recover(
    directory: Path,
    slot: int,
    disk: Disk,
    told: list[Record],
    *,
    now_us: Callable[[], int],
    longest_request_s: float,
) -> Recovered:
    """Read a slot's files back and put right what a crash left. Raises OSError; it may then be called again.

    `told` takes the record of a cut as soon as it is made, and is to be given again with the next attempt.
    """
    logs = list_logs(directory, slot)
    tail = _recover_checkpoints(directory, slot, disk)
    signed_seq = tail.last.seq if tail is not None and tail.last is not None else 0
    mark = _read_mark(directory, slot, logs)
    walk = _Walk(slot, signed_seq)
    for day, offset, is_newest in _parts(logs, mark, longest_request_s):
        walk.read(day, offset, is_newest=is_newest)
    now = now_us()
    if logs and walk.end < walk.size:
        told.append(_cut(logs[-1], walk, disk, now))
    if logs:
        _write_again(logs[-1].path, walk.end, disk)
    records = list(told)
    if walk.seq < signed_seq:
        log.error("the audit log ends at record %d, but a checkpoint covers %d", walk.seq, signed_seq)
        missing: dict[str, str | int] = {"last_seq": walk.seq, "checkpoint_seq": signed_seq}
        records.append(Record(timestamp(now), "security_event", action="tail_cut", detail=missing))
    records += [_interrupted(line, now) for line in walk.open.values()]
    return Recovered(
        seq=walk.seq,
        prev=walk.prev,
        day=logs[-1] if logs else None,
        length=walk.end,
        last=walk.last,
        tail=tail,
        records=records,
    )


class _Walk:
    """Reads lines in the order of the chain."""

    def __init__(self, slot: int, signed_seq: int) -> None:
        self._slot = slot
        self._signed_seq = signed_seq
        self.seq = 0
        self.prev = GENESIS
        self.last: Mark | None = None
        self.open: dict[str, bytes] = {}  # request id -> its last line
        self.end = 0  # of the good part of the file that was read last
        self.size = 0  # of that file

    def read(self, day: DayFile, offset: int, *, is_newest: bool) -> None:
        """Take the lines of a file from `offset`. In the newest, stops where a torn tail begins."""
        joined = False  # a file's first line is taken as it is: what comes before it may be gone
        with day.path.open("rb") as file:
            self.size = file.seek(0, 2)
            file.seek(offset)
            self.end = offset
            for raw in file:
                placed = _parse(raw)
                if placed is not None and placed.slot == self._slot and (not joined or self._follows(placed)):
                    self._take(day, placed, raw[:-1])
                    joined = True
                elif is_newest and self._may_be_torn(raw):
                    return
                else:
                    log.error("a line of the audit log is damaged: %s, byte %d", day.path.name, self.end)
                    joined = False
                self.end += len(raw)

    def _follows(self, placed: _Placed) -> bool:
        return placed.seq == self.seq + 1 and placed.prev == self.prev

    def _may_be_torn(self, raw: bytes) -> bool:
        if not raw.endswith(b"\n"):
            return True  # nothing may be written behind it
        return self.size - self.end <= MAX_TORN_BYTES and self.seq >= self._signed_seq

    def _take(self, day: DayFile, placed: _Placed, line: bytes) -> None:
        self.seq, self.prev = placed.seq, hash_line(line)
        self.last = Mark(day.path.name, self.end, self.seq, self.prev)
        if placed.request_id is None:
            return
        if placed.event_type in ("response_sent", "request_failed"):
            self.open.pop(placed.request_id, None)
        elif placed.event_type == "request_received" or placed.request_id in self.open:
            self.open[placed.request_id] = line


def _parse(raw: bytes) -> _Placed | None:
    if not raw.endswith(b"\n"):
        return None
    try:
        return _decode_placed(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _parts(logs: list[DayFile], mark: Mark | None, longest_request_s: float) -> Iterator[tuple[DayFile, int, bool]]:
    """The files to be read: each with where to begin, and whether it is the newest."""
    if not logs:
        return
    if mark is not None:
        first = next(place for place, day in enumerate(logs) if day.path.name == mark.file)
    else:
        filled = [place for place, day in enumerate(logs) if day.path.stat().st_size] or [0]
        days = 1 + math.ceil(longest_request_s / SECONDS_PER_DAY)
        oldest = days_before(logs[filled[-1]].date, days)
        first = next(place for place in filled if logs[place].date >= oldest)
    for place in range(first, len(logs)):
        begin = mark.offset if mark is not None and place == first else 0
        yield logs[place], begin, place == len(logs) - 1


def _read_mark(directory: Path, slot: int, logs: list[DayFile]) -> Mark | None:
    """The slot's mark; None when there is none, or it is not true of the files."""
    try:
        mark = msgspec.json.decode(mark_path(directory, slot).read_bytes(), type=Mark)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    path = next((day.path for day in logs if day.path.name == mark.file), None)
    if path is None or mark.offset < 0:
        return None
    with path.open("rb") as file:
        file.seek(mark.offset)
        raw = file.readline()
    return mark if raw.endswith(b"\n") and hash_line(raw[:-1]) == mark.hash else None


def _recover_checkpoints(directory: Path, slot: int, disk: Disk) -> Tail | None:
    """The slot's last checkpoint; one that was not written whole is cut off."""
    for day in reversed(list_checkpoints(directory, slot)):
        with day.path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            data = file.read()
        try:
            tail = parse_tail(data)
        except NoteMalformed as exc:
            log.error("the last checkpoint in %s cannot be read: %s", day.path.name, exc)
            continue
        if tail.torn_bytes:
            _truncate(day.path, size - tail.torn_bytes, disk)
        if tail.last is not None:
            return tail
    return None


def _cut(day: DayFile, walk: _Walk, disk: Disk, now_us: int) -> Record:
    """Cut the torn tail off, once it is kept beside; the record that says so."""
    with day.path.open("rb") as file:
        file.seek(walk.end)
        torn = file.read()
    moment = re.sub(r"[-:]", "", timestamp(now_us))
    kept = day.path.with_name(f"{day.path.name}.torn-{moment}")
    copy = disk.open(kept)
    try:
        copy.truncate(0)
        write_all(copy, torn, 0)
    finally:
        copy.close()
    _truncate(day.path, walk.end, disk)
    log.warning("a torn tail of %d bytes was cut off %s and kept as %s", len(torn), day.path.name, kept.name)
    detail: dict[str, str | int] = {
        "file": day.path.name,
        "offset": walk.end,
        "bytes": len(torn),
        "last_seq": walk.seq,
        "kept": kept.name,
    }
    return Record(timestamp(now_us), "security_event", action="tail_cut", detail=detail)


def _truncate(path: Path, length: int, disk: Disk) -> None:
    file = disk.open(path)
    try:
        file.truncate(length)
        file.sync()
    finally:
        file.close()


def _write_again(path: Path, length: int, disk: Disk) -> None:
    start = max(0, length - MAX_TORN_BYTES)
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(length - start)
    target = disk.open(path)
    try:
        write_all(target, data, start)
    finally:
        target.close()


def _interrupted(line: bytes, now_us: int) -> Record:
    """The end of a request that a crash interrupted; `line` is the last that it left."""
    try:
        begun = _decode_record(line)
    except msgspec.DecodeError:
        begun = Record("", "", request_id=_decode_placed(line).request_id)
    return Record(
        timestamp(now_us),
        "request_failed",
        request_id=begun.request_id,
        client_request_id=begun.client_request_id,
        epoch=begun.epoch,
        user_id=begun.user_id,
        key_id=begun.key_id,
        client_ip=begun.client_ip,
        endpoint=begun.endpoint,
        requested_model=begun.requested_model,
        provider=begun.provider,
        model=begun.model,
        stream=begun.stream,
        status="interrupted",
        error_code="interrupted",
        error_message="the gateway stopped before the request ended",
    )
