"""What is no tampering, where verifying may begin, and what the command says."""

import ast
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rig.tampering import (
    DAY_US,
    KEY,
    START_US,
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
from securellm.audit.keeping import Keeper
from securellm.audit.record import hash_line

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


# Several slots


def test_several_slots_are_verified_each_for_itself(tmp_path: Path) -> None:
    """A bad slot does not hide the good one, nor the other way round."""
    build_log(tmp_path, days=2)
    build_log(tmp_path, days=2, slot=2)
    report = _verify(tmp_path)
    assert report.good
    assert [slot.slot for slot in report.slots] == [1, 2]
    path = tmp_path / f"{DAY2}.w2.log"
    path.write_bytes(path.read_bytes().replace(b"success", b"timeout", 1))
    report = _verify(tmp_path)
    assert [(problem.slot, problem.file) for problem in report.problems] == [(2, path.name)]


def test_lines_of_another_slot_do_not_pass(tmp_path: Path) -> None:
    """A slot's file put in the place of another's."""
    build_log(tmp_path, days=1)
    build_log(tmp_path, days=1, slot=2)
    (tmp_path / f"{DAY1}.log").write_bytes((tmp_path / f"{DAY1}.w2.log").read_bytes())
    report = _verify(tmp_path)
    assert report.problems[0].what == "this record belongs to another slot"


def test_a_slot_below_another_is_missed(tmp_path: Path) -> None:
    """Slots are taken in order: where there is a third, there was a second."""
    for slot in (1, 2, 3):
        build_log(tmp_path, days=1, slot=slot)
    for path in tmp_path.glob("*.w2.*"):
        path.unlink()
    report = _verify(tmp_path)
    assert [(problem.slot, "its files were deleted" in problem.what) for problem in report.problems] == [(2, True)]


def test_logs_deleted_beside_their_checkpoints_are_missed(tmp_path: Path) -> None:
    """Checkpoints without any record."""
    built = build_log(tmp_path)
    for path in tmp_path.glob("*.log"):
        path.unlink()
    report = _verify(tmp_path)
    assert report.problems[0].what.startswith("there is no record of this slot")
    assert str(built.seq) in report.problems[0].expected


# A beginning that was pruned


def _pruned(directory: Path, *, signed: bool = True, **changes: str | int) -> LogBuilder:
    """Three days, of which the first was pruned as the format says, or almost."""
    built = build_log(directory)
    old = directory / f"{DAY1}.log"
    last = read_lines(directory)[8]
    assert last[0] == old
    detail: dict[str, str | int] = {"slot": 1, "last_seq": 9, "last_hash": hash_line(last[1][:-1])}
    built.event("pruned", **detail | changes)
    if signed:
        built.checkpoint("prune")
    old.unlink()
    old.with_suffix(".checkpoints").unlink()
    return built


def test_a_pruned_log_verifies_from_what_is_left(tmp_path: Path) -> None:
    """The event names the last record that went; numbers and checkpoints go on from there."""
    _pruned(tmp_path)
    report = _verify(tmp_path, every=True)
    assert report.problems == []
    assert (report.slots[0].first_seq, report.closings_without_intent) == (10, 0)


@pytest.mark.parametrize("changes", [{"last_seq": 8}, {"last_hash": "ab" * 32}, {"slot": 2}])
def test_a_beginning_that_the_event_does_not_explain_is_bad(tmp_path: Path, changes: dict[str, str | int]) -> None:
    """More is gone than was said, or the rest does not continue what was said."""
    _pruned(tmp_path, **changes)
    assert not _verify(tmp_path).good


def test_an_unsigned_event_explains_nothing(tmp_path: Path) -> None:
    """Else whoever has the disk would delete the oldest file and append the event that allows it."""
    _pruned(tmp_path, signed=False)
    report = _verify(tmp_path)
    assert _first(report) == (f"{DAY2}.log", 1, 1)


def test_what_our_own_tools_leave_is_good(tmp_path: Path) -> None:
    """After a crash with a torn line and an open request: sealed weeks later, then pruned."""
    builder = build_log(tmp_path, days=5)
    builder.record("request_received", request_id="open")
    with builder.log.open("ab") as file:
        file.write(b'{"v":1,')
    assert _verify(tmp_path).open_requests == 1
    keeper = Keeper(tmp_path, KEY, now_us=lambda: START_US + 50 * DAY_US, longest_request_s=600)
    assert keeper.seal(1).interrupted == 1
    report = _verify(tmp_path, every=True)
    assert (report.problems, report.open_requests, report.slots[0].torn) == ([], 0, {})
    assert keeper.prune(1, 48).days == 2
    report = _verify(tmp_path, every=True)
    assert report.problems == []
    assert report.slots[0].files[0] == f"{DAY3}.log"


def test_pruning_that_was_interrupted_is_fine(tmp_path: Path) -> None:
    """The event says that two days may go, and one of them is still there."""
    built = build_log(tmp_path)
    lines = read_lines(tmp_path)
    last_hash = hash_line(lines[16][1][:-1])
    built.event("pruned", slot=1, last_seq=17, last_hash=last_hash)
    built.checkpoint("prune")
    assert _verify(tmp_path).good
    (tmp_path / f"{DAY1}.log").unlink()
    assert _verify(tmp_path).good
    (tmp_path / f"{DAY1}.checkpoints").unlink()
    assert _verify(tmp_path).good


def test_a_slot_that_is_pruned_whole_is_explained_by_another(tmp_path: Path) -> None:
    """Slot 2 is gone, slot 1's chain says so; slot 3 is there."""
    for slot in (2, 3):
        second = build_log(tmp_path, days=1, slot=slot)
    first = build_log(tmp_path, days=1)
    first.event("pruned", slot=2, last_seq=second.seq, last_hash="00" * 32)
    first.checkpoint("prune")
    for path in tmp_path.glob("*.w2.*"):
        path.unlink()
    report = _verify(tmp_path)
    assert report.problems == []
    assert [slot.slot for slot in report.slots] == [1, 3]


def test_a_checkpoint_kept_over_pruned_records_is_left_out(tmp_path: Path) -> None:
    """It cannot be compared, and the output says so; one over the last that went still is."""
    _pruned(tmp_path / "log")
    build_log(tmp_path / "whole")
    notes = split_notes((tmp_path / "whole" / f"{DAY1}.checkpoints").read_bytes())
    kept = tmp_path / "kept"
    kept.write_bytes(notes[1])
    report = _verify(tmp_path / "log", kept=[str(kept)])
    assert (report.good, report.slots[0].kept_too_old, report.slots[0].kept_seq) == (True, 1, 0)
    assert "not compared" in _said(report)
    kept.write_bytes(notes[-1])
    report = _verify(tmp_path / "log", kept=[str(kept)])
    assert (report.good, report.slots[0].kept_too_old, report.slots[0].kept_seq) == (True, 0, 9)


# What is no tampering


def test_a_torn_tail_is_told_and_no_tampering(tmp_path: Path) -> None:
    """The end of a line that a crash kept from the disk, at the end of the newest file only."""
    builder = build_log(tmp_path)
    builder.checkpointer.encode(builder.seq, builder.prev, builder.now_us, "interval")
    with builder.log.open("ab") as file:
        file.write(b'{"v":1,"seq":27,"sl')
    with builder.checkpoints.open("ab") as file:
        file.write(b"securellm-audit/56475aa75463474c/1\n27\n")
    report = _verify(tmp_path)
    assert report.good
    assert report.slots[0].torn == {f"{DAY3}.log": 19, f"{DAY3}.checkpoints": 38}
    assert "19 bytes of an unfinished write" in _said(report)
    with (tmp_path / f"{DAY2}.log").open("ab") as file:
        file.write(b'{"v":1,"seq":17,"sl')
    assert _first(_verify(tmp_path)) == (f"{DAY2}.log", 9, 18)


def test_open_requests_are_told(tmp_path: Path) -> None:
    """An intent without its closing record: counted, and named in the JSON."""
    builder = LogBuilder(tmp_path)
    builder.request(1)
    builder.record("request_received", request_id="open-1")
    builder.checkpoint("start")
    report = _verify(tmp_path)
    assert (report.good, report.open_requests, report.open_request_ids) == (True, 1, ["open-1"])
    assert "1 request is open" in _said(report)


def test_what_is_not_signed_yet_is_told(tmp_path: Path) -> None:
    """Records since the last checkpoint are counted, and the time after which nothing can be excluded is its time."""
    builder = LogBuilder(tmp_path)
    builder.request(1)
    builder.checkpoint("start")
    builder.request(2)
    report = _verify(tmp_path)
    assert report.good
    assert "not signed yet, so open to change: the last 2 records" in _said(report)
    assert "nothing can be excluded after 2026-11-22T00:00:02.001000Z" in _said(report)


def test_a_clock_that_went_back_is_no_tampering(tmp_path: Path) -> None:
    """Times may repeat; numbers and hashes hold the order."""
    builder = build_log(tmp_path, days=1)
    builder.now_us -= 3_600_000_000
    builder.request(9)
    builder.close()
    assert _verify(tmp_path).good


def test_what_is_appended_meanwhile_is_left_for_the_next_time(tmp_path: Path) -> None:
    """Files are read as long as they were at the start; a log is never behind its checkpoints."""
    builder = build_log(tmp_path, days=1)
    run = verify._Verification(str(tmp_path), KEYS, False, [], [])
    seq = builder.seq
    builder.request(9)
    builder.checkpoint()
    report = run.run()
    assert report.good
    assert report.slots[0].last_seq == seq


# From an older checkpoint


@pytest.mark.parametrize("index", range(16))
def test_any_kept_checkpoint_is_a_beginning(tmp_path: Path, index: int) -> None:
    """What is before it is not read, what is after it is verified, and it is compared itself."""
    build_log(tmp_path / "log")
    notes = [note for day in (DAY1, DAY2, DAY3) for note in notes_of(tmp_path / "log", day)[1]]
    since = tmp_path / "since"
    since.write_bytes(notes[index])
    report = _verify(tmp_path / "log", since=[str(since)], every=True)
    assert report.problems == []
    [slot] = report.slots
    assert slot.checkpoints == 15 - index
    assert slot.kept_seq == slot.first_seq
    assert slot.last_seq == 26
    assert f"up to {slot.kept_time} (seq {slot.kept_seq}) a checkpoint kept elsewhere agrees" in _said(report)


def test_before_the_checkpoint_files_may_be_gone(tmp_path: Path) -> None:
    """Older files archived elsewhere are not asked for."""
    build_log(tmp_path)
    notes = notes_of(tmp_path, DAY1)[1]
    (tmp_path / "since").write_bytes(notes[-1])
    (tmp_path / f"{DAY1}.log").unlink()
    assert _verify(tmp_path, since=[str(tmp_path / "since")]).good
    (tmp_path / "since").write_bytes(notes[-3])
    report = _verify(tmp_path, since=[str(tmp_path / "since")])
    assert _first(report) == (f"{DAY2}.log", 1, 8)
    (tmp_path / "since").write_bytes(notes[-1])
    (tmp_path / f"{DAY1}.checkpoints").unlink()
    assert _verify(tmp_path, since=[str(tmp_path / "since")]).good


def test_after_the_checkpoint_everything_is_found(tmp_path: Path) -> None:
    """A log that was rewritten before the checkpoint contradicts it, and changes after it are found as ever."""
    build_log(tmp_path)
    since = tmp_path / "since"
    since.write_bytes(notes_of(tmp_path, DAY2)[1][0])
    lines = read_lines(tmp_path)
    lines[3] = (lines[3][0], lines[3][1].replace(b"demo", b"none"))
    write_lines(lines)
    assert _verify(tmp_path, since=[str(since)]).good, "what is before is not read"
    edit_a_line(lines)
    write_lines(lines)
    assert _first(_verify(tmp_path, since=[str(since)])) == (f"{DAY2}.log", 4, 13)
    rechain(tmp_path)
    adapt_checkpoints(tmp_path, KEY)
    report = _verify(tmp_path, since=[str(since)])
    assert "another history" in report.problems[0].what


def test_a_beginning_has_to_be_signed(tmp_path: Path) -> None:
    """A forged checkpoint is no beginning."""
    build_log(tmp_path)
    since = tmp_path / "since"
    since.write_bytes(notes_of(tmp_path, DAY1)[1][0].replace(b"start", b"close"))
    report = _verify(tmp_path, since=[str(since)])
    assert "does not hold" in report.problems[0].what
    assert report.problems[0].file == str(since)


# Kept elsewhere


def test_a_whole_copy_of_the_checkpoints_agrees(tmp_path: Path) -> None:
    """All of them in one file, of two slots; and a single one that was saved without its last empty line."""
    build_log(tmp_path / "log")
    build_log(tmp_path / "log", slot=2)
    copy = tmp_path / "copy"
    copy.write_bytes(b"".join(path.read_bytes() for path in sorted((tmp_path / "log").glob("*.checkpoints"))))
    report = _verify(tmp_path / "log", kept=[str(copy)], every=True)
    assert report.good
    assert [slot.kept_seq for slot in report.slots] == [26, 26]
    assert "nothing can be excluded after 2026-11-24T00:00:09.005000Z" in _said(report)
    assert "whoever has the signing key can" not in _said(report)
    copy.write_bytes(notes_of(tmp_path / "log", DAY2)[1][0].rstrip(b"\n") + b"\n")
    assert _verify(tmp_path / "log", kept=[str(copy)]).good
    assert _verify(tmp_path / "log", kept=[str(tmp_path / "log")]).slots[1].kept_seq == 26, "a directory of them"


@pytest.mark.parametrize("cut", [1, 20, 36, 60, 150, 250, -2, -1])
def test_a_torn_checkpoint_in_a_copy_is_passed_over(tmp_path: Path, cut: int) -> None:
    """Whoever copies may stop at any byte and go on with the next; the others count all the same."""
    build_log(tmp_path / "log")
    notes = notes_of(tmp_path / "log", DAY2)[1]
    copy = tmp_path / "copy"
    copy.write_bytes(notes[0] + notes[1][:cut] + notes[2])
    report = _verify(tmp_path / "log", kept=[str(copy)], every=True)
    assert report.problems == []
    assert report.slots[0].kept_seq == 15
    copy.write_bytes(notes[0] + notes[1][:cut])
    assert _verify(tmp_path / "log", kept=[str(copy)]).slots[0].kept_seq == (13 if cut == -1 else 11)


def test_a_copy_that_grew_on_two_histories_shows_both(tmp_path: Path) -> None:
    """The newest agrees, an older one does not: the log was rewritten in between, by whoever has the key."""
    build_log(tmp_path / "log")
    old = notes_of(tmp_path / "log", DAY2)[1][2]
    lines = read_lines(tmp_path / "log")
    edit_a_line(lines)
    write_lines(lines)
    rechain(tmp_path / "log")
    adapt_checkpoints(tmp_path / "log", KEY)
    copy = tmp_path / "copy"
    copy.write_bytes(old + notes_of(tmp_path / "log", DAY3)[1][-1])
    report = _verify(tmp_path / "log", kept=[str(copy)])
    assert "another history" in report.problems[0].what


def test_witnesses_may_sign_a_kept_checkpoint_too(tmp_path: Path) -> None:
    """Signatures under other names are passed over, as signed-note says."""
    build_log(tmp_path / "log")
    kept = tmp_path / "kept"
    note = notes_of(tmp_path / "log", DAY2)[1][0]
    kept.write_bytes(note[:-1] + "— witness.example AAAAAAAA\n\n".encode())
    assert _verify(tmp_path / "log", kept=[str(kept)]).good


# The form of a line, and the command line


@pytest.mark.parametrize(
    ("old", "new", "needs_all"),
    [
        (b'"provider":"demo"', b'"provider": "demo"', True),
        (b'"provider":"demo"', b'"provider":"\\u0064emo"', True),
        (b'"provider":"demo"', b'"provider":"d\\/mo"', True),
        (b'"stream":false', b'"stream":null', True),
        (b'"stream":false', b'"stream":1e3', True),
        (b'"stream":false', b'"stream":NaN', True),
        (b'"provider":"demo","model":"echo"', b'"model":"echo","provider":"demo"', True),
        (b'"provider":"demo"', b'"provider":"demo","provider":"demo"', True),
        (b'"provider":"demo"', b'"provider":"demo}', True),
        (b'"provider":"demo"', b'"provider":"\xff"', False),
        (b'"provider":"demo"', b'"provider":"\x01"', False),
        (b'{"v":1,', b'{ "v":1,', False),
        (b'{"v":1,', b'{"v":2,', False),
    ],
)
def test_a_line_has_one_form(tmp_path: Path, old: bytes, new: bytes, needs_all: bool) -> None:
    """Even when chain and signatures fit, as only the key's owner can make it: the head always, the rest with --all."""
    build_log(tmp_path)
    lines = read_lines(tmp_path)
    lines[3] = (lines[3][0], lines[3][1].replace(old, new, 1))
    write_lines(lines)
    rechain(tmp_path)
    adapt_checkpoints(tmp_path, KEY)
    assert _verify(tmp_path).good is needs_all
    assert _first(_verify(tmp_path, every=True))[1] == 4


def test_every_text_a_record_can_hold_is_canonical(tmp_path: Path) -> None:
    """Escapes, other alphabets, fields of every type, an unknown field: --all takes what the encoder writes."""
    builder = LogBuilder(tmp_path)
    texts = "".join(map(chr, range(0x20))) + '"\\/\x7f é\u2028😀 \\u0041 1e5 null'
    builder.record("request_received", request_id="a", requested_model=texts, dropped=(texts, "e5"), usage={"1e5": 5})
    builder.event("gap", count=-3, text=texts)
    builder.checkpoint("start")
    assert _verify(tmp_path, every=True).problems == []


def test_a_line_over_1_mib_is_bad(tmp_path: Path) -> None:
    """The limit of the format is also what keeps the verifier's memory flat."""
    builder = build_log(tmp_path)
    builder.record(request_id="a" * verify.LONGEST_LINE)
    builder.close()
    report = _verify(tmp_path)
    assert _first(report)[1] == 10
    with builder.log.open("r+b") as file:
        file.truncate(verify.LONGEST_LINE + 5_000)
    assert not _verify(tmp_path).good


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        code = verify.main([str(argument) for argument in arguments])
    except SystemExit as exc:
        code = int(str(exc.code))
    out, err = capsys.readouterr()
    return code, out, err


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 good, 1 bad, 2 called wrongly or not readable; the key as text or in a file."""
    log = tmp_path / "log"
    build_log(log)
    key = tmp_path / "key"
    key.write_text(KEY.encode_public_key() + "\n")
    assert _run(capsys, log, "--key", key)[0] == 0
    code, out, err = _run(capsys, log, "--key", KEY.encode_public_key())
    assert (code, out.splitlines()[0][:6], err) == (0, "good: ", "")
    (log / f"{DAY2}.log").unlink()
    code, out, _ = _run(capsys, log, "--key", key)
    assert (code, out.splitlines()[0]) == (
        1,
        f"BAD: {DAY3}.log, line 1, seq 10: 8 records are missing before this line",
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments in (
        (log,),
        (empty, "--key", key),
        (tmp_path / "absent", "--key", key),
        (log, "--key", tmp_path / "absent"),
        (log, "--key", log / f"{DAY1}.log"),
        (log, "--key", KEY.encode_public_key().replace("+AQ", "+AA")),
        (log, "--key", key, "--checkpoint", key),
        (log, "--key", key, "--checkpoint", tmp_path / "absent"),
        (log, "--key", key, "--from", log / f"{DAY1}.log"),
        (log, "--key", key, "--unknown"),
    ):
        code, out, err = _run(capsys, *arguments)
        assert (code, out) == (2, ""), arguments
        assert err


def test_json_has_the_whole_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For programs: the verdict, each problem with its place, each slot with its figures."""
    build_log(tmp_path)
    code, out, _ = _run(capsys, tmp_path, "--key", KEY.encode_public_key(), "--json")
    report = json.loads(out)
    assert (code, report["good"], report["slots"][0]["signed_seq"]) == (0, True, 26)
    lines = read_lines(tmp_path)
    edit_a_line(lines)
    write_lines(lines)
    code, out, _ = _run(capsys, tmp_path, "--key", KEY.encode_public_key(), "--json")
    report = json.loads(out)
    assert (code, report["good"]) == (1, False)
    problem = report["problems"][0]
    assert (problem["file"], problem["line"], problem["seq"], problem["slot"]) == (f"{DAY2}.log", 4, 13, 1)
    assert re.fullmatch("[0-9a-f]{64}", problem["expected"])


def test_what_is_shown_of_a_line_cannot_steer_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes of a bad line come escaped."""
    builder = build_log(tmp_path)
    with builder.log.open("ab") as file:
        file.write(b"\x1b[2J\xe9\n")
    _, out, _ = _run(capsys, tmp_path, "--key", KEY.encode_public_key())
    assert "\\x1b[2J\\xe9" in out
    assert "\x1b" not in out


def test_the_file_stands_alone() -> None:
    """It is Python 3.9, and imports the standard library only: an auditor needs nothing else."""
    assert verify.__file__
    tree = ast.parse(Path(verify.__file__).read_text(), feature_version=(3, 9))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names | {"__future__"}


def test_the_rig_writes_days(tmp_path: Path) -> None:
    """The other tests stand on this: START_US is a midnight, and a day has its own file."""
    assert START_US % DAY_US == 0
    build_log(tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
