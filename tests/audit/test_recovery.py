"""A slot is taken over after a crash: torn tails, open intents, marks, damage that is no crash."""

import errno
import json
import logging
from pathlib import Path

import pytest
import trio

from rig.audit_log import (
    START_US,
    Clock,
    actions,
    closings,
    event,
    intent,
    log_files,
    read_chain,
    sent,
    settings,
)
from rig.disks import RecordingDisk
from rig.waiting import until_true
from securellm.audit.disk import DiskFile
from securellm.audit.log import open_audit_log
from securellm.audit.record import Record, timestamp
from securellm.audit.recovery import MARK_BYTES, MAX_TORN_BYTES, Mark, encode_mark

DAY_US = 86_400_000_000


async def _start(directory: Path, now_us: int = START_US, **changes: object) -> list[dict]:
    async with open_audit_log(settings(directory, **changes), now_us=Clock(now_us), disk=RecordingDisk()):
        pass
    return read_chain(directory)


async def _write(directory: Path, *records: Record, now_us: int = START_US) -> None:
    async with open_audit_log(settings(directory), now_us=Clock(now_us), disk=RecordingDisk()) as log:
        reservation = log.reserve()
        for record in records:
            await reservation.append(record).durable()
        reservation.close()


class _NoNewDay(RecordingDisk):
    """Has room for what is there, and not for another day's log."""

    def open(self, path: Path) -> DiskFile:
        if path.name == "audit.2026-11-19.log":
            raise OSError(errno.ENOSPC, "no space left on device")
        return super().open(path)


TAILS = {
    "half a line": b'{"v":1,"seq":5,"slot":1,"pr',
    "a whole line without its end": b'{"v":1,"seq":5,"slot":1,"prev":"' + b"0" * 64 + b'"}',
    "a line of zeros": bytes(700),
    "zeros and an end": bytes(700) + b"\n",
    "no UTF-8": b"\xff\xfe\n",
    "a line with another prev": b'{"v":1,"seq":5,"slot":1,"prev":"' + b"0" * 64 + b'","event_type":"x"}\n',
    "a bad line and a good one": b"{}\n" + b'{"v":1,"seq":6,"slot":1,"prev":"' + b"0" * 64 + b'","event_type":"x"}\n',
    "an empty line": b"\n",
    "a number": b"7\n",
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
async def test_a_torn_tail_is_cut_and_kept(tmp_path: Path, tail: bytes) -> None:
    """Whatever follows the last good line goes into a private file beside, and the chain says so and goes on."""
    with trio.fail_after(5):
        await _write(tmp_path, intent("r1"), sent("r1"))
        (path,) = log_files(tmp_path)
        size = path.stat().st_size
        with path.open("ab") as file:
            file.write(tail)
        records = await _start(tmp_path)
    (kept,) = tmp_path.glob("*.torn-*")
    assert kept.name == "audit.2026-11-18.log.torn-20261118T110640.000000Z"
    assert kept.read_bytes() == tail
    assert kept.stat().st_mode & 0o777 == 0o600
    (cut,) = [record for record in records if record.get("action") == "tail_cut"]
    expected = {"file": path.name, "offset": size, "bytes": len(tail), "last_seq": 4, "kept": kept.name}
    assert cut["detail"] == expected
    assert [record["seq"] for record in records] == [1, 2, 3, 4, 5, 6, 7]


async def test_a_file_of_nothing_but_a_torn_line_goes_on_from_the_day_before(tmp_path: Path) -> None:
    """The first line of a day was torn: the chain ends in yesterday's file, and today's begins anew."""
    with trio.fail_after(5):
        await _write(tmp_path, intent("r1"), sent("r1"))
        (tmp_path / "audit.2026-11-19.log").write_bytes(b'{"v":1,"se')
        records = await _start(tmp_path, START_US + DAY_US)
    assert [record["seq"] for record in records] == [1, 2, 3, 4, 5, 6, 7]
    assert actions(records)[2:] == ["tail_cut", "writer_started", "writer_stopped"]


async def test_an_empty_file_is_as_good_as_none(tmp_path: Path) -> None:
    """The process died between opening a day's file and writing to it."""
    with trio.fail_after(5):
        await _write(tmp_path, intent("r1"), sent("r1"))
        (tmp_path / "audit.2026-11-19.log").write_bytes(b"")
        records = await _start(tmp_path, START_US + DAY_US)
    assert "tail_cut" not in actions(records)
    assert len(log_files(tmp_path)) == 2


async def test_an_open_intent_is_closed_as_interrupted(tmp_path: Path) -> None:
    """With what the intent said of the request, and whom it asked last; a request that has its end gets no second."""
    whole = {
        "client_request_id": "c1",
        "epoch": "e1",
        "user_id": "u1",
        "key_id": "k1",
        "client_ip": "192.0.2.1",
        "endpoint": "messages",
        "requested_model": "m",
        "provider": "p1",
        "model": "m1",
        "stream": True,
    }
    asked = {**whole, "provider": "p2", "model": "m2"}
    with trio.fail_after(5):
        await _write(
            tmp_path,
            intent("r1", **whole),
            intent("r2"),
            Record(timestamp(START_US), "attempt_started", request_id="r1", attempt=2, **asked),
            sent("r2"),
        )
        records = await _start(tmp_path, START_US + 1_000_000)
    assert closings(records) == {"r1": ["interrupted"], "r2": ["success"]}
    end = next(record for record in records if record["event_type"] == "request_failed")
    for name in ("v", "seq", "slot", "prev"):
        del end[name]
    assert end == {
        "timestamp": timestamp(START_US + 1_000_000),
        "event_type": "request_failed",
        "request_id": "r1",
        **asked,
        "status": "interrupted",
        "error_code": "interrupted",
        "error_message": "the gateway stopped before the request ended",
    }


@pytest.mark.parametrize(
    "mark", ["good", "lost", "wrong hash", "no JSON", "empty", "of a file that is gone", "too far"]
)
async def test_open_intents_are_found_in_the_file_of_the_day_before(tmp_path: Path, mark: str) -> None:
    """Over midnight, checkpoints, and thousands of records, whether the mark can be used or not."""
    clock = Clock()
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path), now_us=clock, disk=RecordingDisk(), tick_s=0.0) as log:
            await log.reserve().append(intent("old")).durable()
            for _ in range(3):
                clock.now_us += DAY_US // 3
                for number in range(200):
                    log.event(event("config_loaded", clock.now_us, count=number))
                await log.reserve().append(intent(f"r{clock.now_us}")).durable()
        assert len(log_files(tmp_path)) == 2
        path = tmp_path / "slot-1.mark"
        held = json.loads(path.read_bytes())
        assert held["file"] == "audit.2026-11-18.log"
        assert held["seq"] <= 2, "the mark stays at the oldest open intent"
        if mark == "lost":
            path.unlink()
        elif mark == "wrong hash":
            path.write_bytes(json.dumps({**held, "hash": "0" * 64}).encode())
        elif mark == "no JSON":
            path.write_bytes(b'{"file"')
        elif mark == "empty":
            path.write_bytes(b"")
        elif mark == "of a file that is gone":
            path.write_bytes(json.dumps({**held, "file": "audit.2020-01-01.log"}).encode())
        elif mark == "too far":
            path.write_bytes(json.dumps({**held, "offset": 10**12}).encode())
        records = await _start(tmp_path, clock.now_us)
    assert len(closings(records)) == 4
    assert set(map(tuple, closings(records).values())) == {("interrupted",)}


async def test_recovery_reads_from_the_mark_on(tmp_path: Path) -> None:
    """What lies before the mark is not looked at: a day of records costs a start nothing."""
    with trio.fail_after(10):
        await _write(tmp_path, *(sent(f"r{number}") for number in range(500)))
        (path,) = log_files(tmp_path)
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data)
        async with open_audit_log(settings(tmp_path), now_us=Clock(), disk=RecordingDisk()):
            pass
    assert not list(tmp_path.glob("*.torn-*"))


async def test_without_a_mark_files_older_than_a_request_can_be_are_not_read(tmp_path: Path) -> None:
    """The newest file, one day more, and what the longest request takes: older ones are left alone."""
    with trio.fail_after(10):
        for day in range(4):
            await _write(tmp_path, intent(f"r{day}"), sent(f"r{day}"), now_us=START_US + day * DAY_US)
        files = log_files(tmp_path)
        (tmp_path / "slot-1.mark").unlink()
        files[0].write_bytes(intent_line := b'{"v":1,"seq":1,"slot":1,"prev":"","event_type":"request_received"}\n')
        files[1].chmod(0o600)
        async with open_audit_log(
            settings(tmp_path, longest_request_s=600.0), now_us=Clock(START_US + 4 * DAY_US), disk=RecordingDisk()
        ):
            pass
        assert files[0].read_bytes() == intent_line
        data = files[-1].read_bytes() + log_files(tmp_path)[-1].read_bytes()
    assert b"interrupted" not in data


async def test_damage_further_back_is_not_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A bad line before what a checkpoint covers is no torn tail: nothing is cut, and the chain ends where it ended."""
    with trio.fail_after(10):
        await _write(tmp_path, *(sent(f"r{number}") for number in range(20)))
        (path,) = log_files(tmp_path)
        (tmp_path / "slot-1.mark").unlink()
        before = path.read_bytes().replace(b'"r7"', b'"r8"')
        path.write_bytes(before)
        async with open_audit_log(settings(tmp_path), now_us=Clock(), disk=RecordingDisk()):
            pass
    assert path.read_bytes().startswith(before)
    assert not list(tmp_path.glob("*.torn-*"))
    assert "is damaged" in caplog.text
    last = [json.loads(line) for line in path.read_bytes().splitlines()[-3:]]
    assert [record["seq"] for record in last] == [22, 23, 24]


async def test_more_than_a_commit_is_never_cut(tmp_path: Path) -> None:
    """A bad line with many good ones behind it stays, also when no checkpoint covers it."""
    with trio.fail_after(20):
        await _write(tmp_path, *(sent(f"r{number}", error_message="x" * 900_000) for number in range(6)))
        (path,) = log_files(tmp_path)
        for gone in [*tmp_path.glob("*.checkpoints"), tmp_path / "slot-1.mark"]:
            gone.unlink()
        assert path.stat().st_size > MAX_TORN_BYTES
        damaged = path.read_bytes().replace(b'"r0"', b'"rX"', 1)
        path.write_bytes(damaged)
        async with open_audit_log(settings(tmp_path), now_us=Clock(), disk=RecordingDisk()):
            pass
    assert path.read_bytes().startswith(damaged)


async def test_a_log_shorter_than_its_checkpoint_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Records that were signed are gone: the start says so in the log and in the chain, and does not hide it."""
    with trio.fail_after(5):
        await _write(tmp_path, intent("r1"), sent("r1"))
        (path,) = log_files(tmp_path)
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
        records = await _start(tmp_path)
    told = next(record for record in records if record.get("action") == "tail_cut")
    assert told["detail"] == {"last_seq": 2, "checkpoint_seq": 4}
    assert "ends at record 2, but a checkpoint covers 4" in caplog.text


async def test_nothing_is_written_behind_half_a_line(tmp_path: Path) -> None:
    """Also where a checkpoint covers more than there is: a line without its end is cut, so that the next is one."""
    with trio.fail_after(5):
        await _write(tmp_path, intent("r1"), sent("r1"))
        (path,) = log_files(tmp_path)
        path.write_bytes(path.read_bytes()[:-300])
        records = await _start(tmp_path)
    assert actions(records)[1:] == ["tail_cut", "tail_cut", "writer_started", "writer_stopped"]


async def test_a_start_that_fails_at_midnight_forgets_no_open_intent(tmp_path: Path) -> None:
    """A start closes the old day's file with a checkpoint, and dies before the ends of its requests are on disk."""
    with trio.fail_after(5):
        await _write(tmp_path, intent("r1"))
        async with open_audit_log(
            settings(tmp_path, commit_timeout_s=0.05), now_us=Clock(START_US + DAY_US), disk=_NoNewDay(), retry_s=0.005
        ) as log:
            await until_true(lambda: log.statistics().last_error is not None)
        assert "rotation" in (tmp_path / "audit.2026-11-18.checkpoints").read_text()
        records = await _start(tmp_path, START_US + DAY_US)
    assert closings(records) == {"r1": ["interrupted"]}


async def test_a_torn_checkpoint_is_cut(tmp_path: Path) -> None:
    """The next one follows the last whole one."""
    with trio.fail_after(5):
        await _write(tmp_path, intent("r1"), sent("r1"))
        path = tmp_path / "audit.2026-11-18.checkpoints"
        whole = path.read_bytes()
        path.write_bytes(whole + whole[: len(whole) // 3])
        await _start(tmp_path)
    data = path.read_bytes()
    assert data.startswith(whole)
    assert data.count(b"\n\n\xe2\x80\x94 ") == data.count(b"securellm-audit/") // 2


async def test_the_end_of_the_file_is_written_again(tmp_path: Path) -> None:
    """What recovery reads may be in the page cache alone, after a failed fsync: it is written and synced once more."""
    with trio.fail_after(5):
        await _write(tmp_path, intent("r1"), sent("r1"))
        (path,) = log_files(tmp_path)
        content = path.read_bytes()
        disk = RecordingDisk()
        async with open_audit_log(settings(tmp_path), now_us=Clock(), disk=disk):
            pass
    first = [step for step in disk.steps if step.path == path][:2]
    assert [(step.kind, step.offset, step.data) for step in first] == [("write", 0, content), ("sync", 0, b"")]


async def test_a_good_start_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After a clean end nothing is cut, closed or logged."""
    with trio.fail_after(5):
        await _write(tmp_path, intent("r1"), sent("r1"))
        records = await _start(tmp_path)
    assert actions(records) == ["writer_started", "writer_stopped"] * 2
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_mark_has_one_length() -> None:
    """A new one covers an old one wholly, whatever its numbers."""
    long = Mark("audit.2026-11-18.w123456.log", 10**15, 10**15, "f" * 64)
    assert len(encode_mark(long)) == len(encode_mark(Mark("audit.2026-11-18.log", 0, 1, "f" * 64))) == MARK_BYTES
