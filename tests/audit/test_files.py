"""Names, dates and the order of the audit log's files."""

from pathlib import Path

import pytest

from securellm.audit.files import (
    US_PER_DAY,
    SlotLock,
    checkpoints_name,
    date_of,
    day_ends,
    days_before,
    list_checkpoints,
    list_logs,
    log_name,
)
from securellm.errors import ConfigError


def test_names_carry_date_and_slot() -> None:
    """Slot 1 has the plain name."""
    assert log_name("2026-11-22", 1) == "audit.2026-11-22.log"
    assert log_name("2026-11-22", 12) == "audit.2026-11-22.w12.log"
    assert checkpoints_name("2026-11-22", 1) == "audit.2026-11-22.checkpoints"
    assert checkpoints_name("2026-11-22", 2) == "audit.2026-11-22.w2.checkpoints"


def test_days_are_utc() -> None:
    """To the microsecond, over a leap day and the end of a year."""
    for date in ("2026-11-22", "2028-02-29", "2026-12-31"):
        end_us = day_ends(date)
        assert end_us % US_PER_DAY == 0
        assert date_of(end_us - 1) == date
        assert date_of(end_us - US_PER_DAY) == date
        assert days_before(date_of(end_us), 1) == date


def test_files_are_listed_by_slot_and_date(tmp_path: Path) -> None:
    """Oldest first; whatever else lies in the directory is nobody's."""
    for name in (
        "audit.2026-11-22.log",
        "audit.2026-01-02.log",
        "audit.2026-11-22.w2.log",
        "audit.2026-11-22.w1.log",
        "audit.2026-11-22.w02.log",
        "audit.2026-11-22.log.torn-20261122T000000.000000Z",
        "audit.2026-11-22.checkpoints",
        "audit.2026-11-22.log.gz",
        "other.log",
        "slot-1.lock",
    ):
        (tmp_path / name).write_bytes(b"")
    assert [day.path.name for day in list_logs(tmp_path, 1)] == ["audit.2026-01-02.log", "audit.2026-11-22.log"]
    assert [day.path.name for day in list_logs(tmp_path, 2)] == ["audit.2026-11-22.w2.log"]
    assert [day.date for day in list_checkpoints(tmp_path, 1)] == ["2026-11-22"]
    assert list_checkpoints(tmp_path, 2) == []


def test_a_lock_is_held_until_it_is_released(tmp_path: Path) -> None:
    """By one holder a slot, in this process and in any other."""
    lock = SlotLock(tmp_path, 1)
    other = SlotLock(tmp_path, 2)
    with pytest.raises(ConfigError, match="slot 1"):
        SlotLock(tmp_path, 1)
    lock.release()
    SlotLock(tmp_path, 1).release()
    other.release()
