"""Days: a file each, in UTC, also while idle; clocks that step back; what is too old goes, and the rest verifies."""

from pathlib import Path

import pytest
import trio

from rig.audit_log import START_US, US_PER_S, Clock, intent, log_files, problems, read_chain, sent, settings
from rig.disks import RecordingDisk
from rig.waiting import until_true
from securellm.audit.checkpoints import parse_text
from securellm.audit.files import date_of, day_ends
from securellm.audit.log import AuditLog, open_audit_log
from securellm.audit.note import parse_note

DAY_US = 86_400 * US_PER_S
MIDNIGHT_US = day_ends(date_of(START_US))
TICK = {"tick_s": 0.005}


async def _write(log: AuditLog, name: str, now_us: int) -> None:
    reservation = log.reserve()
    await reservation.append(intent(name, now_us)).durable()
    await reservation.append(sent(name, now_us)).durable()
    reservation.close()


def _checkpoints(path: Path) -> list[tuple[int, str]]:
    notes = path.read_text().split("\n\n\N{EM DASH}")
    found = []
    for place in range(len(notes) - 1):
        text = notes[place].rpartition("\n\n")[2] if place else notes[place]
        checkpoint = parse_text(parse_note(f"{text}\n\n\N{EM DASH} x AAAAAAAA\n".encode()).text)
        found.append((checkpoint.seq, checkpoint.reason))
    return found


async def test_a_day_has_its_file(tmp_path: Path) -> None:
    """The microsecond of midnight belongs to the new day; the chain goes on over it."""
    clock = Clock(MIDNIGHT_US - 1)
    with trio.fail_after(5):
        async with open_audit_log(settings(tmp_path), now_us=clock) as log:
            await _write(log, "before", clock.now_us)
            clock.now_us += 1
            await _write(log, "after", clock.now_us)
    first, second = log_files(tmp_path)
    assert (first.name, second.name) == ("audit.2026-11-18.log", "audit.2026-11-19.log")
    assert b"before" in first.read_bytes()
    assert b"after" not in first.read_bytes()
    assert b"after" in second.read_bytes()
    assert [record["seq"] for record in read_chain(tmp_path)] == [1, 2, 3, 4, 5, 6]


async def test_midnight_comes_while_idle(tmp_path: Path) -> None:
    """The old day is closed by a checkpoint over its last record, and the new file is there, within a tick."""
    clock = Clock(MIDNIGHT_US - US_PER_S)
    with trio.fail_after(5):
        async with open_audit_log(settings(tmp_path), now_us=clock, **TICK) as log:
            await _write(log, "r1", clock.now_us)
            clock.now_us += US_PER_S
            await until_true(lambda: len(log_files(tmp_path)) == 2)
            assert _checkpoints(tmp_path / "audit.2026-11-18.checkpoints")[-1] == (3, "rotation")
    assert _checkpoints(tmp_path / "audit.2026-11-19.checkpoints")[-1] == (4, "close")


async def test_an_idle_log_gives_signs_of_life(tmp_path: Path) -> None:
    """10 s after records, 60 s after none, a checkpoint over the same last record."""
    clock = Clock()
    path = tmp_path / "audit.2026-11-18.checkpoints"
    with trio.fail_after(5):
        async with open_audit_log(settings(tmp_path), now_us=clock, **TICK) as log:
            await _write(log, "r1", clock.now_us)
            await until_true(lambda: path.exists() and len(_checkpoints(path)) == 1)
            covered = _checkpoints(path)[0][0]
            clock.now_us += 60 * US_PER_S
            await until_true(lambda: len(_checkpoints(path)) == 2)
            clock.now_us += 60 * US_PER_S
            await until_true(lambda: len(_checkpoints(path)) == 3)
    assert covered in (1, 2, 3)
    assert _checkpoints(path)[1:] == [(3, "interval"), (3, "interval"), (4, "close")]


async def test_a_clock_that_steps_back_stays_in_the_newest_file(tmp_path: Path) -> None:
    """Running and over a restart: no older file is ever written again."""
    clock = Clock()
    with trio.fail_after(5):
        async with open_audit_log(settings(tmp_path), now_us=clock) as log:
            await _write(log, "r1", clock.now_us)
            clock.now_us -= 3 * DAY_US
            await _write(log, "r2", clock.now_us)
        async with open_audit_log(settings(tmp_path), now_us=clock) as log:
            await _write(log, "r3", clock.now_us)
    assert [path.name for path in log_files(tmp_path)] == ["audit.2026-11-18.log"]
    assert len(read_chain(tmp_path)) == 10
    assert problems(tmp_path, every=True) == []


async def test_days_without_a_process_leave_no_files(tmp_path: Path) -> None:
    """The next start begins the file of its own day."""
    clock = Clock()
    with trio.fail_after(5):
        for _ in range(2):
            async with open_audit_log(settings(tmp_path), now_us=clock) as log:
                await _write(log, "r1", clock.now_us)
            clock.now_us += 5 * DAY_US
    assert [path.name for path in log_files(tmp_path)] == ["audit.2026-11-18.log", "audit.2026-11-23.log"]


@pytest.mark.parametrize("days", [1, 3])
async def test_what_is_too_old_goes(tmp_path: Path, days: int) -> None:
    """So many UTC days before today are kept, with their checkpoints; bodies go with their day; the rest verifies."""
    clock = Clock()
    bodies = tmp_path / "content" / "2026-11-18"
    bodies.mkdir(parents=True)
    for number in range(250):
        (bodies / f"r{number}.request").write_bytes(b"x")
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path, retention_days=days), now_us=clock, **TICK) as log:
            for number in range(6):
                await _write(log, f"r{number}", clock.now_us)
                clock.now_us += DAY_US
                await until_true(lambda n=number: len(log_files(tmp_path)) == min(n + 1, days) + 1)
            kept = [f"audit.2026-11-{day}.log" for day in range(24 - days, 25)]
            await until_true(lambda: [path.name for path in log_files(tmp_path)] == kept)
            await until_true(lambda: not bodies.exists())
    records = read_chain(tmp_path)
    pruned = [record for record in records if record.get("action") == "pruned"]
    assert records[0]["seq"] == pruned[-1]["detail"]["last_seq"] + 1
    assert records[0]["prev"] == pruned[-1]["detail"]["last_hash"]
    assert pruned[-1]["detail"]["until"] == f"2026-11-{23 - days}"
    assert not list(tmp_path.glob(f"audit.2026-11-{23 - days}.*"))
    assert problems(tmp_path, every=True) == []


async def test_nothing_goes_before_the_chain_says_so(tmp_path: Path) -> None:
    """Files are deleted when the record of it is on disk, the oldest first, and never the one that is written."""
    clock, disk = Clock(), RecordingDisk()
    with trio.fail_after(5):
        async with open_audit_log(settings(tmp_path, retention_days=9), now_us=clock, **TICK) as log:
            for _ in range(3):
                await _write(log, "r1", clock.now_us)
                clock.now_us += DAY_US
        clock.now_us += 30 * DAY_US
        async with open_audit_log(settings(tmp_path, retention_days=1), now_us=clock, disk=disk, **TICK):
            await until_true(lambda: len(log_files(tmp_path)) == 1)
    removals = [place for place, step in enumerate(disk.steps) if step.kind == "remove"]
    said = next(place for place, step in enumerate(disk.steps) if b'"pruned"' in step.data)
    assert any(step.kind == "sync" for step in disk.steps[said : removals[0]])
    kinds = [disk.steps[place].path.suffix for place in removals]
    assert kinds == sorted(kinds, reverse=True), "logs go before the checkpoints over them"
    names = [disk.steps[place].path.name for place in removals if disk.steps[place].path.suffix == ".log"]
    assert problems(tmp_path, every=True) == []
    assert names == [f"audit.2026-11-{day}.log" for day in (18, 19, 20, 21)][: len(names)]


async def test_nothing_is_too_old_for_a_retention_of_0(tmp_path: Path) -> None:
    """0 days keep everything, for good."""
    clock = Clock()
    with trio.fail_after(5):
        for _ in range(3):
            async with open_audit_log(settings(tmp_path, retention_days=0), now_us=clock, **TICK) as log:
                await _write(log, "r1", clock.now_us)
            clock.now_us += 1000 * DAY_US
    assert len(log_files(tmp_path)) == 3
    assert read_chain(tmp_path)[0]["seq"] == 1


async def test_another_slot_is_left_alone(tmp_path: Path) -> None:
    """Retention, rotation and recovery look at the files of their own slot."""
    clock = Clock()
    with trio.fail_after(5):
        async with open_audit_log(settings(tmp_path, slot=2), now_us=clock) as log:
            await _write(log, "second", clock.now_us)
        clock.now_us += 10 * DAY_US
        async with open_audit_log(settings(tmp_path, retention_days=1), now_us=clock, **TICK) as log:
            await _write(log, "first", clock.now_us)
    assert problems(tmp_path, every=True) == []
    assert len(read_chain(tmp_path, 2)) == 4
    assert [record["seq"] for record in read_chain(tmp_path)] == [1, 2, 3, 4]
