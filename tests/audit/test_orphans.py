"""Slots of the audit log that fewer workers leave behind."""

import datetime
from pathlib import Path

import msgspec
import pytest
import trio

from rig.audit_log import Running, actions, closings, intent, log_files, read_chain, settings
from securellm.audit.files import SlotLock
from securellm.audit.keys import load_signing_key
from securellm.audit.log import open_audit_log
from securellm.audit.opening import unix_us
from securellm.audit.orphans import close_orphans
from securellm.config import Config

DAY_US = 86_400 * 1_000_000


def _config(folder: Path) -> Config:
    return msgspec.structs.replace(Config(), state_dir=folder / "state", log_dir=folder / "log")


async def _write(config: Config, slot: int, now_us: int) -> None:
    """One request that is still open when the slot's worker ends."""
    kept = msgspec.structs.replace(
        settings(config.log_dir), key=load_signing_key(config.state_dir), slot=slot, retention_days=0
    )
    async with open_audit_log(kept, now_us=Running(now_us)) as log:
        reservation = log.reserve()
        await reservation.append(intent(f"request-{slot}", now_us)).durable()


async def test_slots_above_the_workers_are_closed(tmp_path: Path) -> None:
    """An open request there is closed as interrupted, once; slots that have a worker are left to it."""
    config = _config(tmp_path)
    config.state_dir.mkdir()
    with trio.fail_after(20):
        for slot in (1, 2, 3):
            await _write(config, slot, unix_us())
        for _ in range(2):
            await close_orphans(config, 1)
    assert closings(read_chain(config.log_dir)) == {"request-1": []}
    for slot in (2, 3):
        records = read_chain(config.log_dir, slot)
        assert closings(records) == {f"request-{slot}": ["interrupted"]}
        assert actions(records).count("slot_sealed") == 1


async def test_their_old_days_are_deleted(tmp_path: Path) -> None:
    """Retention goes on in a slot that nobody writes."""
    config = _config(tmp_path)
    config.state_dir.mkdir()
    with trio.fail_after(20):
        await _write(config, 2, unix_us() - 200 * DAY_US)
        await close_orphans(config, 1)
    today = datetime.datetime.now(datetime.UTC).date()
    dates = [path.name.split(".")[1] for path in log_files(config.log_dir, 2)]
    assert all((today - datetime.date.fromisoformat(date)).days <= 90 for date in dates)


async def test_a_slot_that_is_still_held_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody who writes it is told of, not disturbed; so is a directory that is not there."""
    config = _config(tmp_path)
    config.state_dir.mkdir()
    with trio.fail_after(20):
        await _write(config, 2, unix_us())
        before = log_files(config.log_dir, 2)[0].read_bytes()
        lock = SlotLock(config.log_dir, 2)
        await close_orphans(config, 1)
        lock.release()
        await close_orphans(msgspec.structs.replace(config, log_dir=tmp_path / "none"), 1)
    assert log_files(config.log_dir, 2)[0].read_bytes() == before
    assert "slot 2 of the audit log" in caplog.messages[-2]
    assert "no such file" in caplog.messages[-1]
