"""Limits shared by processes: exact to the last one, whoever is killed or stopped, and never attached by mistake."""

import contextlib
import mmap
import os
import signal
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rig.limit_stores import NOW_US, BruteForce, demands, twin_of
from rig.limit_worker import LimitWorker
from securellm._fast import gcra_py
from securellm.errors import ConfigError
from securellm.limits.shared import SharedStore, open_shared_store

SECOND_US = 1_000_000
LATEST_S = 5.0  # ten times and more what anybody may have to wait for a stopped worker

both_twins = pytest.mark.parametrize("twin", ["pure", pytest.param("compiled", marks=pytest.mark.compiled)])
Start = Callable[..., LimitWorker]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Where the table is."""
    return tmp_path / "limits.table"


@pytest.fixture
def start(table: Path) -> Iterator[Start]:
    """Starts a worker process in a slot; all are ended with the test."""
    with contextlib.ExitStack() as stack:

        def started(slot: int, twin: str) -> LimitWorker:
            worker = LimitWorker(table, slot, twin)
            stack.callback(worker.kill)
            assert worker.answer() == "attached"
            return worker

        yield started


def _granted(store: SharedStore, times: int, now_us: int = NOW_US, **rates: int) -> int:
    return sum(isinstance(store.take(demands(**rates), 0, now_us), tuple) for _ in range(times))


@pytest.mark.slow
@both_twins
def test_four_workers_and_300_callers(start: Start, twin: str) -> None:
    """What four processes grant to 300 callers in five minutes is what brute force grants, at every moment."""
    workers = [start(slot, twin) for slot in (1, 2, 3, 4)]
    subjects = [f"caller {number}" for number in range(300)]
    rates = {"rpm": 60, "burst": 5, "tpm": 700}
    asked = demands(**rates)
    oracles = [BruteForce(demand.capacity) for demand in asked]
    now_us = NOW_US
    for gap_s, tokens in [(0, 10), (1, 50), (20, 70), (0, 10), (60, 150), (3, 100), (200, 1), (20, 0)]:
        now_us += gap_s * SECOND_US
        for worker in workers:
            worker.tell(act="take", subjects=subjects, times=3, rates=rates, tokens=tokens, now_us=now_us)
        granted = [sum(of_one) for of_one in zip(*(worker.answer() for worker in workers), strict=True)]
        expected = 0
        costs_us = [asked[0].cost_us, asked[1].quota.cost_us(tokens)]
        while expected < 12 and not any(
            oracle.wait_us(now_us, cost_us) for oracle, cost_us in zip(oracles, costs_us, strict=True)
        ):
            expected += 1
            for oracle, cost_us in zip(oracles, costs_us, strict=True):
                oracle.grant(now_us, cost_us)
        assert granted == [expected] * 300


@both_twins
def test_a_burst_at_every_worker(start: Start, twin: str) -> None:
    """Of four times the limit at one time exactly the limit is granted, and of what ends exactly as many again."""
    workers = [start(slot, twin) for slot in (1, 2, 3, 4)]
    order = {"act": "take", "times": 50, "rates": {"concurrent": 50}, "now_us": NOW_US}
    for worker in workers:
        worker.tell(**order)
    granted = [worker.answer()[0] for worker in workers]
    assert sum(granted) == 50
    ends = next(worker for worker, count in zip(workers, granted, strict=True) if count)
    ends.ask(act="end", rates={"concurrent": 50})
    assert sum(worker.ask(**order)[0] for worker in workers) == 1


@pytest.mark.slow
@both_twins
def test_what_a_killed_worker_held_is_given_back(start: Start, table: Path, twin: str) -> None:
    """Requests that a killed worker was serving stop counting: for who meets the limit, and for who replaces it."""
    with open_shared_store(table, 1, 4, twin=twin_of(twin)) as store:
        held = {"act": "take", "times": 3, "rates": {"concurrent": 5}, "now_us": NOW_US}
        dies = start(2, twin)
        assert dies.ask(**held) == [3]
        assert _granted(store, 9, concurrent=5) == 2
        dies.kill()
        assert _granted(store, 9, NOW_US + SECOND_US, concurrent=5) == 3
        assert start(2, twin).ask(**held) == [0]
        again = start(3, twin)
        store.give_back(demands(concurrent=5), (0,), 0, NOW_US)
        assert again.ask(**held) == [1]
        again.kill()
        assert start(3, twin).ask(**held) == [1]


@pytest.mark.slow
@both_twins
def test_workers_killed_while_they_decide(start: Start, table: Path, twin: str) -> None:
    """SIGKILL at any moment of a decision stops nobody, and what the others decide stays exact."""
    rates = {"rpm": 60_000_000, "burst": 30_000_000, "concurrent": 5}
    with open_shared_store(table, 1, 4, twin=twin_of(twin)) as store:
        for number in range(6):
            dies = start(2, twin)
            dies.ask(act="spin", rates=rates, now_us=NOW_US)
            time.sleep(0.02 + 0.003 * number)
            os.kill(dies.process.pid, signal.SIGKILL)
            began_s = time.monotonic()
            mine = demands(f"mine {number}", rpm=60, burst=3)
            assert sum(isinstance(store.take(mine, 0, NOW_US), tuple) for _ in range(9)) == 3
            assert time.monotonic() - began_s < LATEST_S
            dies.close()
        assert _granted(store, 9, NOW_US + SECOND_US, concurrent=5) == 5


def test_a_worker_that_dies_with_the_lock(start: Start, table: Path) -> None:
    """The kernel lets go of what a killed worker had locked."""
    with open_shared_store(table, 1, 4, twin=gcra_py) as store:
        dies = start(2, "pure")
        assert dies.ask(act="lock") == "locked"
        dies.kill()
        began_s = time.monotonic()
        assert _granted(store, 9, rpm=60, burst=3) == 3
        assert time.monotonic() - began_s < 0.2


def test_a_worker_that_is_stopped_with_the_lock(start: Start, table: Path) -> None:
    """A worker that lives and does not let go holds the others up for a moment, not for good."""
    with open_shared_store(table, 1, 4, twin=gcra_py) as store:
        assert start(2, "pure").ask(act="lock") == "locked"
        began_s = time.monotonic()
        assert _granted(store, 2, rpm=60, burst=1) == 1
        assert 0.2 < time.monotonic() - began_s < LATEST_S


@pytest.mark.compiled
@pytest.mark.parametrize(("owner", "at_least_s"), [("nobody", 0.0), ("somebody", 0.2)])
def test_the_word_of_a_worker_that_cannot_decide(start: Start, table: Path, owner: str, at_least_s: float) -> None:
    """The lock word of a dead worker is taken over at once, that of one which lives and is stopped after a moment."""
    with open_shared_store(table, 1, 4, twin=twin_of("compiled")) as store:
        if owner == "somebody":
            start(2, "compiled")
        with table.open("r+b") as file, mmap.mmap(file.fileno(), 4096) as memory:
            struct.pack_into("<Q", memory, 8 * gcra_py.LOCK_WORD, 2)
            began_s = time.monotonic()
            assert _granted(store, 2, rpm=60, burst=1) == 1
            assert at_least_s <= time.monotonic() - began_s < LATEST_S
            assert struct.unpack_from("<Q", memory, 8 * gcra_py.LOCK_WORD) == (0,)


def test_the_table_is_the_owners_alone(table: Path) -> None:
    """Nobody else may read or write the file."""
    with open_shared_store(table, 1, 1):
        assert stat.S_IMODE(table.stat().st_mode) == 0o600


def test_one_worker_a_slot(start: Start, table: Path) -> None:
    """A second worker in a slot that is in use is refused, and one after the first has ended is not."""
    first = start(2, "pure")
    with (
        pytest.raises(ConfigError, match="in use by another worker 2"),
        open_shared_store(table, 2, 4, twin=gcra_py),
    ):
        pass
    first.close()
    with open_shared_store(table, 2, 4, twin=gcra_py) as store:
        assert _granted(store, 1, rpm=1, burst=1) == 1


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("made_by", "workers", "asked_by", "others"),
    [("pure", 4, "compiled", 4), ("compiled", 4, "pure", 4), ("pure", 4, "pure", 3)],
)
def test_who_does_not_match_is_refused(table: Path, made_by: str, workers: int, asked_by: str, others: int) -> None:
    """Twins do not mix, nor do different numbers of workers; the error says both sides."""
    with (
        open_shared_store(table, 1, workers, twin=twin_of(made_by)),
        pytest.raises(ConfigError, match=f"{made_by} twin.* {workers} workers, this worker is .*{asked_by} twin"),
        open_shared_store(table, 2, others, twin=twin_of(asked_by)),
    ):
        pass


@pytest.mark.parametrize("content", [b"#!/bin/sh\n" * 1000, b"SLBlimit", gcra_py.IMPLEMENTATION.encode()])
def test_what_is_no_table_is_refused(table: Path, content: bytes) -> None:
    """A file of something else, or one that was cut, is not written to."""
    table.write_bytes(content)
    with pytest.raises(ConfigError, match="no table of limits"), open_shared_store(table, 1, 2):
        pass
    assert table.read_bytes() == content


def test_a_link_is_not_followed(table: Path, tmp_path: Path) -> None:
    """Where the table should be, a link to another file is refused."""
    other = tmp_path / "other"
    other.write_bytes(b"")
    table.symlink_to(other)
    with pytest.raises(ConfigError, match="cannot be opened"), open_shared_store(table, 1, 2):
        pass
    assert other.read_bytes() == b""


def test_a_table_whose_maker_was_killed_is_made_anew(table: Path) -> None:
    """A file of nothing but zeros has no header yet: it is made then."""
    table.write_bytes(bytes(100))
    with open_shared_store(table, 1, 2) as store:
        assert _granted(store, 9, rpm=60, burst=3) == 3
