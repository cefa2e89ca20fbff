"""The audit log as the ledger uses it: what is on disk, in which order, and who is told when."""

import contextlib
import json
import stat
import time
from pathlib import Path

import pytest
import trio
import trio.testing

from rig.audit_log import (
    Clock,
    Running,
    actions,
    closings,
    event,
    intent,
    log_files,
    read_chain,
    sent,
    settings,
)
from rig.disks import HangingDisk, RecordingDisk
from rig.waiting import until_true
from securellm.audit.log import AuditLog, open_audit_log
from securellm.errors import AuditUnavailable, ConfigError

MANY = 100  # records: more than are worth a commit of their own


async def _request(log: AuditLog, name: str) -> None:
    reservation = log.reserve()
    await reservation.append(intent(name)).durable()
    await reservation.append(sent(name)).durable()
    reservation.close()


async def test_a_pair_is_on_disk_when_the_receipts_return(tmp_path: Path) -> None:
    """After `durable` the line is in the file, chained to the one before."""
    with trio.fail_after(5):
        async with open_audit_log(settings(tmp_path), now_us=Clock()) as log:
            reservation = log.reserve()
            await reservation.append(intent("r1", user_id="u")).durable()
            (path,) = log_files(tmp_path)
            last = json.loads(path.read_bytes().split(b"\n")[-2])
            assert (last["event_type"], last["request_id"], last["user_id"]) == ("request_received", "r1", "u")
            await reservation.append(sent("r1")).durable()
            reservation.close()
            assert closings(read_chain(tmp_path)) == {"r1": ["success"]}
    assert actions(read_chain(tmp_path)) == ["writer_started", "writer_stopped"]


async def test_files_are_private(tmp_path: Path) -> None:
    """0600 each, in a directory of 0700 that is made for them; named after date and slot."""
    with trio.fail_after(5):
        async with open_audit_log(settings(tmp_path / "a" / "log", slot=3), now_us=Clock()) as log:
            await _request(log, "r1")
    directory = tmp_path / "a" / "log"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == dict.fromkeys(
        ("audit.2026-11-18.w3.log", "audit.2026-11-18.w3.checkpoints", "slot-3.lock", "slot-3.mark"), 0o600
    )
    assert closings(read_chain(directory, 3)) == {"r1": ["success"]}


async def test_a_directory_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    """Somebody may share it with other logs."""
    tmp_path.chmod(0o755)
    with trio.fail_after(5):
        async with open_audit_log(settings(tmp_path), now_us=Clock()):
            pass
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


async def test_a_slot_has_one_writer(tmp_path: Path) -> None:
    """A second one is refused while the first lives; another slot is free; afterwards the slot is, too."""
    with trio.fail_after(5):
        async with open_audit_log(settings(tmp_path), now_us=Clock()):
            with pytest.raises(ConfigError, match=r"slot 1 .* is being written by another process"):
                async with open_audit_log(settings(tmp_path), now_us=Clock()):
                    pass
            async with open_audit_log(settings(tmp_path, slot=2), now_us=Clock()):
                pass
        async with open_audit_log(settings(tmp_path), now_us=Clock()):
            pass


async def test_the_chain_goes_on_over_starts(tmp_path: Path) -> None:
    """The first line of a start follows the last line of the one before."""
    with trio.fail_after(5):
        for number in range(3):
            async with open_audit_log(settings(tmp_path), now_us=Clock()) as log:
                await _request(log, f"r{number}")
    records = read_chain(tmp_path)
    assert records[0]["seq"] == 1
    assert actions(records) == ["writer_started", "writer_stopped"] * 3


async def test_a_closed_log_holds_nothing_open(tmp_path: Path) -> None:
    """However often it is opened: descriptors would run out in a process that lives long."""

    async def open_once() -> int:
        async with open_audit_log(settings(tmp_path), now_us=Clock()) as log:
            await _request(log, "r")
        await trio.testing.wait_all_tasks_blocked()
        return len(list(Path("/proc/self/fd").iterdir()))

    with trio.fail_after(10):
        assert await open_once() == await open_once() == await open_once()


async def test_records_are_in_the_order_in_which_they_were_appended(tmp_path: Path) -> None:
    """Of one request and of many at once."""
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path), now_us=Clock()) as log:
            reservations = [log.reserve() for _ in range(200)]
            receipts = [
                reservation.append(intent(f"r{number}-{part}"))
                for part in range(20)
                for number, reservation in enumerate(reservations)
            ]
            for receipt in receipts:
                await receipt.durable()
            for reservation in reservations:
                reservation.close()
            assert log.statistics().commits < 100
            assert log.statistics().reserved == 0
    names = [record["request_id"] for record in read_chain(tmp_path) if "request_id" in record]
    assert names == [f"r{number}-{part}" for part in range(20) for number in range(200)]


async def test_one_sync_serves_all_who_wait(tmp_path: Path) -> None:
    """Whoever comes while a commit is on its way shares the next: at most two syncs for any number."""
    disk = RecordingDisk()
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path), now_us=Clock(), disk=disk) as log:
            await _request(log, "first")
            path = log_files(tmp_path)[0]
            before = sum(step.kind == "sync" and step.path == path for step in disk.steps)
            async with trio.open_nursery() as nursery:
                for number in range(300):
                    nursery.start_soon(log.reserve().append(intent(f"r{number}")).durable)
            assert sum(step.kind == "sync" and step.path == path for step in disk.steps) <= before + 3


async def test_what_is_queued_in_one_turn_of_the_loop_is_one_commit(tmp_path: Path) -> None:
    """The first of them does not go to the disk alone, and whoever is told with others is written with others."""
    disk = RecordingDisk()
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path), now_us=Clock(), disk=disk) as log:
            await _request(log, "first")
            path = log_files(tmp_path)[0]
            before = sum(step.kind == "sync" and step.path == path for step in disk.steps)
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(_request, log, f"r{number}")
            assert sum(step.kind == "sync" and step.path == path for step in disk.steps) == before + 2


async def test_who_is_alone_waits_for_nobody(tmp_path: Path) -> None:
    """Neither for others nor for the next tick: one at a time, and one behind many."""
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path), now_us=Clock(), tick_s=60.0) as log:
            for number in range(20):
                await _request(log, f"r{number}")
            async with trio.open_nursery() as nursery:
                for number in range(20, 60):
                    nursery.start_soon(log.reserve().append(intent(f"r{number}")).durable)
            await _request(log, "last")
    assert closings(read_chain(tmp_path))["last"] == ["success"]


async def test_records_do_not_wait_for_a_loop_that_is_busy(tmp_path: Path) -> None:
    """A few behind a large commit wait a moment for more, but not for the end of a long turn."""
    disk = HangingDisk()
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path), now_us=Clock(), disk=disk, tick_s=60.0) as log:
            await _request(log, "first")
            disk.hang()
            many = [log.reserve().append(intent(f"r{number}")) for number in range(MANY)]
            await until_true(disk.syncing.is_set)
            log.reserve().append(intent("late"))
            disk.go_on()
            give_up_s = time.monotonic() + 5
            while b'"late"' not in log_files(tmp_path)[0].read_bytes():
                assert time.monotonic() < give_up_s
                time.sleep(0.001)  # noqa: ASYNC251  # the loop is held up on purpose
            for receipt in many:
                await receipt.durable()


async def test_a_write_is_followed_by_its_sync(tmp_path: Path) -> None:
    """In the log, nothing is written behind bytes that were not synced; a checkpoint comes after its record's sync."""
    disk = RecordingDisk()
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path), now_us=Running(), disk=disk, tick_s=0.0) as log:
            for number in range(10):
                await _request(log, f"r{number}")
    kinds = [step.kind for step in disk.steps if step.path.suffix == ".log" and step.kind in ("write", "sync")]
    assert kinds == ["write", "sync"] * (len(kinds) // 2)
    unsynced = False
    for step in disk.steps:
        if step.path.suffix == ".log":
            unsynced = step.kind == "write" or (unsynced and step.kind != "sync")
        assert not (step.path.suffix == ".checkpoints" and unsynced)


async def test_cancelling_a_wait_loses_nothing(tmp_path: Path) -> None:
    """The record is written all the same; others who wait for it are told, and it can be waited for again."""
    disk = HangingDisk()
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path), now_us=Clock(), disk=disk) as log:
            await _request(log, "first")
            disk.hang()
            receipt = log.reserve().append(intent("r1"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receipt.durable)
                with trio.move_on_after(0.02) as scope:
                    await receipt.durable()
                assert scope.cancelled_caught
                disk.go_on()
            await receipt.durable()
    assert "r1" in closings(read_chain(tmp_path))


async def test_who_is_let_go_loses_no_record(tmp_path: Path) -> None:
    """A wait that nobody needs any more ends at once, while the disk hangs; the record is written all the same."""
    disk = HangingDisk()
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path), now_us=Clock(), disk=disk) as log:
            await _request(log, "first")
            disk.hang()
            receipt, other = log.reserve().append(intent("r1")), log.reserve().append(intent("r2"))

            async def wait() -> None:
                with pytest.raises(AuditUnavailable):
                    await receipt.durable()
                done.set()

            done = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                nursery.start_soon(other.durable)  # which goes on
                await until_true(lambda: receipt.tasks is not None)
                receipt.let_go()
                await done.wait()
                disk.go_on()
            await receipt.durable()
            receipt.let_go()
    assert {"r1", "r2"} <= closings(read_chain(tmp_path)).keys()


async def test_waits_may_end_in_any_order(tmp_path: Path) -> None:
    """Hundreds of waits, cancelled at random moments around their commits: every record is there, nobody is stuck."""

    async def impatient(log: AuditLog, number: int) -> None:
        reservation = log.reserve()
        with trio.move_on_after(0.0002 * (number % 23)):
            await reservation.append(intent(f"r{number}")).durable()
        await reservation.append(sent(f"r{number}")).durable()
        reservation.close()

    with trio.fail_after(20):
        async with open_audit_log(settings(tmp_path), now_us=Clock()) as log:
            async with trio.open_nursery() as nursery:
                for number in range(400):
                    nursery.start_soon(impatient, log, number)
            assert log.statistics().reserved == 0
    assert closings(read_chain(tmp_path)) == {f"r{number}": ["success"] for number in range(400)}


async def test_a_reservation_without_records_is_given_back(tmp_path: Path) -> None:
    """Closing is enough, once or twice."""
    with trio.fail_after(5):
        async with open_audit_log(settings(tmp_path, max_reserved=1), now_us=Clock()) as log:
            for _ in range(3):
                reservation = log.reserve()
                with pytest.raises(AuditUnavailable):
                    log.reserve()
                reservation.close()
                reservation.close()


async def test_what_is_queued_at_the_end_is_written(tmp_path: Path) -> None:
    """Also when the block is left by an error or by cancellation: nothing appended is lost."""
    with trio.fail_after(10):
        with contextlib.suppress(ZeroDivisionError):
            async with open_audit_log(settings(tmp_path), now_us=Clock()) as log:
                log.reserve().append(intent("r1"))
                raise ZeroDivisionError
        with trio.CancelScope() as scope:
            async with open_audit_log(settings(tmp_path), now_us=Clock()) as log:
                log.reserve().append(intent("r2"))
                scope.cancel()
                await trio.sleep_forever()
        assert read_chain(tmp_path)[-2]["request_id"] == "r2"
        async with open_audit_log(settings(tmp_path), now_us=Clock()):
            pass
    assert closings(read_chain(tmp_path)) == {"r1": ["interrupted"], "r2": ["interrupted"]}


async def test_floods_of_failed_authentications_are_folded(tmp_path: Path) -> None:
    """A line a tick and address with a count, and none is waited for; other events are written one by one."""
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path), now_us=Clock()) as log:
            await until_true(lambda: log.statistics().seq == 1 and not log.statistics().pending)
            for number in range(3000):
                log.event(event("authentication_failed", client_ip=f"192.0.2.{number % 3}"))
            log.event(event("key_created"))
    records = read_chain(tmp_path)
    failed = [record for record in records if record.get("action") == "authentication_failed"]
    assert sum(record["count"] for record in failed) == 3000
    assert len(failed) <= 6
    assert "key_created" in actions(records)


async def test_folded_events_come_within_a_tick(tmp_path: Path) -> None:
    """While the log is idle otherwise."""
    with trio.fail_after(5):
        async with open_audit_log(settings(tmp_path), now_us=Clock(), tick_s=0.01) as log:
            log.event(event("authentication_failed", client_ip="192.0.2.1"))
            await until_true(lambda: log.statistics().seq == 2)


async def test_any_text_can_be_recorded(tmp_path: Path) -> None:
    """Lone surrogates, control characters, a megabyte: the request has its records, and the chain holds."""
    hostile = ["\ud800", '\x00\x1f\u2028"\\', "m" * 2_000_000, "\ud800" * 1_000_000]
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path), now_us=Clock()) as log:
            for number, text in enumerate(hostile):
                reservation = log.reserve()
                await reservation.append(intent(f"r{number}", requested_model=text)).durable()
                await reservation.append(sent(f"r{number}", dropped=(text,) * 3, usage={"a": 2**70})).durable()
                reservation.close()
    records = read_chain(tmp_path)
    assert closings(records) == {f"r{number}": ["success"] for number in range(4)}
    models = [record["requested_model"] for record in records if record["event_type"] == "request_received"]
    assert models == ["?", hostile[1], "m" * 512, "?" * 512]


async def test_the_figures(tmp_path: Path) -> None:
    """What an operator reads."""
    with trio.fail_after(5):
        async with open_audit_log(settings(tmp_path), now_us=Clock()) as log:
            await _request(log, "r1")
            figures = log.statistics()
            assert (figures.available, figures.pending, figures.reserved, figures.gap) == (True, 0, 0, 0)
            assert (figures.seq, figures.records, figures.last_error) == (3, 3, None)
            assert figures.bytes == log_files(tmp_path)[0].stat().st_size
            assert 1 <= figures.commits <= 3
            assert figures.last_commit_ms > 0
            assert repr(log) == "<AuditLog slot 1, record 3, 0 pending, available>"
            reservation = log.reserve()
            assert log.statistics().reserved == 1
            reservation.close()


async def test_checkpoints_are_copied_to_a_second_place(tmp_path: Path) -> None:
    """The same bytes, in a file of the same name."""
    with trio.fail_after(5):
        async with open_audit_log(
            settings(tmp_path / "log", checkpoint_copy=tmp_path / "copy"), now_us=Clock(), tick_s=0.0
        ) as log:
            await _request(log, "r1")
    name = "audit.2026-11-18.checkpoints"
    assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "log" / name).read_bytes()


async def test_a_second_place_that_is_not_there_harms_nobody(tmp_path: Path) -> None:
    """It is counted, and the log goes on."""
    (tmp_path / "copy").write_bytes(b"")
    with trio.fail_after(5):
        async with open_audit_log(
            settings(tmp_path / "log", checkpoint_copy=tmp_path / "copy"), now_us=Clock(), tick_s=0.0
        ) as log:
            await _request(log, "r1")
            await until_true(lambda: log.statistics().copies_missed > 0)
            assert log.statistics().available
    assert closings(read_chain(tmp_path / "log")) == {"r1": ["success"]}
