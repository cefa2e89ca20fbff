"""The supervisor with workers that do one thing each: what it does when they die, hang, refuse, or are to stop."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from rig import small_workers
from rig.waiting import until_true

WITHIN_S = 30.0


class Supervised:
    """A supervisor as a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path, port: int) -> None:
        self.process = process
        self.folder = folder
        self.port = port

    def starts(self) -> list[tuple[int, int, str]]:
        """Slot, process and epoch of every start so far."""
        path = self.folder / "starts"
        lines = [(line + " ").split(" ") for line in path.read_text().splitlines()] if path.exists() else []
        return [(int(slot), int(pid), epoch) for slot, pid, epoch, *_ in lines]

    def told(self) -> list[str]:
        """What the workers were told: slot, word and reason."""
        path = self.folder / "told"
        return path.read_text().splitlines() if path.exists() else []

    def signal(self, number: signal.Signals) -> None:
        """Send the supervisor a signal."""
        self.process.send_signal(number)

    async def serving(self, workers: int) -> None:
        """Wait until so many starts have been made, then until all of them serve."""
        await until_true(lambda: len(self.starts()) >= workers)
        await until_true(lambda: "workers serve" in self.log())

    def log(self) -> str:
        """What it has logged so far."""
        return (self.folder / "log").read_text()

    async def end(self) -> int:
        """Its exit code, once it has ended."""
        await until_true(lambda: self.process.poll() is not None)
        return self.process.returncode


@contextlib.contextmanager
def _supervise(how: str, workers: int, folder: Path) -> Iterator[Supervised]:
    command = [sys.executable, small_workers.__file__, how, str(workers), str(folder)]
    (folder / "config").write_text("second")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env={"PYTHONPATH": "src"})
    try:
        assert process.stdout is not None
        yield Supervised(process, folder, int(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


async def test_the_first_worker_is_started_alone_and_the_others_after_it(tmp_path: Path) -> None:
    """What there is one of is made by worker 1 before another looks for it; SIGTERM reaches all, and ends with 0."""
    with trio.fail_after(WITHIN_S), _supervise("serves", 3, tmp_path) as supervised:
        await supervised.serving(3)
        assert supervised.starts()[0][0] == 1
        assert sorted(slot for slot, _, _ in supervised.starts()) == [1, 2, 3]
        supervised.signal(signal.SIGTERM)
        assert await supervised.end() == 0
        assert sorted(supervised.told()) == [f"{slot} stop SIGTERM" for slot in (1, 2, 3)]


async def test_a_killed_worker_is_replaced_in_its_slot(tmp_path: Path) -> None:
    """kill -9 of one: another process takes its slot at once, the others go on, the end is still 0."""
    with trio.fail_after(WITHIN_S), _supervise("serves", 2, tmp_path) as supervised:
        await supervised.serving(2)
        victim = next(pid for slot, pid, _ in supervised.starts() if slot == 2)
        os.kill(victim, signal.SIGKILL)
        await until_true(lambda: len(supervised.starts()) == 3)
        assert supervised.starts()[2][0] == 2
        supervised.signal(signal.SIGINT)
        assert await supervised.end() == 0
        assert "worker 2 was killed by SIGKILL; it is replaced" in supervised.log()


async def test_a_worker_that_refuses_to_start_ends_the_gateway(tmp_path: Path) -> None:
    """Worker 1 has told why: its exit code becomes the gateway's, nothing else is started, and nothing more is said."""
    with trio.fail_after(WITHIN_S), _supervise("refuses", 3, tmp_path) as supervised:
        assert await supervised.end() == 3
        assert len(supervised.starts()) == 1
        assert supervised.log() == ""


@pytest.mark.slow
async def test_a_worker_that_cannot_be_replaced_ends_the_gateway(tmp_path: Path) -> None:
    """A replacement that never gets to serve is tried with longer and longer pauses, then all stop with an error."""
    with trio.fail_after(WITHIN_S), _supervise("killed=serves", 2, tmp_path) as supervised:
        await supervised.serving(2)
        os.kill(supervised.starts()[1][1], signal.SIGKILL)
        assert await supervised.end() == 1
        slot = supervised.starts()[1][0]
        assert sum(start[0] == slot for start in supervised.starts()) == 7  # the one that served, and six in vain
        lines = [json.loads(line) for line in supervised.log().splitlines()]
        assert [line["message"] for line in lines if line["level"] == "critical"] == [
            f"worker {slot} was killed by SIGKILL and cannot be started: the gateway stops"
        ]
        assert any("it is replaced in 1.6 s" in line["message"] for line in lines)


async def test_a_worker_that_hangs_is_killed(tmp_path: Path) -> None:
    """One that gives no sign of life is replaced; the others, who do, are not."""
    with trio.fail_after(WITHIN_S), _supervise("serves=deaf", 1, tmp_path) as supervised:
        await until_true(lambda: len(supervised.starts()) == 2)
        assert "has not turned its event loop" in supervised.log()
        supervised.signal(signal.SIGTERM)
        assert await supervised.end() == 0


async def test_a_stop_while_starting(tmp_path: Path) -> None:
    """A worker that does not serve yet has nothing to drain: it ends at once, and the gateway with 0."""
    with trio.fail_after(WITHIN_S), _supervise("slow", 2, tmp_path) as supervised:
        await until_true(lambda: len(supervised.starts()) == 1)
        supervised.signal(signal.SIGTERM)
        assert await supervised.end() == 0
        assert len(supervised.starts()) == 1
        assert supervised.log() == ""


@pytest.mark.slow
async def test_a_worker_that_does_not_end_is_killed(tmp_path: Path) -> None:
    """When the drain's time and some more is over, the rest are killed, and the exit code says so."""
    with trio.fail_after(60), _supervise("stays", 1, tmp_path) as supervised:
        await supervised.serving(1)
        supervised.signal(signal.SIGINT)
        assert await supervised.end() == 1
        assert "was killed by SIGKILL while it stopped" in supervised.log()


async def test_a_failure_while_stopping_is_told(tmp_path: Path) -> None:
    """A worker that ends its drain with an error makes the gateway's exit code 1."""
    with trio.fail_after(WITHIN_S), _supervise("fails", 2, tmp_path) as supervised:
        await supervised.serving(2)
        supervised.signal(signal.SIGTERM)
        assert await supervised.end() == 1
        assert "ended with code 4 while it stopped" in supervised.log()


async def test_a_second_signal_says_at_once(tmp_path: Path) -> None:
    """The first signal's drain goes on until another one comes, which every worker is told."""
    with trio.fail_after(WITHIN_S), _supervise("stays", 2, tmp_path) as supervised:
        await supervised.serving(2)
        supervised.signal(signal.SIGTERM)
        await until_true(lambda: len(supervised.told()) == 2)
        supervised.signal(signal.SIGTERM)
        await until_true(lambda: len(supervised.told()) == 4)
        assert sorted(supervised.told()[2:]) == ["1 stop now", "2 stop now"]


async def test_a_killed_supervisor_takes_its_workers_with_it(tmp_path: Path) -> None:
    """kill -9 of the supervisor: the workers are gone, and their port is free."""
    with trio.fail_after(WITHIN_S), _supervise("stays", 3, tmp_path) as supervised:
        await supervised.serving(3)
        pids = [pid for _, pid, _ in supervised.starts()]
        supervised.process.kill()
        await until_true(lambda: not any(_is_running(pid) for pid in pids))
        with socket.create_server(("127.0.0.1", supervised.port)):
            pass


async def test_a_reload_is_taken_by_all(tmp_path: Path) -> None:
    """All prepare, then all commit; whoever is started afterwards gets the new configuration."""
    with trio.fail_after(WITHIN_S), _supervise("serves", 2, tmp_path) as supervised:
        await supervised.serving(2)
        supervised.signal(signal.SIGHUP)
        await until_true(lambda: "with epoch second is in force in all workers" in supervised.log())
        assert sorted(supervised.told()[:2]) == ["1 prepare second", "2 prepare second"]
        await until_true(lambda: sorted(supervised.told()[2:]) == ["1 commit ", "2 commit "])
        os.kill(supervised.starts()[0][1], signal.SIGKILL)
        await until_true(lambda: len(supervised.starts()) == 3)
        assert supervised.starts()[2][2] == "second"


async def test_a_reload_that_one_cannot_take_is_taken_by_none(tmp_path: Path) -> None:
    """One worker says no: all forget it, one of them writes down why, and the old configuration goes on."""
    with trio.fail_after(WITHIN_S), _supervise("unwilling", 2, tmp_path) as supervised:
        await supervised.serving(2)
        supervised.signal(signal.SIGHUP)
        await until_true(lambda: len(supervised.told()) == 4)
        assert sorted(line for line in supervised.told() if "abort" in line) == ["1 abort no room", "2 abort "]
        assert "the old one stays in force: no room" in supervised.log()
        os.kill(supervised.starts()[0][1], signal.SIGKILL)
        await until_true(lambda: len(supervised.starts()) == 3)
        assert supervised.starts()[2][2] == ""


@pytest.mark.parametrize(
    ("config", "why"),
    [("wrong", "1 mistake in the configuration"), ("moved", "a restart is needed to change state_dir")],
)
async def test_a_reload_that_cannot_be_is_not_begun(tmp_path: Path, config: str, why: str) -> None:
    """A wrong configuration, or one that needs a restart, is refused before a worker is asked; one is told of it."""
    with trio.fail_after(WITHIN_S), _supervise("serves", 2, tmp_path) as supervised:
        await supervised.serving(2)
        (tmp_path / "config").write_text(config)
        supervised.signal(signal.SIGHUP)
        await until_true(lambda: len(supervised.told()) == 2)
        assert sorted(supervised.told()) == [f"1 abort {why}", "2 abort "]


async def test_a_worker_that_dies_in_a_commit_comes_back_with_the_new_configuration(tmp_path: Path) -> None:
    """A commit cannot be half done: who does not manage it is replaced by a process that starts with the new one."""
    with trio.fail_after(WITHIN_S), _supervise("dies", 2, tmp_path) as supervised:
        await supervised.serving(2)
        supervised.signal(signal.SIGHUP)
        await until_true(lambda: len(supervised.starts()) == 3)
        assert supervised.starts()[2][::2] == (2, "second")
        await until_true(lambda: "is in force in all workers" in supervised.log())


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
