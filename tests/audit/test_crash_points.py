"""The machine dies at any moment: what was said to be durable is there, and the log goes on.

The disk remembers what the writer asked of it. For crash points all over a run, an image is laid out with only what was
synced, and with any part of the rest, sector by sector.
"""

import random
from pathlib import Path

import pytest
import trio

from rig.audit_log import Running, actions, closings, intent, problems, put_image, read_chain, sent, settings
from rig.disks import RecordingDisk, Step, image_after_crash
from securellm.audit.log import AuditLog, open_audit_log

CRASHES = 300
US_PER_DAY = 86_400_000_000

Told = list[tuple[int, str, str]]  # after how many steps of the disk: which request, which record


async def _one_request(log: AuditLog, disk: RecordingDisk, told: Told, name: str) -> None:
    reservation = log.reserve()
    receipt = reservation.append(intent(name, requested_model="m" * 400))
    await receipt.durable()
    told.append((len(disk.steps), name, "request_received"))
    receipt = reservation.append(sent(name, error_message="e" * 700))
    reservation.close()
    await receipt.durable()
    told.append((len(disk.steps), name, "response_sent"))


async def _recorded_run(directory: Path, disk: RecordingDisk) -> Told:
    """A run over two days and two starts, with requests one by one and many at once."""
    told: Told = []
    clock = Running()
    for start in ("a", "b"):
        async with open_audit_log(settings(directory), now_us=clock, disk=disk, tick_s=0.0) as log:
            for number in range(5):
                await _one_request(log, disk, told, f"{start}-one-{number}")
            clock.now_us += US_PER_DAY
            async with trio.open_nursery() as nursery:
                for number in range(30):
                    nursery.start_soon(_one_request, log, disk, told, f"{start}-many-{number}")
    return told


async def _violations(directory: Path, disk: RecordingDisk, told: Told, crashes: int) -> list[str]:
    """What is wrong with the images of a run's crashes, each after the product took it over."""
    found = []
    dice = random.Random(20261122)
    for number in range(crashes):
        steps = dice.randrange(len(disk.steps) + 1)
        place = directory / f"crash-{number}"
        put_image(image_after_crash(disk.steps[:steps], dice), place)
        clock = Running(Running().now_us + 3 * US_PER_DAY)
        async with open_audit_log(settings(place), now_us=clock, disk=RecordingDisk(), tick_s=0.0):
            pass
        try:
            records = read_chain(place)
        except AssertionError as broken:
            found.append(f"crash after step {steps}: {broken}")
            continue
        there = {(record.get("request_id"), record["event_type"]) for record in records}
        promised = {(name, kind) for when, name, kind in told if when <= steps}
        found += [f"crash after step {steps}: {name} {kind} is lost" for name, kind in sorted(promised - there)]
        ends = closings(records)
        found += [f"crash after step {steps}: {problem}" for problem in problems(place)]
        found += [f"crash after step {steps}: {name} ends {len(e)} times" for name, e in ends.items() if len(e) != 1]
        if records[0]["seq"] != 1:
            found.append(f"crash after step {steps}: the chain does not begin at its beginning")
    return found


async def test_what_was_durable_survives_any_crash(tmp_path: Path) -> None:
    """Every receipt that had returned is in the recovered chain, which is dense, and every request has one end."""
    with trio.fail_after(60):
        disk = RecordingDisk()
        told = await _recorded_run(tmp_path / "log", disk)
        assert len(told) == 2 * 2 * 35
        assert await _violations(tmp_path, disk, told, CRASHES) == []


async def test_the_check_fails_without_the_sync(tmp_path: Path) -> None:
    """The same run by a writer that does not sync loses what it promised: the check above can fail."""
    with trio.fail_after(60):
        disk = RecordingDisk(syncs=False)
        told = await _recorded_run(tmp_path / "log", disk)
        found = await _violations(tmp_path, disk, told, 30)
        assert any("is lost" in one for one in found)


@pytest.mark.parametrize("start", [1, 2, 3])
async def test_a_crash_during_recovery_is_a_crash_like_any_other(tmp_path: Path, start: int) -> None:
    """The machine dies again while a slot is being taken over, several times: nothing durable is lost."""
    with trio.fail_after(60):
        disk = RecordingDisk()
        told = await _recorded_run(tmp_path / "log", disk)
        dice = random.Random(start)
        for number in range(10):
            steps = dice.randrange(len(disk.steps) // 2, len(disk.steps))
            image = image_after_crash(disk.steps[:steps], dice)
            for again in range(3):
                place = tmp_path / f"crash-{number}-{again}"
                put_image(image, place)
                second = RecordingDisk()
                clock = Running(Running().now_us + 3 * US_PER_DAY)
                async with open_audit_log(settings(place), now_us=clock, disk=second, tick_s=0.0):
                    pass
                died = dice.randrange(len(second.steps) + 1)
                image = _after_second_crash(image, place, second, died, dice)
            place = tmp_path / f"crash-{number}-end"
            put_image(image, place)
            async with open_audit_log(settings(place), now_us=clock, disk=RecordingDisk(), tick_s=0.0):
                pass
            records = read_chain(place)
            assert problems(place) == []
            there = {(record.get("request_id"), record["event_type"]) for record in records}
            assert {(name, kind) for when, name, kind in told if when <= steps} <= there
            assert {len(ends) for ends in closings(records).values()} == {1}
            assert "writer_started" in actions(records)


def _after_second_crash(
    image: dict[Path, bytes], place: Path, disk: RecordingDisk, died: int, dice: random.Random
) -> dict[Path, bytes]:
    """The image again, with what the second start had synced of it, and any part of the rest."""
    return image_after_crash([*_as_steps(image, place), *disk.steps[:died]], dice)


def _as_steps(image: dict[Path, bytes], place: Path) -> list[Step]:
    steps = []
    for path, content in image.items():
        name = place / path.name
        steps += [Step("create", name), Step("write", name, 0, content), Step("sync", name)]
    return steps


async def test_nothing_is_told_before_the_first_signature(tmp_path: Path) -> None:
    """The first commit of a start is signed before anybody hears of it: a crash a moment later leaves what verifies."""
    with trio.fail_after(30):
        for number in range(20):  # the writer may or may not have had its first tick before there is anything to sign
            disk, place = RecordingDisk(), tmp_path / str(number)
            async with open_audit_log(settings(place), now_us=Running(), disk=disk, tick_s=3600.0) as log:
                reservation = log.reserve()
                await reservation.append(intent("r1")).durable()
                told = len(disk.steps)
                reservation.append(sent("r1"))
                reservation.close()
            signed = [step for step in disk.steps[:told] if step.path.name.endswith(".checkpoints")]
            assert [step.kind for step in signed][-1:] == ["sync"], (number, signed)
