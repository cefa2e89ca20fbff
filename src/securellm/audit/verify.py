"""Verifies an audit log without the software that wrote it: one file, Python 3.9 or later, nothing to install.

    python verify.py DIRECTORY --key KEY [--all] [--from FILE] [--checkpoint FILE ...] [--json]

KEY is what `securellm audit public-key` prints, or a file that holds it. Ends with 0 when everything is good, with 1
when something is bad, with 2 when it was called wrongly or could not read. The format is docs/audit-format.md.

Every line of every slot is hashed, and its head (`v`, `seq`, `slot`, `prev`, `timestamp`, `event_type`) is compared
byte for byte; of the rest it is seen that it is UTF-8, without control characters, and closed. Every checkpoint is
compared with the chain, and its number and its link to the one before are followed; as each names the hash of the one
before, the last signature of each file vouches for the others. `--all` verifies every signature, and reads every line
as JSON in canonical form. Nothing is kept in memory but open requests and the checkpoints given with `--checkpoint`.

It imports nothing of securellm, and is longer than other modules, because an auditor is handed this file alone.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import datetime
import functools
import glob
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

GENESIS = "0" * 64
LONGEST_LINE = 1024 * 1024
LONGEST_NOTE_LINE = 4096
MOST_NOTE_LINES = 64
UNSIGNED_AT_MOST_S = 120  # a busy log is signed every 10 s, an idle one every 60 s
SHOWN_OPEN = 20  # request ids in the JSON

FIELDS = [
    "v",
    "seq",
    "slot",
    "prev",
    "timestamp",
    "event_type",
    "request_id",
    "client_request_id",
    "epoch",
    "user_id",
    "key_id",
    "client_ip",
    "endpoint",
    "requested_model",
    "provider",
    "model",
    "stream",
    "attempt",
    "status",
    "http_status",
    "error_code",
    "error_message",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "usage",
    "usage_source",
    "estimated_cost_usd",
    "cost_nusd",
    "price_table",
    "finish_reason",
    "duration_ms",
    "first_token_ms",
    "bytes_in",
    "bytes_out",
    "cache",
    "upstream_request_id",
    "dropped",
    "context_truncated",
    "request_sha256",
    "answer_sha256",
    "content",
    "request_content_sha256",
    "answer_content_sha256",
    "attempts",
    "action",
    "count",
    "detail",
    "saved_nusd",
    "overrun_nusd",
]

_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
_NUMBER = r"[1-9]\d{0,17}"
_SLOT = r"[1-9]\d{0,3}"
_NAME = re.compile(r"audit\.(\d{4}-\d\d-\d\d)(?:\.w([2-9]|[1-9]\d{1,3}))?\.(log|checkpoints)")
_HEAD = re.compile(
    (
        rf'\{{"v":1,"seq":({_NUMBER}),"slot":({_SLOT}),"prev":"([0-9a-f]{{64}})","timestamp":"({_TIME})",'
        r'"event_type":"([a-z_]+)"(?:,"request_id":"([^"\\]*)")?[,}]'
    ).encode()
)
_TEXT = re.compile(
    (
        rf"securellm-audit/([0-9a-f]{{16}})/({_SLOT})\n({_NUMBER})\n(\S{{44}})\n({_TIME})\n"
        rf"(start|interval|rotation|close|seal|prune)\n({_NUMBER})\n(\S{{44}})\n"
    ).encode()
)
_ORIGIN = re.compile(rb"securellm-audit/[0-9a-f]{16}/[0-9]+\n")
_SIGNATURE = re.compile("— ([^ +]+) ([A-Za-z0-9+/]+=*)\n".encode())
_KEY = re.compile(r"([^+\s]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]+=*)")
_CONTROLS = bytes(range(32))


@dataclass
class Problem:
    """Where something is bad, and what was expected there. `line` is 0 where no line is meant."""

    slot: int
    file: str
    line: int
    seq: int
    what: str
    expected: str = ""
    got: str = ""


class Bad(Exception):
    """Carries the first problem of a slot out of whatever found it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.what)
        self.problem = problem


class Unreadable(Exception):
    """What was given cannot be used: no verdict."""


class Key(NamedTuple):
    """A public key and the name that its signatures carry."""

    name: str
    hash: bytes
    public: bytes


class Note(NamedTuple):
    """A checkpoint and where it stands."""

    file: str
    line: int
    installation: str
    slot: int
    seq: int
    hash: str
    time: str
    reason: str
    number: int
    before: bytes
    text: bytes
    note_hash: bytes
    signatures: tuple[tuple[str, bytes], ...]


class File(NamedTuple):
    """A file as it was when the verification began; what is appended later is left for the next time."""

    date: str
    path: str
    size: int

    @property
    def name(self) -> str:
        """Without the directory."""
        return os.path.basename(self.path)


@dataclass
class Slot:
    """One chain: its files, and what was found.

    `signed`: up to where its own checkpoints go. `kept`: up to where a checkpoint kept elsewhere agrees; `kept_too_old`
    are those over records that are gone. `torn`: bytes of an unfinished write at the end of a file.
    """

    slot: int
    files: list[str] = field(default_factory=list)
    records: int = 0
    first_seq: int = 0
    last_seq: int = 0
    first_time: str = ""
    last_time: str = ""
    checkpoints: int = 0
    signatures_checked: int = 0
    signed_seq: int = 0
    signed_time: str = ""
    kept_seq: int = 0
    kept_time: str = ""
    kept_too_old: int = 0
    torn: dict[str, int] = field(default_factory=dict)


@dataclass
class Report:
    """The verdict and what it rests on."""

    good: bool = True
    problems: list[Problem] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    open_requests: int = 0
    open_request_ids: list[str] = field(default_factory=list)
    closings_without_intent: int = 0


class _Pruned(NamedTuple):
    """What a `pruned` event in the chain of `by` says."""

    by: int
    at_seq: int
    slot: int
    last_seq: int
    last_hash: str


def verify_directory(
    directory: str, keys: Sequence[Key], *, every: bool = False, since: Iterable[str] = (), kept: Iterable[str] = ()
) -> Report:
    """Verify all that is in a directory. `since`, `kept`: files of checkpoints. Raises Unreadable and OSError."""
    return _Verification(directory, keys, every, list(since), list(kept)).run()


def parse_key(text: str) -> Key:
    """A public key in the form of signed notes. Raises Unreadable."""
    match = _KEY.fullmatch(text.strip())
    data = _decode64(match[3].encode()) if match else None
    if not match or not data or len(data) != 33 or data[0] != 1:
        raise Unreadable("the key is no Ed25519 public key; `securellm audit public-key` prints it")
    key_hash = hashlib.sha256(match[1].encode() + b"\n" + data).digest()[:4]
    if key_hash.hex() != match[2]:
        raise Unreadable(f"the key is damaged: its hash is {key_hash.hex()}, its text says {match[2]}")
    return Key(match[1], key_hash, data[1:])


def load_key(text: str) -> Key:
    """The key in a text, else in the file that it names. Raises Unreadable and OSError."""
    if _KEY.fullmatch(text.strip()):
        return parse_key(text)
    with open(text, encoding="utf-8", errors="replace") as file:
        return parse_key(file.read(LONGEST_NOTE_LINE))


class _Verification:
    """One run over a directory: what its slots have in common."""

    def __init__(self, directory: str, keys: Sequence[Key], every: bool, since: list[str], kept: list[str]) -> None:
        self.keys = keys
        self.every = every
        # Checkpoints before logs: a log is always ahead of what signs it, also while the gateway is writing both.
        self.notes = _survey(directory, "checkpoints")
        self.logs = _survey(directory, "log")
        self.report = Report()
        self.open: dict[bytes, None] = {}
        self.pruned: list[_Pruned] = []
        self.since: dict[int, Note] = {}
        for note in _read_kept(since):
            if note.slot not in self.since or note.seq > self.since[note.slot].seq:
                self.since[note.slot] = note
        self.kept: dict[int, list[Note]] = {number: [note] for number, note in self.since.items()}
        for note in _read_kept(kept):
            self.kept.setdefault(note.slot, []).append(note)

    def run(self) -> Report:
        numbers = set(self.logs) | set(self.notes) | set(self.kept)
        if not numbers:
            raise Unreadable("there is no audit log here: no file named audit.<date>.log")
        chains = [_Chain(self, number) for number in range(1, max(numbers) + 1)]
        for chain in chains:
            try:
                chain.walk()
            except Bad as bad:
                self.report.problems.append(replace(bad.problem, slot=chain.slot.slot))
        if not self.report.problems:  # else the event that explains a beginning may not have been read
            for chain in chains:
                try:
                    chain.check_beginning([event for event in self.pruned if event.slot == chain.slot.slot], chains)
                except Bad as bad:
                    self.report.problems.append(bad.problem)
        report = self.report
        report.good = not report.problems
        report.slots = [chain.slot for chain in chains if chain.slot.slot in numbers]
        report.open_requests = len(self.open)
        report.open_request_ids = [name.decode("utf-8", "replace") for name in list(self.open)[:SHOWN_OPEN]]
        return report

    def check_signature(self, note: Note) -> None:
        """Raises Bad unless one of the keys has signed it."""
        for name, data in note.signatures:
            for key in self.keys:
                if name == key.name and data[:4] == key.hash:
                    if name == f"securellm-audit/{note.installation}" and verify_ed25519(
                        key.public, note.text, data[4:]
                    ):
                        return
                    what = f"the signature of checkpoint {note.number} does not hold"
                    raise _bad(note.slot, note.file, note.line, note.seq, what)
        expected, got = " or ".join(key.name for key in self.keys), ", ".join(name for name, _ in note.signatures)
        what = f"checkpoint {note.number} is not signed with the key that was given"
        raise _bad(note.slot, note.file, note.line, note.seq, what, expected, got)

    def take_event(self, slot: int, seq: int, file: str, line: int, head: re.Match[bytes], body: bytes) -> str:
        """Note what a record means for the whole; the action of a security event."""
        kind, request_id = head[5], head[6]
        if kind == b"request_received" and request_id is not None:
            self.open[request_id] = None
        elif kind in (b"response_sent", b"request_failed") and request_id is not None:
            if request_id in self.open:
                del self.open[request_id]
            else:
                self.report.closings_without_intent += 1
        elif kind == b"security_event":
            try:
                event = json.loads(body)
                action = str(event.get("action"))
                if action == "pruned":
                    said = event["detail"]
                    last_seq, last_hash = int(said["last_seq"]), str(said["last_hash"])
                    self.pruned.append(_Pruned(slot, seq, int(said["slot"]), last_seq, last_hash))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise _bad(slot, file, line, seq, "this is no security event of format version 1") from None
            return action
        return ""


class _Chain:
    """The walk along one slot's chain, its checkpoints beside it."""

    def __init__(self, whole: _Verification, number: int) -> None:
        self.whole = whole
        self.slot = Slot(number)
        self.since = whole.since.get(number)
        self.logs, self.notes = whole.logs.get(number, []), whole.notes.get(number, [])
        if self.since:
            self.logs = _from_file_of(self.logs, self.since.seq)
            self.notes = [file for file in self.notes if file.date >= self.since.time[:10]]
        self.slot.files = [file.name for file in self.logs]
        self.kept = sorted(whole.kept.get(number, ()), key=lambda note: -note.seq)  # the next is the last
        self.at, self.digest = 0, ""  # the place in the chain
        self.begin: tuple[str, str] | None = None  # file and `prev` of a beginning that is not the first record
        self.first_note: Note | None = None
        self.action, self.started = "", ""
        self.place = ("", 0)
        self.following = self._follow_notes()
        self.note: Note | None = None

    def walk(self) -> None:
        """Follow every line. Raises Bad at the first that is not as it was written."""
        self._check_kept()
        self.note = next(self.following, None)
        for file in self.logs:
            for number, line in _read_lines(file, LONGEST_LINE):
                if line[-1:] == b"\n":
                    self._take(file.name, number, line[:-1])
                elif file is self.logs[-1] and len(line) <= LONGEST_LINE:
                    self.slot.torn[file.name] = len(line)
                    break
                else:
                    what = "this line has no end, and it is not a torn write at the end of the newest file"
                    raise _bad(self.slot.slot, file.name, number, self.at + 1, what, "a newline", _show(line[-40:]))
        if self.slot.records:
            self._check_end()

    def _take(self, file: str, number: int, body: bytes) -> None:
        head = _HEAD.match(body)
        if head is None:
            what = f"this is no record of format version 1, {len(body)} bytes"
            raise _bad(self.slot.slot, file, number, self.at + 1, what, '{"v":1,"seq":…', _show(body[:60]))
        seq = int(head[1])
        if not self.slot.records:
            if self.since and seq < self.since.seq:
                return
            self._begin(file, number, seq, head)
        self._follow(file, number, seq, head)
        if self.whole.every:
            _check_canonical(self.slot.slot, file, number, seq, body)
        elif body[-1:] != b"}" or len(body.translate(None, _CONTROLS)) != len(body) or not _is_utf8(body):
            what, expected = "this line is not in canonical form", "UTF-8 without control characters, closed by }"
            raise _bad(self.slot.slot, file, number, seq, what, expected)
        self.at, self.digest, self.place = seq, hashlib.sha256(body).hexdigest(), (file, number)
        self.slot.records += 1
        self.slot.last_seq, self.slot.last_time = seq, head[4].decode()
        self.action = self.whole.take_event(self.slot.slot, seq, file, number, head, body)
        if self.action == "writer_started":
            self.started = self.slot.last_time
        self._compare()

    def _begin(self, file: str, number: int, seq: int, head: re.Match[bytes]) -> None:
        """The first line that counts: where the chain is taken up."""
        prev = head[3].decode()
        self.slot.first_seq, self.slot.first_time = seq, head[4].decode()
        self.place = (file, number)
        if self.since and seq > self.since.seq:
            self.at, self.digest = self.since.seq, self.since.hash
        else:
            self.at, self.digest = seq - 1, GENESIS if seq == 1 else prev
            if seq > 1 and not self.since:
                self.begin = (file, prev)
        self._compare()

    def _follow(self, file: str, number: int, seq: int, head: re.Match[bytes]) -> None:
        """Whether the line is the one that comes next."""
        expected = self.at + 1
        if seq > expected:
            count = seq - expected
            what = f"{count:,} record{'s are' if count > 1 else ' is'} missing before this line"
            raise _bad(self.slot.slot, file, number, expected, what, f"seq {expected}", f"seq {seq}")
        if seq < expected:
            what = "a second record with this number: a copy, an insertion, or another history of the same log"
            raise _bad(self.slot.slot, file, number, seq, what, f"seq {expected}", f"seq {seq}")
        if head[3].decode() != self.digest:
            what = "the line before was changed, or this one does not belong here"
            raise _bad(self.slot.slot, file, number, seq, what, f"prev {self.digest}", f"prev {head[3].decode()}")
        if int(head[2]) != self.slot.slot:
            what, got = "this record belongs to another slot", f"slot {int(head[2])}"
            raise _bad(self.slot.slot, file, number, seq, what, f"slot {self.slot.slot}", got)

    def _compare(self) -> None:
        """Compare the checkpoints over the record just read. Those over older ones come only where the log begins."""
        file, line = self.place
        while self.note and self.note.seq <= self.at:
            note = self.note
            if note.seq == self.at and note.hash != self.digest:
                self.whole.check_signature(note)  # else it is the checkpoint that was changed
                what = f"this record, or one before it, is not what checkpoint {note.number} signs ({note.file})"
                raise _bad(note.slot, file, line, note.seq, what, note.hash, self.digest)
            self.slot.signed_seq, self.slot.signed_time = note.seq, note.time
            self.note = next(self.following, None)
        while self.kept and self.kept[-1].seq <= self.at:
            note = self.kept.pop()
            if note.seq < self.at:
                self.slot.kept_too_old += 1
                continue
            if note.hash != self.digest:
                self.whole.check_signature(note)
                what = (
                    f"another history: this record, or one before it, is not the one of the checkpoint in {note.file}"
                )
                raise _bad(note.slot, file, line, note.seq, what, note.hash, self.digest)
            self.slot.kept_seq, self.slot.kept_time = note.seq, note.time

    def _follow_notes(self) -> Iterator[Note]:
        """The slot's checkpoints, each in its place among them, the last of each file with its signature checked."""
        before = self.since
        for file in self.notes:
            held: Note | None = None
            for note in _read_notes(file, self.slot.torn):
                if self.since and note.number <= self.since.number:
                    continue
                self._check_link(note, before)
                if held:
                    yield self._count(held, self.whole.every)
                held = before = note
            if held:
                yield self._count(held, True)

    def _check_link(self, note: Note, before: Note | None) -> None:
        place = (self.slot.slot, note.file, note.line, note.seq)
        if note.slot != self.slot.slot:
            what = "this checkpoint belongs to another slot"
            raise _bad(*place, what, f"slot {self.slot.slot}", f"slot {note.slot}")
        if before is None:
            self.first_note = note
            if note.number == 1 and any(note.before):
                raise _bad(*place, "the first checkpoint names one before it")
            return
        if note.number != before.number + 1:
            what = "checkpoints are missing here, or out of order"
            raise _bad(*place, what, f"checkpoint {before.number + 1}", f"checkpoint {note.number}")
        if before is not self.since and note.before != before.note_hash:
            what = f"checkpoint {before.number} was changed, or this one does not belong here"
            raise _bad(*place, what, f"hash {before.note_hash.hex()}", f"hash {note.before.hex()}")
        if note.seq < before.seq:
            what = "this checkpoint covers less than the one before it"
            raise _bad(*place, what, f"seq {before.seq} or more", f"seq {note.seq}")

    def _count(self, note: Note, check: bool) -> Note:
        self.slot.checkpoints += 1
        if check:
            self.whole.check_signature(note)
            self.slot.signatures_checked += 1
        return note

    def _check_kept(self) -> None:
        """Of the checkpoints kept elsewhere, the newest of each file; one that disagrees is checked when it does."""
        newest = {note.file: note for note in reversed(self.kept)}
        for note in self.kept if self.whole.every else newest.values():
            self.whole.check_signature(note)

    def _check_end(self) -> None:
        """Whether the log goes as far as it is known to have gone."""
        slot, (file, line) = self.slot, self.place
        place = (slot.slot, file, line, slot.last_seq)
        got = f"the last record has seq {slot.last_seq}"
        if self.note:
            self.whole.check_signature(self.note)
            what = f"the end of the log was cut off: checkpoint {self.note.number} ({self.note.file}) covers more"
            raise _bad(*place, what, f"seq {self.note.seq} of {self.note.time}", got)
        if self.kept:
            note = self.kept[-1]
            self.whole.check_signature(note)
            what = f"the end of the log and its checkpoints were cut off: the checkpoint in {note.file} covers more"
            raise _bad(*place, what, f"seq {note.seq} of {note.time}", got)
        signed_seq = max(slot.signed_seq, self.since.seq if self.since else 0)
        if not signed_seq:
            raise _bad(*place, "nothing in this slot is signed: its checkpoints are missing")
        since = max(slot.signed_time, slot.kept_time, self.started)  # what a start finds and adds is signed after it
        unsigned_s = _seconds(slot.last_time) - _seconds(since)
        closed = self.action in ("writer_stopped", "slot_sealed")
        if slot.last_seq > signed_seq and (closed or unsigned_s > UNSIGNED_AT_MOST_S):
            what = "checkpoints are missing: these records would have been signed long since"
            if closed:
                what = "the last checkpoints are missing: a log that was closed is signed to its end"
            raise _bad(*place, what, f"a checkpoint over seq {slot.last_seq}", f"the last covers seq {signed_seq}")

    def check_beginning(self, pruned: list[_Pruned], chains: list[_Chain]) -> None:
        """Whether what is not there any more may be gone. Raises Bad."""
        signed = [event for event in pruned if event.at_seq <= chains[event.by - 1].slot.signed_seq]
        may_go = max((event.last_seq for event in signed), default=0)
        number = self.slot.slot
        if not self.slot.records:
            for note in self.following:
                self.note = note
            last = max(self.note.seq if self.note else 0, self.kept[0].seq if self.kept else 0)
            if (last or not self.logs) and may_go < max(last, 1):
                what = "there is no record of this slot, though there has to be: its files were deleted"
                raise _bad(number, "", 0, last, what, f"records up to seq {last}" if last else "")
            return
        if self.begin:
            file, prev = self.begin
            gone = self.slot.first_seq - 1
            if may_go < gone:
                what = f"the log begins with seq {gone + 1:,}: what was before it is missing, and no signed `pruned` "
                raise _bad(number, file, 1, 1, what + "event says that it may be", "seq 1", f"seq {gone + 1}")
            for event in signed:
                if event.last_seq == gone and event.last_hash != prev:
                    what = "the log does not continue what was pruned"
                    raise _bad(number, file, 1, gone + 1, what, f"prev {event.last_hash}", f"prev {prev}")
        elif self.first_note and self.first_note.number > 1:  # beside a pruned log, older checkpoints are gone, too
            note, what = self.first_note, "checkpoints before this one are missing"
            raise _bad(number, note.file, note.line, note.seq, what, "checkpoint 1", f"checkpoint {note.number}")


def _survey(directory: str, kind: str) -> dict[int, list[File]]:
    """The files of a kind by slot, oldest first."""
    found: dict[int, list[File]] = {}
    for entry in os.scandir(directory):
        match = _NAME.fullmatch(entry.name)
        if match and match[3] == kind:
            found.setdefault(int(match[2] or 1), []).append(File(match[1], entry.path, os.stat(entry.path).st_size))
    return {slot: sorted(files) for slot, files in found.items()}


def _from_file_of(logs: list[File], seq: int) -> list[File]:
    """Without the files that end before the record."""
    for index in range(len(logs) - 1, 0, -1):
        first = next(_read_lines(logs[index], LONGEST_LINE), (0, b""))[1]
        head = _HEAD.match(first)
        if head and int(head[1]) <= seq:
            return logs[index:]
    return logs


def _read_lines(file: File, longest: int) -> Iterator[tuple[int, bytes]]:
    """The lines with their newlines, numbered from 1; one that is too long comes cut, and is the last."""
    left, number = file.size, 0
    with open(file.path, "rb") as stream:
        while left > 0:
            line = stream.readline(min(left, longest + 1))
            if not line:
                return
            left -= len(line)
            number += 1
            yield number, line
            if line[-1:] != b"\n":
                return


def _read_notes(file: File, torn: dict[str, int], *, loose: bool = False) -> Iterator[Note]:
    """The checkpoints of a file; what is left of a torn one is counted.

    `loose`, for what was copied or cut out by hand: the last may lack its empty line, torn ones are passed over.
    """
    note: list[bytes] = []
    text: bytes | None = None
    start, number = 1, 0
    for number, line in _read_lines(file, LONGEST_NOTE_LINE):
        begins = _ORIGIN.search(line) if loose else None
        if begins:
            note, text, line = [], None, line[begins.start() :]
        start = start if note else number
        if line == b"\n" and text is not None:
            yield _parse_note(file, start, text, b"".join(note))
            note, text = [], None
            continue
        if line == b"\n":
            text = b"".join(note)
        note.append(line)
        if len(note) > MOST_NOTE_LINES or len(line) > LONGEST_NOTE_LINE:
            raise _bad(0, file.name, start, 0, "this is no checkpoint of format version 1")
    if loose and text is not None and note[-1][-1:] == b"\n":
        yield _parse_note(file, start, text, b"".join(note))
    elif note:
        torn[file.name] = sum(map(len, note))


def _parse_note(file: File, line: int, text: bytes, note: bytes) -> Note:
    match = _TEXT.fullmatch(text)
    digest, before = (_decode64(match[4]), _decode64(match[8])) if match else (None, None)
    below = note[len(text) + 1 :]
    found = _SIGNATURE.findall(below)
    signatures = [(name.decode("utf-8", "replace"), _decode64(data)) for name, data in found]
    whole = b"".join(b"\xe2\x80\x94 " + name + b" " + data + b"\n" for name, data in found) == below
    if not match or digest is None or before is None or not whole or not found:
        raise _bad(0, file.name, line, 0, "this is no checkpoint of format version 1", "", _show(text[:60]))
    return Note(
        file=file.name,
        line=line,
        installation=match[1].decode(),
        slot=int(match[2]),
        seq=int(match[3]),
        hash=digest.hex(),
        time=match[5].decode(),
        reason=match[6].decode(),
        number=int(match[7]),
        before=before,
        text=text,
        note_hash=hashlib.sha256(note).digest(),
        signatures=tuple((name, data) for name, data in signatures if data),
    )


def _read_kept(paths: list[str]) -> Iterator[Note]:
    """Checkpoints that were kept elsewhere, in files or directories. Raises Unreadable."""
    for given in paths:
        inside = sorted(glob.glob(os.path.join(glob.escape(given), "*.checkpoints")))
        found = 0
        for path in inside if os.path.isdir(given) else [given]:
            try:
                for note in _read_notes(File("", path, os.stat(path).st_size), {}, loose=True):
                    found += 1
                    yield note._replace(file=path)
            except Bad as bad:
                raise Unreadable(f"{path}, line {bad.problem.line}: {bad.problem.what}") from None
        if not found:
            raise Unreadable(f"{given} holds no checkpoint")


def _check_canonical(slot: int, file: str, line: int, seq: int, body: bytes) -> None:
    """Whether the line is JSON, and in the only form that the format allows. Raises Bad."""
    try:
        record = json.loads(body, object_pairs_hook=_distinct, parse_constant=_refuse)
        names = [FIELDS.index(name) for name in record if name in FIELDS]  # a later version may add fields
        wrong = "" if names == sorted(names) else "its fields are not in the order of the format"
    except (ValueError, RecursionError) as exc:
        wrong = f"it is not JSON, or has a name twice ({exc})"
    bare = re.sub(rb'"[^"\\]*(?:\\.[^"\\]*)*"', b"", body)
    if not wrong and re.search(rb"[\s+]|\d[eE]|null", bare):
        wrong = "it has white space, an exponent, or a null"
    if not wrong and (
        len(body.translate(None, _CONTROLS)) != len(body)
        or re.search(rb'\\(?!["bfnrt]|u00(?:0[0-7bef]|1[0-9a-f]))', body.replace(rb"\\", b""))
    ):
        wrong = "it has a control character, or an escape that is not needed"
    if wrong:
        raise _bad(slot, file, line, seq, f"this line is not in canonical form: {wrong}")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name twice")
    return dict(pairs)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _seconds(time: str) -> float:
    try:
        return datetime.datetime.fromisoformat(time[:-1] + "+00:00").timestamp()
    except ValueError:
        return 0.0


def _decode64(text: bytes) -> bytes | None:
    """Strict: one value has one text."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data) == text else None


def _show(data: bytes) -> str:
    return repr(data)[2:-1]


def _bad(slot: int, file: str, line: int, seq: int, what: str, expected: str = "", got: str = "") -> Bad:
    return Bad(Problem(slot, file, line, seq, what, expected, got))


# Ed25519, as RFC 8032 has it, section 5.1. Verifying needs no secrecy, so nothing here runs in constant time. Points
# are (X, Y, Z, T) with x = X/Z, y = Y/Z, x*y = T/Z. Multiples of the two points that recur, the base and the key, come
# from tables, so that a signature costs less than a millisecond.

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT_OF_MINUS_1 = pow(2, (_P - 1) // 4, _P)
_NEUTRAL = (0, 1, 1, 0)
_BASE_Y = 4 * pow(5, -1, _P) % _P

_Point = tuple[int, int, int, int]


def verify_ed25519(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature of the message holds, without cofactor, as most implementations check it."""
    if len(public) != 32 or len(signature) != 64:
        return False
    table = _table_of_negative(public)
    s = int.from_bytes(signature[32:], "little")
    if table is None or s >= _L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % _L
    x, y, z, _ = _add(_multiply(_table_of_base(), s), _multiply(table, k))
    inverse = pow(z, -1, _P)
    encoded = (y * inverse % _P) | ((x * inverse % _P & 1) << 255)
    return encoded.to_bytes(32, "little") == signature[:32]


def _add(one: _Point, other: _Point) -> _Point:
    x1, y1, z1, t1 = one
    x2, y2, z2, t2 = other
    a, b = (y1 - x1) * (y2 - x2) % _P, (y1 + x1) * (y2 + x2) % _P
    c, d = 2 * t1 * t2 * _D % _P, 2 * z1 * z2 % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _decode_point(data: bytes) -> _Point | None:
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, number & (2**255 - 1)
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT_OF_MINUS_1 % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    x = _P - x if x & 1 != sign else x
    return (x, y, 1, x * y % _P)


def _multiply(table: list[list[_Point]], scalar: int) -> _Point:
    point = _NEUTRAL
    for row, digit in zip(table, scalar.to_bytes(32, "little")):  # noqa: B905 -- not in Python 3.9
        if digit:
            point = _add(point, row[digit])
    return point


def _make_table(point: _Point) -> list[list[_Point]]:
    """In row i the multiples of 256**i times the point, from 0 to 255 times."""
    table = []
    for _ in range(32):
        row = [_NEUTRAL, point]
        for _ in range(254):
            row.append(_add(row[-1], point))
        table.append(row)
        point = _add(row[-1], point)
    return table


@functools.cache
def _table_of_base() -> list[list[_Point]]:
    base = _decode_point(_BASE_Y.to_bytes(32, "little"))
    assert base is not None
    return _make_table(base)


@functools.lru_cache(maxsize=4)
def _table_of_negative(public: bytes) -> list[list[_Point]] | None:
    point = _decode_point(public)
    if point is None:
        return None
    x, y, z, t = point
    return _make_table((-x % _P, y, z, -t % _P))


def describe(report: Report) -> list[str]:
    """The report in lines for people."""
    lines = []
    for index, problem in enumerate(report.problems):
        where = f"{problem.file}, line {problem.line}, seq {problem.seq}" if problem.file else f"slot {problem.slot}"
        lines.append(f"{'BAD' if not index else 'also'}: {where}: {problem.what}")
        lines += [f"  expected {problem.expected}"] if problem.expected else []
        lines += [f"  got      {problem.got}"] if problem.got else []
    if report.good:
        records, checkpoints = (
            sum(slot.records for slot in report.slots),
            sum(slot.checkpoints for slot in report.slots),
        )
        signatures = sum(slot.signatures_checked for slot in report.slots)
        files = sum(len(slot.files) for slot in report.slots)
        lines.append(
            f"good: {_count(records, 'record')} in {_count(files, 'file')}, every hash followed; "
            f"{_count(checkpoints, 'checkpoint')}, {_count(signatures, 'signature')} verified"
        )
        for slot in report.slots:
            lines += _describe_slot(slot)
        if report.open_requests:
            are = "request is" if report.open_requests == 1 else "requests are"
            lines.append(
                f"{report.open_requests:,} {are} open: going on, or cut off by a crash after which no start came"
            )
        lines.append("What was recorded after those times could have been cut off, log and checkpoints together.")
        if not all(slot.kept_seq for slot in report.slots if slot.records):
            lines.append(
                "And whoever has the signing key can have rewritten all of it. What was before a checkpoint kept"
            )
            lines.append("elsewhere cannot be cut off or rewritten unseen: --checkpoint FILE compares with one.")
    else:
        lines.append("What comes after a bad place in its slot was not looked at.")
    return lines


def _describe_slot(slot: Slot) -> list[str]:
    lines = [f"slot {slot.slot}: seq {slot.first_seq} to {slot.last_seq}, {slot.first_time} to {slot.last_time}"]
    if not slot.records:
        lines = [f"slot {slot.slot}: no records"]
    unsigned = slot.last_seq - max(slot.signed_seq, slot.kept_seq)
    if unsigned > 0:
        lines.append(f"  not signed yet, so open to change: the last {_count(unsigned, 'record')}")
    for name, size in slot.torn.items():
        lines.append(
            f"  {name} ends in {_count(size, 'byte')} of an unfinished write: a crash or one going on, no tampering"
        )
    if slot.kept_too_old:
        lines.append(
            f"  not compared, as what it covers is pruned: {_count(slot.kept_too_old, 'checkpoint')} kept elsewhere"
        )
    if slot.kept_seq:
        lines.append(f"  up to {slot.kept_time} (seq {slot.kept_seq}) a checkpoint kept elsewhere agrees:")
        lines.append("    until then nothing was changed or left out since, whoever has the signing key")
    if slot.records:
        lines.append(f"  nothing can be excluded after {slot.kept_time or slot.signed_time}")
    return lines


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options; ends the process when they are wrong."""
    parser = argparse.ArgumentParser(description="Verify an audit log of SecureLLM Bridge.", allow_abbrev=False)
    parser.add_argument("directory", metavar="DIRECTORY", help="where the files audit.<date>.log are")
    repeated: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("--key", required=True, help="the public key, or a file with it; may be repeated", **repeated)
    parser.add_argument("--all", action="store_true", help="verify every signature, and every line's canonical form")
    parser.add_argument(
        "--from", dest="since", metavar="FILE", help="begin at this checkpoint kept elsewhere", **repeated
    )
    where = "compare with checkpoints kept elsewhere, in a file or directory"
    parser.add_argument("--checkpoint", metavar="FILE", help=where, **repeated)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit code."""
    options = read_options(arguments)
    try:
        keys = [load_key(key) for key in options.key]
        report = verify_directory(
            options.directory, keys, every=options.all, since=options.since, kept=options.checkpoint
        )
    except (Unreadable, OSError) as exc:
        print(f"not verified: {exc}", file=sys.stderr)
        return 2
    print(json.dumps(asdict(report), indent=2) if options.json else "\n".join(describe(report)))
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
