"""Processes that a bench runs: built, started on one core, watched, ended."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STARTED_S = 60.0
ENDED_S = 20.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_SOURCES = Path(__file__).parent / "native"


class Absent(Exception):
    """This machine lacks what a part of a bench needs; the text says what."""


@dataclass(frozen=True)
class Cores:
    """What is measured runs on one core, what loads it on another; on the same one where there is but one."""

    measured: int
    loading: int

    @property
    def shared(self) -> bool:
        """Whether load and measured process take each other's time: CPU time still holds, latency does not."""
        return self.measured == self.loading


def choose_cores() -> Cores:
    """The first two of those that this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(usable[0], usable[1 % len(usable)])


def build_native(directory: Path) -> dict[str, Path]:
    """Compile the C programs. Raises Absent without a compiler, AssertionError when it fails."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise Absent("the load generator and the mock provider need a C compiler (cc)")
    built = {}
    for source in sorted(_SOURCES.glob("*.c")):
        target = directory / source.stem
        done = subprocess.run(
            [compiler, "-O2", "-Wall", "-Wextra", "-o", target, source], capture_output=True, text=True, check=False
        )
        if done.returncode != 0 or done.stderr:
            raise AssertionError(f"{source.name} does not compile cleanly: {done.stderr}")
        built[source.stem] = target
    return built


def clean_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """The environment without a developer's own settings and without proxies: all traffic is on loopback."""
    kept = {
        name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "HOME", "LANG", "TMPDIR")
    }
    return kept | dict(changes)


class Running:
    """A process that was started; its output is in `log`."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.pid = process.pid
        self._process = process
        self._log = log

    @property
    def has_ended(self) -> bool:
        """Whether it ended by itself."""
        return self._process.poll() is not None

    def output(self) -> str:
        """The end of what it printed."""
        return self._log.read_text(errors="replace")[-3000:]

    def cpu_s(self) -> float:
        """CPU time of the process with all its threads, in user and in kernel mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_S

    def memory_mb(self, name: str = "VmRSS") -> float:
        """What is resident now, or the most that ever was (VmHWM)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) / 1024
        raise AssertionError(f"no {name} of {self.pid}")

    def stop(self) -> None:
        """End it, by force if it does not listen."""
        self._process.terminate()
        try:
            self._process.wait(ENDED_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def open_running(
    command: Sequence[str | Path], core: int, log: Path, environment: Mapping[str, str]
) -> Iterator[Running]:
    """A process of one core, ended on the way out."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=clean_environment(environment),
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    running = Running(process, log)
    try:
        yield running
    finally:
        running.stop()


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def wait_for(running: Running, port: int, path: str | None, *, every_s: float = 0.02) -> None:
    """Wait until `path` answers 200, or without one until the port takes a connection. Raises AssertionError."""
    deadline = time.monotonic() + STARTED_S
    while not _answers(port, path):
        if running.has_ended or time.monotonic() > deadline:
            raise AssertionError(f"it does not serve: {running.output()}")
        time.sleep(every_s)


def _answers(port: int, path: str | None) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=STARTED_S) as probe:
            if path is None:
                return True
            probe.sendall(f"GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n".encode())
            return b" 200 " in probe.recv(100)
    except OSError:
        return False


def busy_s() -> float:
    """CPU seconds that the whole machine has spent, on all cores."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:8])) * _TICK_S
