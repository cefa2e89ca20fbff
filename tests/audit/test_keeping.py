"""Closing and pruning a slot that no gateway writes: what is left verifies; a slot that is written is left alone."""

from pathlib import Path

import msgspec
import pytest
import trio

from rig.audit_log import KEY, START_US, US_PER_S, Clock, Running, actions, closings, intent, problems, read_chain, sent
from rig.audit_log import settings as audit_settings
from securellm.audit.files import SlotLock
from securellm.audit.keeping import Keeper
from securellm.audit.log import open_audit_log
from securellm.errors import ConfigError

DAY_US = 86_400 * US_PER_S


def _keeper(directory: Path, now_us: int = START_US + 100 * US_PER_S) -> Keeper:
    return Keeper(directory, KEY, now_us=Running(now_us), longest_request_s=600)


async def _write(directory: Path, *names: str, slot: int = 1, now_us: int = START_US, left_open: str = "") -> None:
    """A run of a gateway: requests with an intent and an end, and one without."""
    async with open_audit_log(audit_settings(directory, slot=slot), now_us=Clock(now_us)) as log:
        for name in names:
            reservation = log.reserve()
            reservation.append(intent(name, now_us))
            receipt = reservation.append(sent(name, now_us))
            reservation.close()
            await receipt.durable()
        if left_open:
            await log.reserve().append(intent(left_open, now_us)).durable()


async def test_sealing_a_crashed_slot(tmp_path: Path) -> None:
    """The torn tail is cut, open requests are ended, the chain says so, and the last checkpoint covers all of it."""
    with trio.fail_after(20):
        await _write(tmp_path, "other")
        await _write(tmp_path, "a", slot=2, left_open="b")
    log = tmp_path / "audit.2026-11-18.w2.log"
    with log.open("ab") as file:
        file.write(b'{"v":1,"seq":')
    sealed = _keeper(tmp_path).seal(2)
    assert (sealed.slot, sealed.interrupted) == (2, 1)
    records = read_chain(tmp_path, 2)
    assert closings(records) == {"a": ["success"], "b": ["interrupted"]}
    assert actions(records)[-2:] == ["tail_cut", "slot_sealed"]
    assert (records[-1]["seq"], records[-1]["detail"]["interrupted"]) == (sealed.seq, 1)
    assert problems(tmp_path, every=True) == []
    again = _keeper(tmp_path).seal(2)
    assert (again.added, again.seq) == (0, sealed.seq)


async def test_a_slot_that_was_closed_is_left_as_it_is(tmp_path: Path) -> None:
    """A gateway that stopped as it should has closed its slot; nothing is added."""
    with trio.fail_after(20):
        await _write(tmp_path, "a")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("audit.*")}
    assert _keeper(tmp_path).seal(1).added == 0
    assert {path.name: path.read_bytes() for path in tmp_path.glob("audit.*")} == before


async def test_sealing_on_a_later_day(tmp_path: Path) -> None:
    """The closing record begins the file of its own day, and a gateway goes on behind it."""
    with trio.fail_after(20):
        await _write(tmp_path, "a", left_open="b")
        _keeper(tmp_path, START_US + 2 * DAY_US).seal(1)
        assert (tmp_path / "audit.2026-11-20.log").exists()
        await _write(tmp_path, "c", now_us=START_US + 2 * DAY_US + 3600 * US_PER_S)
    assert closings(read_chain(tmp_path)) == {"a": ["success"], "b": ["interrupted"], "c": ["success"]}
    assert problems(tmp_path, every=True) == []


async def test_a_clock_that_went_back(tmp_path: Path) -> None:
    """The newest file is written on; no older one is begun."""
    with trio.fail_after(20):
        await _write(tmp_path, "a", left_open="b")
    _keeper(tmp_path, START_US - 5 * DAY_US).seal(1)
    assert [path.name for path in tmp_path.glob("audit.*.log")] == ["audit.2026-11-18.log"]
    read_chain(tmp_path)


async def test_pruning(tmp_path: Path) -> None:
    """Old days go with their checkpoints and bodies, the chain says so first, and what is left verifies."""
    with trio.fail_after(20):
        for day in (0, 1, 2, 30):
            await _write(tmp_path, f"r{day}", now_us=START_US + day * DAY_US)
    for day in ("2026-11-18", "2026-12-18"):
        (tmp_path / "content" / day).mkdir(parents=True)
        (tmp_path / "content" / day / "x.request").write_bytes(b"sealed")
    assert _keeper(tmp_path, START_US + 31 * DAY_US).prune(1, 10).days == 3
    assert sorted(path.name for path in tmp_path.glob("audit.*.log")) == [
        "audit.2026-12-18.log",
        "audit.2026-12-19.log",
    ]
    assert [path.name for path in (tmp_path / "content").iterdir()] == ["2026-12-18"]
    assert actions(read_chain(tmp_path))[-1] == "pruned"
    assert problems(tmp_path, every=True) == []
    assert _keeper(tmp_path, START_US + 31 * DAY_US).prune(1, 10).days == 0


async def test_a_slot_that_is_written_is_refused(tmp_path: Path) -> None:
    """Neither touches the files of a running gateway."""
    with trio.fail_after(20):
        await _write(tmp_path, "a", left_open="b")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    lock = SlotLock(tmp_path, 1)
    for act in (lambda: _keeper(tmp_path).seal(1), lambda: _keeper(tmp_path).prune(1, 1)):
        with pytest.raises(ConfigError, match=r"slot 1 .* is being written by another process"):
            act()
    lock.release()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_nothing_there(tmp_path: Path) -> None:
    """A slot without files is begun by its sealing, and verifies."""
    assert msgspec.structs.asdict(_keeper(tmp_path).seal(1)) == {"slot": 1, "seq": 1, "added": 1, "interrupted": 0}
    assert problems(tmp_path, every=True) == []
