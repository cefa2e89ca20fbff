"""Places to wait at: each is used again, by one task at a time, whatever ended the wait before."""

from pathlib import Path

import pytest
import trio

from rig.audit_log import Clock, intent, settings
from rig.disks import HangingDisk
from rig.waiting import until_true
from securellm.audit.log import open_audit_log
from securellm.audit.waiting import AWAKE, Place
from securellm.errors import AuditUnavailable


async def test_a_place_wakes_and_cancels_whoever_waits_there() -> None:
    """Woken tasks go on, a cancelled one is forgotten by its own name and cancelled, time after time."""
    forgotten: list[trio.lowlevel.Task] = []
    place = Place(forgotten.append)
    task = place.task = trio.lowlevel.current_task()
    with trio.fail_after(10):
        for round_ in range(1, 4):
            trio.lowlevel.current_trio_token().run_sync_soon(trio.lowlevel.reschedule, task, AWAKE)
            await place
            with trio.CancelScope() as scope:
                scope.cancel()
                await place
            assert scope.cancelled_caught
            assert forgotten == [task] * round_


async def test_places_are_used_again(tmp_path: Path) -> None:
    """As many as wait at one time: those of cancelled, refused and answered waits serve the next ones."""
    disk = HangingDisk()
    with trio.fail_after(20):
        async with open_audit_log(settings(tmp_path), now_us=Clock(), disk=disk) as log:
            for _ in range(3):
                disk.hang()
                receipts = [log.reserve().append(intent(f"r{number}")) for number in range(4)]
                async with trio.open_nursery() as nursery:
                    for receipt in receipts[:3]:
                        nursery.start_soon(receipt.durable)
                    with trio.move_on_after(0.02) as scope:
                        await receipts[3].durable()
                    assert scope.cancelled_caught
                    assert (len(log.places), len(log._waiting)) == (1, 3)
                    disk.go_on()
                await receipts[3].durable()
                assert all(receipt.done for receipt in receipts)
                assert (len(log.places), len(log._waiting)) == (4, 0)
                assert all(place.task is None for place in log.places)


@pytest.mark.parametrize("waits", [1, 3])
async def test_a_task_that_ends_badly_leaves_its_place(tmp_path: Path, waits: int) -> None:
    """Several who wait for one record, and are let go, have their places back before they hear of it."""
    disk = HangingDisk()
    with trio.fail_after(20):
        async with open_audit_log(settings(tmp_path), now_us=Clock(), disk=disk) as log:
            disk.hang()
            receipt = log.reserve().append(intent("r"))
            refused = []

            async def wait() -> None:
                with pytest.raises(AuditUnavailable, match="takes no records"):
                    await receipt.durable()
                refused.append(len(log.places))

            async with trio.open_nursery() as nursery:
                for _ in range(waits):
                    nursery.start_soon(wait)
                await until_true(lambda: len(log._waiting) == waits)
                receipt.let_go()
            assert sorted(refused) == [*range(1, waits + 1)]
            disk.go_on()
