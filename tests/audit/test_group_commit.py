"""Commits keep a distance while many requests are under way: who shares one, who waits for nobody, how long at most."""

from pathlib import Path

import trio

from rig.audit_log import Clock, closings, intent, log_files, read_chain, sent, settings
from rig.disks import HangingDisk, RecordingDisk
from rig.waiting import until_true
from securellm.audit.log import AuditLog, AuditSettings, Receipt, Reservation, open_audit_log
from securellm.audit.opening import open_audit
from securellm.audit.writer import SHARE
from securellm.config.tree import Audit, Config

LONG_S = 60.0  # a distance that nothing but what is tested here ends
MANY = 200  # requests under way
ENOUGH = MANY // SHARE


def _lines_a_commit(disk: RecordingDisk, path: Path) -> list[int]:
    """How many records each commit had."""
    return [step.data.count(b"\n") for step in disk.steps if step.kind == "write" and step.path == path]


def _bounds(directory: Path, group_commit_s: float) -> AuditSettings:
    return settings(directory, group_commit_s=group_commit_s, commit_timeout_s=4 * LONG_S)


async def _begin(log: AuditLog) -> list[Reservation]:
    """Have many under way, and the last commit just now."""
    reservations = [log.reserve() for _ in range(MANY)]
    for receipt in [reservation.append(intent("before")) for reservation in reservations[:ENOUGH]]:
        await receipt.durable()
    return reservations


async def _append_one_by_one(reservations: list[Reservation]) -> list[Receipt]:
    """Each in a turn of the loop of its own."""
    receipts = []
    for number, reservation in enumerate(reservations):
        receipts.append(reservation.append(intent(f"r{number}")))
        await trio.sleep(0.001)
    return receipts


async def test_many_under_way_share_a_commit(tmp_path: Path) -> None:
    """Those who come one by one wait for an eighth of those under way, and are one commit then."""
    disk = RecordingDisk()
    with trio.fail_after(10):
        async with open_audit_log(_bounds(tmp_path, LONG_S), now_us=Clock(), disk=disk, tick_s=LONG_S) as log:
            reservations = await _begin(log)
            before = len(_lines_a_commit(disk, log_files(tmp_path)[0]))
            for receipt in await _append_one_by_one(reservations[:ENOUGH]):
                await receipt.durable()
            assert _lines_a_commit(disk, log_files(tmp_path)[0])[before:] == [ENOUGH]


async def test_without_a_distance_each_has_its_own(tmp_path: Path) -> None:
    """0 switches it off, however many are under way."""
    disk = RecordingDisk()
    with trio.fail_after(10):
        async with open_audit_log(_bounds(tmp_path, 0.0), now_us=Clock(), disk=disk, tick_s=LONG_S) as log:
            reservations = await _begin(log)
            before = len(_lines_a_commit(disk, log_files(tmp_path)[0]))
            for number, reservation in enumerate(reservations[:ENOUGH]):
                await reservation.append(intent(f"r{number}")).durable()
            assert _lines_a_commit(disk, log_files(tmp_path)[0])[before:] == [1] * ENOUGH


async def test_the_few_wait_for_nobody(tmp_path: Path) -> None:
    """Fewer than two eighths under way: each request's records go at once, one right after the other."""
    with trio.fail_after(10):
        async with open_audit_log(_bounds(tmp_path, LONG_S), now_us=Clock(), tick_s=LONG_S) as log:
            others = [log.reserve() for _ in range(2 * SHARE - 2)]
            for number in range(20):
                reservation = log.reserve()
                await reservation.append(intent(f"r{number}")).durable()
                await reservation.append(sent(f"r{number}")).durable()
                reservation.close()
            for reservation in others:
                reservation.close()
    assert closings(read_chain(tmp_path)) == {f"r{number}": ["success"] for number in range(20)}


async def test_all_there_are_wait_for_nobody(tmp_path: Path) -> None:
    """Callers who ask again when they have their answers: the loop is never idle for the sake of a distance."""

    async def ask_again(log: AuditLog, caller: int) -> None:
        for number in range(3):
            reservation = log.reserve()
            await reservation.append(intent(f"r{caller}-{number}")).durable()
            await reservation.append(sent(f"r{caller}-{number}")).durable()
            reservation.close()

    with trio.fail_after(10):
        async with open_audit_log(_bounds(tmp_path, LONG_S), now_us=Clock(), tick_s=LONG_S) as log:
            async with trio.open_nursery() as nursery:
                for caller in range(64):
                    nursery.start_soon(ask_again, log, caller)
    assert len(closings(read_chain(tmp_path))) == 3 * 64


async def test_who_leaves_is_not_waited_for(tmp_path: Path) -> None:
    """Those under way are counted anew at the end of a turn: where few are left, what is queued goes."""
    with trio.fail_after(10):
        async with open_audit_log(_bounds(tmp_path, LONG_S), now_us=Clock(), tick_s=LONG_S) as log:
            reservations = await _begin(log)
            receipts = [reservation.append(intent(f"r{number}")) for number, reservation in enumerate(reservations[:3])]
            await trio.sleep(0.1)
            assert not receipts[-1].done
            for reservation in reservations[3:]:
                reservation.close()
            await receipts[-1].durable()


async def test_nobody_waits_longer_than_the_distance(tmp_path: Path) -> None:
    """For others who do not come: neither alone, nor behind a large commit."""
    with trio.fail_after(10):
        async with open_audit_log(_bounds(tmp_path, 0.05), now_us=Clock(), tick_s=LONG_S) as log:
            reservations = await _begin(log)
            began_s = trio.current_time()
            await reservations[1].append(intent("alone")).durable()
            assert trio.current_time() - began_s < 1
            receipts = [reservation.append(intent(f"r{number}")) for number, reservation in enumerate(reservations)]
            await receipts[-1].durable()
            began_s = trio.current_time()
            await reservations[1].append(sent("alone")).durable()
            assert trio.current_time() - began_s < 1


async def test_the_end_is_not_waited_for(tmp_path: Path) -> None:
    """A log that is closed writes at once what waits for others, and does not begin to wait."""
    with trio.fail_after(10):
        async with open_audit_log(_bounds(tmp_path, LONG_S), now_us=Clock(), tick_s=LONG_S) as log:
            reservations = await _begin(log)
            await _append_one_by_one(reservations[:3])
    assert {"r0", "r1", "r2"} <= closings(read_chain(tmp_path)).keys()


async def test_who_comes_after_the_distance_goes_at_once(tmp_path: Path) -> None:
    """It is counted from when a commit began: a slow disk makes the groups itself."""
    disk = HangingDisk()
    with trio.fail_after(10):
        async with open_audit_log(_bounds(tmp_path, 0.8), now_us=Clock(), disk=disk, tick_s=LONG_S) as log:
            reservations = await _begin(log)
            await trio.sleep(0.9)
            began_s = trio.current_time()
            disk.hang()
            held = reservations[1].append(intent("held"))
            await until_true(disk.syncing.is_set)
            assert trio.current_time() - began_s < 0.5
            await trio.sleep(0.9)
            disk.go_on()
            await held.durable()
            began_s = trio.current_time()
            await reservations[2].append(intent("behind")).durable()
            assert trio.current_time() - began_s < 0.5


async def test_the_distance_is_no_longer_than_a_receipt_may_wait(tmp_path: Path) -> None:
    """A short `commit_timeout_s` refuses because of the disk, never because of the waiting."""
    with trio.fail_after(10):
        bounds = settings(tmp_path, group_commit_s=LONG_S, commit_timeout_s=1.0)
        async with open_audit_log(bounds, now_us=Clock(), tick_s=LONG_S) as log:
            reservations = await _begin(log)
            await reservations[1].append(intent("alone")).durable()
            assert log.statistics().available


async def test_the_setting_reaches_the_writer(tmp_path: Path) -> None:
    """`audit.group_commit_ms`: who comes too early for it waits."""
    config = Config(state_dir=tmp_path / "state", log_dir=tmp_path / "log", audit=Audit(group_commit_ms=800))
    config.state_dir.mkdir(mode=0o700)
    with trio.fail_after(10):
        async with open_audit(config) as log:
            assert log is not None
            reservations = await _begin(log)
            began_s = trio.current_time()
            await reservations[1].append(intent("alone")).durable()
            assert trio.current_time() - began_s > 0.2
