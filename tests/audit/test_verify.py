"""What `verify` finds: one kind of tampering a test, by who has the disk, who adapts the chain, who has the key.

`rechain` and `adapt_checkpoints` are the adversary's; the expected line is the first bad place.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from rig.tampering import (
    KEY,
    LINE_OF_DAY2,
    LogBuilder,
    adapt_checkpoints,
    build_log,
    edit_a_line,
    notes_of,
    read_lines,
    rechain,
    split_notes,
    write_lines,
)
from securellm.audit import verify
from securellm.audit.checkpoints import Checkpointer, encode_text, parse_tail, parse_text
from securellm.audit.keys import SigningKey
from securellm.audit.note import parse_note

Change = Callable[[list[tuple[Path, bytes]]], None]
KEYS = [verify.parse_key(KEY.encode_public_key())]
DAY1, DAY2, DAY3 = (f"audit.2026-11-2{day}" for day in (2, 3, 4))


def _verify(directory: Path, **options: object) -> verify.Report:
    return verify.verify_directory(str(directory), KEYS, **options)  # type: ignore[arg-type]


def _first(report: verify.Report) -> tuple[str, int, int]:
    assert not report.good
    first = report.problems[0]
    return first.file, first.line, first.seq


def _said(report: verify.Report) -> str:
    return "\n".join(verify.describe(report))


@pytest.mark.parametrize("every", [False, True])
def test_a_log_as_it_was_written_is_good(tmp_path: Path, every: bool) -> None:
    """Three days, one file each: all records, all checkpoints, each file's last signature, or every one."""
    built = build_log(tmp_path)
    report = _verify(tmp_path, every=every)
    assert report.problems == []
    [slot] = report.slots
    assert (slot.first_seq, slot.last_seq, slot.records, slot.signed_seq) == (1, built.seq, built.seq, built.seq)
    assert (slot.checkpoints, slot.signatures_checked) == (16, 16 if every else 3)
    assert (report.open_requests, report.closings_without_intent, slot.torn) == (0, 0, {})
    assert slot.files == [f"{day}.log" for day in (DAY1, DAY2, DAY3)]


# Each changes the lines of the log and names the first line that then is not what it has to be.


def _delete(lines: list[tuple[Path, bytes]]) -> None:
    del lines[LINE_OF_DAY2]


def _insert(lines: list[tuple[Path, bytes]]) -> None:
    lines.insert(LINE_OF_DAY2, (lines[LINE_OF_DAY2][0], lines[LINE_OF_DAY2][1].replace(b"demo", b"none")))


def _duplicate(lines: list[tuple[Path, bytes]]) -> None:
    lines.insert(LINE_OF_DAY2, lines[LINE_OF_DAY2])


def _swap(lines: list[tuple[Path, bytes]]) -> None:
    one, other = LINE_OF_DAY2, LINE_OF_DAY2 + 1
    lines[one], lines[other] = lines[other], lines[one]


def _delete_first(lines: list[tuple[Path, bytes]]) -> None:
    del lines[0]


def _delete_day(lines: list[tuple[Path, bytes]]) -> None:
    lines[:] = [(path, line) for path, line in lines if DAY2 not in path.name]


def _delete_first_day(lines: list[tuple[Path, bytes]]) -> None:
    lines[:] = [(path, line) for path, line in lines if DAY1 not in path.name]


def _truncate(lines: list[tuple[Path, bytes]]) -> None:
    del lines[-3:]


def _delete_last_day(lines: list[tuple[Path, bytes]]) -> None:
    lines[:] = [(path, line) for path, line in lines if DAY3 not in path.name]


KINDS: dict[str, tuple[Change, tuple[str, int, int]]] = {
    # day 1 has seq 1 to 9, day 2 from 10, day 3 from 18 to 26; index 12 is seq 13, line 4 of day 2
    "edit": (edit_a_line, (f"{DAY2}.log", 4, 13)),
    "deletion": (_delete, (f"{DAY2}.log", 4, 13)),
    "insertion": (_insert, (f"{DAY2}.log", 5, 13)),
    "duplicate": (_duplicate, (f"{DAY2}.log", 5, 13)),
    "swap": (_swap, (f"{DAY2}.log", 4, 13)),
    "first line": (_delete_first, (f"{DAY1}.log", 1, 1)),
    "deleted file": (_delete_day, (f"{DAY3}.log", 1, 10)),
    "deleted first file": (_delete_first_day, (f"{DAY2}.log", 1, 1)),
    "truncated tail": (_truncate, (f"{DAY3}.log", 6, 23)),
    "deleted last file": (_delete_last_day, (f"{DAY2}.log", 8, 17)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_to_the_log_is_found_at_its_place(tmp_path: Path, kind: str) -> None:
    """Whoever changes lines and nothing else is found at the first line that does not fit."""
    build_log(tmp_path)
    change, place = KINDS[kind]
    lines = read_lines(tmp_path)
    change(lines)
    write_lines(lines)
    assert _first(_verify(tmp_path)) == place


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_computed_anew_is_found_by_the_checkpoints(tmp_path: Path, kind: str) -> None:
    """With every later number and hash made to fit, the next checkpoint does not: it is signed."""
    build_log(tmp_path)
    change, (file, _, seq) = KINDS[kind]
    lines = read_lines(tmp_path)
    change(lines)
    write_lines(lines)
    rechain(tmp_path)
    report = _verify(tmp_path)
    found_file, _, found_seq = _first(report)
    assert seq - 1 <= found_seq <= seq + 2, "not further away than the next checkpoint"
    assert found_file == file or kind == "deleted first file"
    assert "checkpoint" in report.problems[0].what


@pytest.mark.parametrize("kind", set(KINDS) - {"truncated tail", "deleted last file"})
def test_checkpoints_made_to_fit_are_found_by_their_signatures(tmp_path: Path, kind: str) -> None:
    """Chain and checkpoints adapted, but without the key: the last signature of the file; with `--all`, the first."""
    build_log(tmp_path)
    lines = read_lines(tmp_path)
    KINDS[kind][0](lines)
    write_lines(lines)
    rechain(tmp_path)
    adapt_checkpoints(tmp_path)
    report, every = _verify(tmp_path), _verify(tmp_path, every=True)
    for one in (report, every):
        assert "signature of checkpoint" in one.problems[0].what
    assert _first(every) <= _first(report)


@pytest.mark.parametrize("kind", KINDS)
def test_who_has_the_key_is_found_only_by_a_checkpoint_kept_elsewhere(tmp_path: Path, kind: str) -> None:
    """Everything adapted and signed again is good by itself, and the output says that it shows nothing of the kind."""
    built = build_log(tmp_path / "log")
    kept = tmp_path / "kept"
    kept.write_bytes(split_notes(built.checkpoints.read_bytes())[-1])
    lines = read_lines(tmp_path / "log")
    KINDS[kind][0](lines)
    write_lines(lines)
    rechain(tmp_path / "log")
    adapt_checkpoints(tmp_path / "log", KEY)
    for path in (tmp_path / "log").glob("*.checkpoints"):
        if not path.with_suffix(".log").exists() and not path.read_bytes():
            path.unlink()
    alone = _verify(tmp_path / "log", every=True)
    if alone.good:
        assert "whoever has the signing key can have rewritten all of it" in _said(alone)
        assert f"nothing can be excluded after {alone.slots[0].signed_time}" in _said(alone)
    else:
        # A log cut to its last checkpoint but one ends too long after it, or lacks the signature of its end.
        assert "checkpoints are missing" in alone.problems[0].what
    report = _verify(tmp_path / "log", kept=[str(kept)])
    assert not report.good
    if alone.good:
        assert str(kept) in report.problems[0].what


def test_cut_back_with_its_checkpoints_a_log_looks_good(tmp_path: Path) -> None:
    """Who has the disk alone can go back to an earlier moment; only a checkpoint kept elsewhere shows it."""
    built = build_log(tmp_path)
    kept = tmp_path / "kept"
    kept.write_bytes(split_notes(built.checkpoints.read_bytes())[-1])
    built.log.unlink()
    built.checkpoints.unlink()
    report = _verify(tmp_path)
    assert report.good
    assert "nothing can be excluded after 2026-11-23T00:00:08" in _said(report)
    report = _verify(tmp_path, kept=[str(kept)])
    assert _first(report) == (f"{DAY2}.log", 8, 17)
    assert "the end of the log and its checkpoints were cut off" in report.problems[0].what


# Checkpoint files


@pytest.mark.parametrize("count", [1, 2])
def test_checkpoints_taken_out_of_the_middle_are_missed(tmp_path: Path, count: int) -> None:
    """Their numbers have a gap."""
    build_log(tmp_path)
    path, notes = notes_of(tmp_path, DAY2)
    path.write_bytes(b"".join(notes[:1] + notes[1 + count :]))
    report = _verify(tmp_path)
    assert "checkpoints are missing here" in report.problems[0].what
    assert _first(report)[:2] == (path.name, 11)
    assert (report.problems[0].expected, report.problems[0].got) == ("checkpoint 8", f"checkpoint {8 + count}")


@pytest.mark.parametrize("day", [DAY1, DAY2])
def test_a_deleted_checkpoint_file_is_missed(tmp_path: Path, day: str) -> None:
    """Of the first day or of a later one."""
    build_log(tmp_path)
    (tmp_path / f"{day}.checkpoints").unlink()
    report = _verify(tmp_path)
    assert not report.good
    assert "checkpoints" in report.problems[0].what
    assert "missing" in report.problems[0].what


def test_without_any_checkpoint_nothing_is_signed(tmp_path: Path) -> None:
    """A log whose checkpoints are all gone is not good."""
    build_log(tmp_path)
    for path in tmp_path.glob("*.checkpoints"):
        path.unlink()
    assert "nothing in this slot is signed" in _verify(tmp_path).problems[0].what


@pytest.mark.parametrize("action", ["writer_stopped", "slot_sealed"])
def test_the_last_checkpoint_of_a_closed_log_is_missed(tmp_path: Path, action: str) -> None:
    """A log that was closed is signed to its end."""
    builder = LogBuilder(tmp_path)
    for day in range(3):
        if day:
            builder.midnight()
        for number in range(4):
            builder.request(number)
            builder.checkpoint()
    builder.event("config_loaded")
    builder.event(action)
    builder.checkpoint("close")
    path, notes = notes_of(tmp_path, DAY3)
    path.write_bytes(b"".join(notes[:-1]))
    report = _verify(tmp_path)
    assert "a log that was closed is signed to its end" in report.problems[0].what
    assert _first(report) == (f"{DAY3}.log", 10, 26)


def test_the_last_checkpoints_of_a_busy_log_are_missed(tmp_path: Path) -> None:
    """Records minutes after the last checkpoint: the ones between were taken away."""
    builder = LogBuilder(tmp_path)
    builder.event("writer_started")
    builder.checkpoint("start")
    builder.now_us += 100_000_000
    builder.event("config_loaded")
    assert _verify(tmp_path).good
    builder.now_us += 100_000_000
    builder.event("config_loaded")
    report = _verify(tmp_path)
    assert "these records would have been signed long since" in report.problems[0].what


def test_a_start_long_after_the_last_checkpoint_is_no_tampering(tmp_path: Path) -> None:
    """A crash, hours without a gateway, and the records of a start that has not signed yet."""
    builder = LogBuilder(tmp_path)
    builder.record("request_received", request_id="a")
    builder.checkpoint("start")
    builder.now_us += 3_600_000_000
    builder.record("request_failed", request_id="a", status="interrupted")
    builder.event("writer_started")
    assert _verify(tmp_path).good


def test_a_file_of_the_day_before_put_in_its_place_is_found(tmp_path: Path) -> None:
    """An old file replayed under a new name has numbers that were there."""
    build_log(tmp_path)
    (tmp_path / f"{DAY3}.log").write_bytes((tmp_path / f"{DAY2}.log").read_bytes())
    assert _first(_verify(tmp_path)) == (f"{DAY3}.log", 1, 10)
    (tmp_path / f"{DAY3}.checkpoints").write_bytes((tmp_path / f"{DAY2}.checkpoints").read_bytes())
    assert _first(_verify(tmp_path)) == (f"{DAY3}.checkpoints", 1, 11)


def test_checkpoints_of_another_key_are_refused(tmp_path: Path) -> None:
    """A log signed by somebody else's key, and a key under the right name with other bytes."""
    build_log(tmp_path)
    adapt_checkpoints(tmp_path, SigningKey(bytes(32)))
    report = _verify(tmp_path)
    assert "not signed with the key that was given" in report.problems[0].what
    assert report.problems[0].got == SigningKey(bytes(32)).public.name


def test_a_key_may_be_changed(tmp_path: Path) -> None:
    """The chain goes on, numbers and links too; then both keys are needed."""
    other = SigningKey(bytes(32))
    builder = build_log(tmp_path, days=2)
    builder.checkpointer = Checkpointer(other, 1, parse_tail(builder.checkpoints.read_bytes()))
    builder.midnight()
    builder.request(9)
    builder.close()
    both = [*KEYS, verify.parse_key(other.encode_public_key())]
    assert verify.verify_directory(str(tmp_path), both, every=True).good
    for key in both:
        report = verify.verify_directory(str(tmp_path), [key])
        assert "not signed with the key that was given" in report.problems[0].what


def test_the_name_of_a_signature_is_the_checkpoints(tmp_path: Path) -> None:
    """With two keys accepted, one installation's key does not sign for the other."""
    other = SigningKey(bytes(32))
    build_log(tmp_path)
    adapt_checkpoints(tmp_path, other)  # the texts still name the installation of KEY
    keys = [*KEYS, verify.parse_key(other.encode_public_key())]
    report = verify.verify_directory(str(tmp_path), keys)
    assert "does not hold" in report.problems[0].what


def test_a_checkpoint_of_another_slot_is_refused(tmp_path: Path) -> None:
    """Two slots' checkpoint files, exchanged."""
    build_log(tmp_path, days=1)
    build_log(tmp_path, days=1, slot=2)
    one, two = tmp_path / f"{DAY1}.checkpoints", tmp_path / f"{DAY1}.w2.checkpoints"
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    report = _verify(tmp_path)
    assert [problem.what for problem in report.problems] == ["this checkpoint belongs to another slot"] * 2


def test_an_edit_that_no_checkpoint_covers_yet_is_found_by_the_next_record(tmp_path: Path) -> None:
    """The chain alone shows it, at the record behind."""
    builder = LogBuilder(tmp_path)
    builder.event("writer_started")
    builder.checkpoint("start")
    for number in range(3):
        builder.request(number)
    builder.log.write_bytes(builder.log.read_bytes().replace(b'"success"', b'"timeout"', 1))
    report = _verify(tmp_path)
    assert _first(report) == (builder.log.name, 4, 4)
    assert report.problems[0].expected.startswith("prev ")


def test_a_second_history_is_called_so(tmp_path: Path) -> None:
    """Two lines with one number: each follows the line before them both."""
    builder = LogBuilder(tmp_path)
    builder.event("writer_started")
    builder.checkpoint("start")
    seq, prev = builder.seq, builder.prev
    builder.event("config_loaded")
    builder.seq, builder.prev = seq, prev
    builder.event("key_created")
    builder.event("key_revoked")
    report = _verify(tmp_path)
    assert _first(report) == (builder.log.name, 3, 2)
    assert "another history" in report.problems[0].what


@pytest.mark.parametrize(
    ("index", "changes", "what"),
    [
        (0, {"note_before": b"x" * 32}, "the first checkpoint names one before it"),
        (1, {"note_before": b"x" * 32}, "checkpoint 1 was changed"),
        (1, {"number": 1}, "checkpoints are missing here, or out of order"),
        (2, {"seq": 1}, "this checkpoint covers less than the one before it"),
        (1, {"slot": 2}, "this checkpoint belongs to another slot"),
    ],
)
def test_checkpoints_follow_each_other(tmp_path: Path, index: int, changes: dict[str, object], what: str) -> None:
    """Also where all are signed: number, link, slot and what they cover."""
    built = build_log(tmp_path, days=1, requests=1)
    notes, before = [], bytes(32)
    for place, data in enumerate(split_notes(built.checkpoints.read_bytes())):
        said = msgspec.structs.replace(parse_text(parse_note(data[:-1]).text), note_before=before)
        if place == index:
            said = msgspec.structs.replace(said, **changes)
        note = KEY.sign_note(encode_text(said))
        before = hashlib.sha256(note).digest()
        notes.append(note + b"\n")
    built.checkpoints.write_bytes(b"".join(notes))
    report = _verify(tmp_path, every=True)
    assert report.problems[0].what.startswith(what)
    assert report.problems[0].file == built.checkpoints.name


@pytest.mark.parametrize(
    "garbage",
    [b"\n", b"text\n\n\n", b"text\n\nno signature\n\n", b"line\n" * 100, b"x" * 5_000 + b"\n", b"\0" * 5_000],
)
def test_what_is_no_checkpoint_is_bad(tmp_path: Path, garbage: bytes) -> None:
    """Anything else among the checkpoints of a file."""
    build_log(tmp_path)
    path, notes = notes_of(tmp_path, DAY2)
    path.write_bytes(b"".join(notes[:2]) + garbage + b"".join(notes[2:]))
    report = _verify(tmp_path)
    assert report.problems[0].what == "this is no checkpoint of format version 1"
    assert _first(report) == (path.name, 21, 0)
