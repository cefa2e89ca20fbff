"""Small real audit logs, and what an adversary can do to them: with the disk, or with the key, too."""

import hashlib
import re
from pathlib import Path

from securellm.audit.checkpoints import Checkpoint, Checkpointer, encode_text, parse_text
from securellm.audit.keys import SigningKey
from securellm.audit.note import parse_note
from securellm.audit.record import GENESIS, Record, encode_line, hash_line, timestamp

KEY = SigningKey(bytes(range(32)))
START_US = 1_795_305_600_000_000  # 2026-11-22T00:00:00Z
DAY_US = 86_400_000_000
LINE_OF_DAY2 = 12  # index of a line in the middle: a request's closing record, covered by a checkpoint


class LogBuilder:
    """Writes the chain of one slot into a directory, as the writer would: records, checkpoints, midnights."""

    def __init__(self, directory: Path, slot: int = 1, key: SigningKey = KEY, start_us: int = START_US) -> None:
        self.directory, self.slot, self.now_us = directory, slot, start_us
        self.seq, self.prev = 0, GENESIS
        self.checkpointer = Checkpointer(key, slot)
        self.date = timestamp(start_us)[:10]

    @property
    def log(self) -> Path:
        return self.directory / f"audit.{self.date}{'' if self.slot == 1 else f'.w{self.slot}'}.log"

    @property
    def checkpoints(self) -> Path:
        return self.log.with_suffix(".checkpoints")

    def record(self, event_type: str = "security_event", **fields: object) -> bytes:
        """Append one record, one second after the one before."""
        self.now_us += 1_000_000
        record = Record(timestamp(self.now_us), event_type, **fields)  # type: ignore[arg-type]
        line = encode_line(record, seq=self.seq + 1, slot=self.slot, prev=self.prev)
        self.seq, self.prev = self.seq + 1, hash_line(line)
        _append(self.log, line + b"\n")
        return line

    def request(self, number: int, **fields: object) -> None:
        """A pair: intent and closing record."""
        request_id = f"01930000-0000-7000-8000-{number:012x}"
        self.record("request_received", request_id=request_id, provider="demo", model="echo", stream=False)
        self.record("response_sent", request_id=request_id, status="success", http_status=200, **fields)

    def checkpoint(self, reason: str = "interval") -> bytes:
        """Append a checkpoint over all so far; what was appended, which is also what is kept elsewhere."""
        self.now_us += 1_000
        data = self.checkpointer.encode(self.seq, self.prev, self.now_us, reason)
        _append(self.checkpoints, data)
        self.checkpointer.written()
        return data

    def event(self, action: str, **detail: str | int) -> None:
        self.record("security_event", action=action, detail=detail or None)

    def midnight(self) -> None:
        """Rotate: sign the old day's end, and go on in the next day's file."""
        self.checkpoint("rotation")
        self.now_us = (self.now_us // DAY_US + 1) * DAY_US
        self.date = timestamp(self.now_us)[:10]

    def close(self) -> None:
        self.event("writer_stopped")
        self.checkpoint("close")


def build_log(directory: Path, *, days: int = 3, requests: int = 4, slot: int = 1) -> LogBuilder:
    """A log of so many days, each with so many requests and a checkpoint after each, closed at the end."""
    directory.mkdir(exist_ok=True)
    builder = LogBuilder(directory, slot)
    builder.event("writer_started")
    builder.checkpoint("start")
    for day in range(days):
        if day:
            builder.midnight()
        for number in range(requests):
            builder.request(day * requests + number)
            builder.checkpoint()
    builder.close()
    return builder


def read_lines(directory: Path) -> list[tuple[Path, bytes]]:
    """Every line of slot 1 with its file, in order, newlines included."""
    paths = sorted(path for path in directory.glob("audit.*.log") if ".w" not in path.name)
    return [(path, line) for path in paths for line in path.read_bytes().splitlines(keepends=True)]


def write_lines(lines: list[tuple[Path, bytes]]) -> None:
    """Put lines back into their files; a file without lines is deleted."""
    for path in {path for path, _ in lines}:
        path.write_bytes(b"")
    directory = lines[0][0].parent
    for path in directory.glob("audit.*.log"):
        if ".w" not in path.name:
            mine = b"".join(line for of, line in lines if of == path)
            path.write_bytes(mine) if mine else path.unlink()


def rechain(directory: Path) -> None:
    """What who has the disk can do after a change: give every line of slot 1 the number and `prev` that fit."""
    prev, fixed = GENESIS, []
    for seq, (path, line) in enumerate(read_lines(directory), 1):
        body = re.sub(rb'"seq":\d+', b'"seq":%d' % seq, line.rstrip(b"\n"), count=1)
        body = re.sub(rb'"prev":"[0-9a-f]{64}"', b'"prev":"%b"' % prev.encode(), body, count=1)
        prev = hash_line(body)
        fixed.append((path, body + b"\n"))
    write_lines(fixed)


def adapt_checkpoints(directory: Path, key: SigningKey | None = None) -> None:
    """Let every checkpoint of slot 1 say what the chain now is, links included; with the key, sign it again.

    Without the key the old signatures stay. Checkpoints beyond the end of the log are left out.
    """
    hashes = {seq: hash_line(line.rstrip(b"\n")) for seq, (_, line) in enumerate(read_lines(directory), 1)}
    before, number = bytes(32), 0
    for path in sorted(path for path in directory.glob("audit.*.checkpoints") if ".w" not in path.name):
        notes = split_notes(path.read_bytes())
        path.write_bytes(b"")
        for data in notes:
            old, signatures = parse_text(parse_note(data[:-1]).text), data[:-1].partition(b"\n\n")[2]
            if old.seq not in hashes:
                continue
            number += 1
            new = Checkpoint(old.installation, old.slot, old.seq, hashes[old.seq], old.time, old.reason, number, before)
            text = encode_text(new)
            note = key.sign_note(text) if key else text.encode() + b"\n" + signatures
            before = hashlib.sha256(note).digest()
            _append(path, note + b"\n")


def split_notes(data: bytes) -> list[bytes]:
    """The checkpoints of a file, each with the empty line that closes it."""
    return re.findall(rb"securellm-audit/.*?\n\n.*?\n\n", data, flags=re.DOTALL)


def public_key_file(directory: Path, key: SigningKey = KEY) -> Path:
    """Write the public key as an auditor gets it."""
    path = directory / "audit.pub"
    path.write_text(key.encode_public_key() + "\n")
    return path


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def edit_a_line(lines: list[tuple[Path, bytes]]) -> None:
    """Change what a record of the second day says."""
    path, line = lines[LINE_OF_DAY2]
    lines[LINE_OF_DAY2] = (path, line.replace(b'"success"', b'"timeout"'))
    assert lines[LINE_OF_DAY2][1] != line


def notes_of(tmp_path: Path, day: str) -> tuple[Path, list[bytes]]:
    """The checkpoint file of a day, and its notes one by one."""
    path = tmp_path / f"{day}.checkpoints"
    return path, split_notes(path.read_bytes())
