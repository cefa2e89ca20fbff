"""The disk refuses, hangs or fills up: no hang, no loss, the documented refusal, all written when it is back."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rig.audit_log import Running, actions, closings, event, intent, problems, read_chain, sent, settings
from rig.disks import FailingDisk, HangingDisk, fail_call
from rig.waiting import until_true
from securellm.audit.disk import DiskFile
from securellm.audit.log import AuditLog, Reservation, open_audit_log
from securellm.errors import AuditUnavailable, ConfigError

FAST = {"tick_s": 0.0, "retry_s": 0.002}


class _Told:
    """What a run was told: which records it appended, and which of them are durable."""

    def __init__(self) -> None:
        self.appended: list[tuple[str, str]] = []
        self.durable: list[tuple[str, str]] = []
        self.refused = 0

    async def request(self, log: AuditLog, name: str) -> None:
        """One request as the gateway makes it: refused, or an intent and an end, both waited for."""
        try:
            reservation = log.reserve()
        except AuditUnavailable:
            self.refused += 1
            return
        try:
            await self._append(reservation, name, "request_received")
        finally:
            await self._append(reservation, name, "response_sent")
            reservation.close()

    async def _append(self, reservation: Reservation, name: str, kind: str) -> None:
        receipt = reservation.append(intent(name) if kind == "request_received" else sent(name))
        self.appended.append((name, kind))
        try:
            await receipt.durable()
        except AuditUnavailable:
            self.refused += 1
        else:
            self.durable.append((name, kind))

    def check(self, directory: Path) -> None:
        """Everything that was appended is in the chain, once, in its order."""
        records = read_chain(directory)
        assert problems(directory) == []
        there = [(r["request_id"], r["event_type"]) for r in records if "request_id" in r]
        assert there == self.appended
        assert set(self.durable) <= set(there)
        assert {len(ends) for ends in closings(records).values()} <= {1}


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
async def test_any_one_call_may_fail(tmp_path: Path, number: int) -> None:
    """Whichever call to the disk fails, opening and syncing included: what was appended is in the chain at the end."""
    call = 0
    while True:
        call += 1
        disk, told = FailingDisk(fail_call(call, number)), _Told()
        directory = tmp_path / str(call)
        with trio.fail_after(10):
            async with open_audit_log(settings(directory), now_us=Running(), disk=disk, **FAST) as log:
                for name in ("r1", "r2", "r3"):
                    await until_true(lambda log=log: log.statistics().available)
                    await told.request(log, name)
        told.check(directory)
        assert len(told.appended) == 6
        if not disk.failed:
            break
    assert call > 15


@pytest.mark.parametrize("kind", ["open", "write", "sync", "truncate"])
async def test_any_call_and_all_that_follow_may_fail(tmp_path: Path, kind: str) -> None:
    """From the n-th call on every call of a kind fails, twenty times over: refused meanwhile, nothing lost after."""
    for first in range(1, 12):
        failures = 0

        def fails(call: int, what: str, *, first: int = first) -> int:
            nonlocal failures
            if call >= first and what == kind and failures < 20:
                failures += 1
                return errno.EIO
            return 0

        told = _Told()
        directory = tmp_path / str(first)
        with trio.fail_after(10):
            async with open_audit_log(settings(directory), now_us=Running(), disk=FailingDisk(fails), **FAST) as log:
                for name in ("r1", "r2", "r3"):
                    await until_true(lambda log=log: log.statistics().available)
                    await told.request(log, name)
        told.check(directory)


async def test_a_failed_disk_refuses_at_once(tmp_path: Path) -> None:
    """Strict: who waits is told at once, no new request is let in, the figures say why; then it heals by itself."""
    broken = False
    disk = FailingDisk(lambda _, kind: errno.ENOSPC if broken and kind == "write" else 0)
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path), now_us=Running(), disk=disk, **FAST) as log:
            reservation = log.reserve()
            await reservation.append(intent("r1")).durable()
            broken = True
            end = reservation.append(sent("r1"))
            reservation.close()
            with pytest.raises(AuditUnavailable, match="no space left on device"):
                await end.durable()
            with pytest.raises(AuditUnavailable, match="no space left on device") as refused:
                log.reserve()
            assert (refused.value.status, refused.value.code) == (503, "audit_unavailable")
            figures = log.statistics()
            assert (figures.available, figures.last_error) == (False, "no space left on device")
            assert (figures.pending, figures.reserved) == (1, 1)
            broken = False
            await until_true(lambda: log.statistics().available)
            await end.durable()
            figures = log.statistics()
            assert (figures.pending, figures.reserved, figures.gap) == (0, 0, 0)
            log.reserve().close()
        assert closings(read_chain(tmp_path)) == {"r1": ["success"]}


async def test_a_hung_disk_is_waited_for_so_long_and_no_longer(tmp_path: Path) -> None:
    """A sync that does not return: 503 after commit_timeout_s; the record is written when it does, and none twice."""
    disk = HangingDisk()
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path, commit_timeout_s=0.1), now_us=Running(), disk=disk, **FAST) as log:
            await log.reserve().append(intent("r0")).durable()
            disk.hang()
            reservation = log.reserve()
            receipt = reservation.append(intent("r1"))
            began = trio.current_time()
            with pytest.raises(AuditUnavailable, match=r"longer than 0\.1 s"):
                await receipt.durable()
            assert 0.1 <= trio.current_time() - began < 1
            assert not log.statistics().available
            with pytest.raises(AuditUnavailable, match=r"longer than 0\.1 s"):
                log.reserve()
            disk.go_on()
            await receipt.durable()
            assert log.statistics().available
            end = reservation.append(sent("r1"))
            reservation.close()
            await end.durable()
    assert [r["request_id"] for r in read_chain(tmp_path) if "request_id" in r] == ["r0", "r1", "r1"]


async def test_the_loop_runs_while_the_disk_hangs(tmp_path: Path) -> None:
    """Appending, reserving and asking for figures go on during a sync; what waited goes into one commit."""
    disk = HangingDisk()
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path), now_us=Running(), disk=disk) as log:
            await log.reserve().append(intent("r0")).durable()
            await until_true(lambda: not log.statistics().pending)
            disk.hang()
            log.event(event("config_loaded"))
            await trio.to_thread.run_sync(disk.syncing.wait, 5)
            commits = log.statistics().commits
            receipts = [log.reserve().append(intent(f"many-{number}")) for number in range(500)]
            assert log.statistics().pending == 501
            disk.go_on()
            for receipt in receipts:
                await receipt.durable()
            assert log.statistics().commits <= commits + 2


async def test_closing_a_log_whose_disk_is_gone_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The end waits for it as long as for a commit and says what is lost; the next start closes the request."""
    broken = False
    disk = FailingDisk(lambda *_: errno.EIO if broken else 0)
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path, commit_timeout_s=0.1), now_us=Running(), disk=disk, **FAST) as log:
            reservation = log.reserve()
            await reservation.append(intent("r1")).durable()
            broken = True
            reservation.append(sent("r1"))
            reservation.close()
        assert "closed with 2 records that are not on disk" in caplog.text
        async with open_audit_log(settings(tmp_path), now_us=Running()):
            pass
    records = read_chain(tmp_path)
    assert closings(records) == {"r1": ["interrupted"]}
    assert "tail_cut" in actions(records)


async def test_a_disk_that_hangs_for_good_does_not_keep_the_end(tmp_path: Path) -> None:
    """Closing returns although a sync never does."""
    disk = HangingDisk()
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path, commit_timeout_s=0.1), now_us=Running(), disk=disk) as log:
            disk.hang()
            log.reserve().append(intent("r1"))
    disk.go_on()


async def test_a_disk_that_is_full_at_start_delays_nobody(tmp_path: Path) -> None:
    """The log opens on a disk that takes nothing, refuses, and begins when it does."""
    broken = True
    disk = FailingDisk(lambda _, kind: errno.ENOSPC if broken and kind == "write" else 0)
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path), now_us=Running(), disk=disk, **FAST) as log:
            await until_true(lambda: log.statistics().last_error is not None)
            with pytest.raises(AuditUnavailable):
                log.reserve()
            broken = False
            await until_true(lambda: log.statistics().available)
            await log.reserve().append(intent("r1")).durable()
    assert actions(read_chain(tmp_path)) == ["writer_started", "writer_stopped"]


async def test_a_failed_checkpoint_refuses_nobody(tmp_path: Path) -> None:
    """The chain is durable without its signature: it is tried again, and the error is in the figures."""
    left = 6
    disk = FailingDisk(lambda *_: 0)

    class NoCheckpoints:
        def open(self, path: Path) -> DiskFile:
            nonlocal left
            if path.name.endswith(".checkpoints") and left:
                left -= 1
                raise OSError(errno.EDQUOT, "disk quota exceeded")
            return disk.open(path)

        def remove(self, path: Path) -> None:
            disk.remove(path)

    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path), now_us=Running(), disk=NoCheckpoints(), **FAST) as log:
            for number in range(20):
                await log.reserve().append(intent(f"r{number}")).durable()
            await until_true(lambda: not left)
            assert log.statistics().available
            assert log.statistics().last_error == "disk quota exceeded"
    assert (tmp_path / "audit.2026-11-18.checkpoints").read_text().count("securellm-audit/") >= 4


async def test_a_place_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    """A directory that cannot be made or written in is a mistake of the configuration, said at start."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"cannot be written in .*file: file exists"):
        async with open_audit_log(settings(tmp_path / "file"), now_us=Running()):
            pass


async def test_a_relaxed_log_answers_and_counts(tmp_path: Path) -> None:
    """Relaxed: nobody waits, nobody is refused; what there was no room for is counted, whole requests at a time."""
    broken = False
    disk = FailingDisk(lambda _, kind: errno.EIO if broken and kind == "sync" else 0)
    with trio.fail_after(10):
        async with open_audit_log(
            settings(tmp_path, mode="relaxed", max_reserved=3, max_events=2), now_us=Running(), disk=disk, **FAST
        ) as log:
            await until_true(lambda: not log.statistics().pending)
            broken = True
            for number in range(5):
                reservation = log.reserve()
                for record in (intent(f"r{number}"), sent(f"r{number}")):
                    await reservation.append(record).durable()
                reservation.close()
            for _ in range(3):
                log.event(event("config_loaded"))
            await until_true(lambda: not log.statistics().available)
            assert log.statistics().gap == 5
            broken = False
            await until_true(lambda: not log.statistics().pending)
            await until_true(lambda: log.statistics().seq == 1 + 6 + 2 + 1)
            assert log.statistics().gap == 5, "it is counted since the start"
    records = read_chain(tmp_path)
    assert closings(records) == {f"r{number}": ["success"] for number in range(3)}
    (gap,) = [record for record in records if record.get("action") == "gap"]
    assert gap["count"] == 5
    assert (gap["detail"]["requests"], gap["detail"]["events"]) == (4, 1)
    assert gap["detail"]["from"] <= gap["detail"]["until"]


async def test_a_strict_log_has_room_for_so_many_requests(tmp_path: Path) -> None:
    """Beyond max_reserved it refuses; a reservation appends without bound; room comes back with the disk."""
    disk = HangingDisk()
    with trio.fail_after(10):
        async with open_audit_log(settings(tmp_path, max_reserved=2), now_us=Running(), disk=disk) as log:
            first, second = log.reserve(), log.reserve()
            with pytest.raises(AuditUnavailable, match="2 requests wait"):
                log.reserve()
            disk.hang()
            receipts = [first.append(intent("r1")) for _ in range(50)]
            first.close()
            second.close()
            second.close()
            assert log.statistics().reserved == 1
            disk.go_on()
            await receipts[-1].durable()
            await until_true(lambda: log.statistics().reserved == 0)


Move = tuple[str, int]
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("request"), st.integers(1, 4)),
        st.tuples(st.just("event"), st.integers(1, 3)),
        st.tuples(st.just("fail"), st.integers(1, 8)),
        st.tuples(st.just("day"), st.integers(-2, 2)),
        st.tuples(st.just("kill"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    min_size=1,
    max_size=14,
)


@hypothesis_settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=MOVES)
def test_any_sequence_leaves_one_dense_chain(tmp_path_factory: pytest.TempPathFactory, moves: list[Move]) -> None:
    """Requests, failing disks, days, kills and restarts in any order: one chain, with everything that was durable."""
    directory = tmp_path_factory.mktemp("log")
    trio.run(_play, directory, moves)


async def _play(directory: Path, moves: list[Move]) -> None:
    clock = Running()
    durable: list[tuple[str, str]] = []
    moves = list(moves)
    lives = 0
    with trio.fail_after(30):
        while moves:
            lives += 1
            failing = 0

            def fails(*_: object) -> int:
                nonlocal failing
                failing = max(0, failing - 1)
                return errno.EIO if failing else 0

            bounds = settings(directory, commit_timeout_s=0.03, retention_days=0)
            async with open_audit_log(bounds, now_us=clock, disk=FailingDisk(fails), **FAST) as log:
                while moves:
                    move, number = moves.pop(0)
                    if move == "fail":
                        failing += number
                    elif move == "day":
                        clock.now_us += number * 86_400_000_000
                    elif move == "event":
                        log.event(event("config_loaded", clock()))
                    elif move == "request":
                        await until_true(lambda log=log: log.statistics().available)
                        told = _Told()
                        async with trio.open_nursery() as nursery:
                            for one in range(number):
                                nursery.start_soon(told.request, log, f"{lives}-{len(moves)}-{one}")
                        durable += told.durable
                    else:
                        failing = 1_000_000 if move == "kill" else failing
                        break
        async with open_audit_log(settings(directory), now_us=clock):
            pass
    records = read_chain(directory)
    assert problems(directory, every=True) == []
    assert records[0]["seq"] == 1
    there = [(record["request_id"], record["event_type"]) for record in records if "request_id" in record]
    assert set(durable) <= set(there)
    assert len(there) == len(set(there)), "a record is there twice"
    assert {len(ends) for ends in closings(records).values()} <= {1}


@pytest.mark.tool("unshare")
def test_a_full_file_system_refuses_and_heals(tmp_path: Path) -> None:
    """A real tmpfs of 256 KiB: 503 when it is full, no record lost, and it goes on by itself when there is room."""
    found = _in_small_file_system(tmp_path, "full")
    assert found["durable"] > 100
    assert found["refused"] == "the audit log takes no records: no space left on device"
    assert found["reserving"] == "the audit log takes no records: no space left on device"
    assert found["healed"]
    assert found["lost"] == []
    assert found["gap"] == 0


@pytest.mark.tool("unshare")
def test_a_read_only_file_system_is_refused_at_start(tmp_path: Path) -> None:
    """Mounted read-only: the start says so."""
    found = _in_small_file_system(tmp_path, "read-only")
    assert found["refused"].endswith("read-only file system")


def _in_small_file_system(directory: Path, scenario: str) -> dict:
    """Run `rig.small_disk` in a mount namespace of its own, in a tmpfs of 256 KiB that goes with it."""
    as_root = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    script = 'mount -t tmpfs -o size=256k tmpfs "$1" && exec "$2" -m rig.small_disk "$1" "$3"'
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [*as_root, "sh", "-c", script, "sh", str(directory), sys.executable, scenario],
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
