"""The product as its users run it: a process of its own, with everything it prints."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import trio

_URL = re.compile(r"http://127\.0\.0\.1:(\d+)")
PASSED_ON = ("PATH", "PYTHONPATH", "HOME", "LANG", "SECURELLM_NO_EXTENSIONS")  # of the tests' own environment
_STARTED_S = 60.0


class Process:
    """One `securellm serve`. `stdout` and `stderr` are complete once it has ended."""

    def __init__(self, process: trio.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.stdout = b""
        self.stderr = b""

    @property
    def base_url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def resident_bytes(self) -> int:
        """Its resident memory now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def peak_bytes(self) -> int:
        """The most memory it has had resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None, status
        return int(found[1]) * 1024

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        self.process.send_signal(number)
        return await self.process.wait()

    async def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        async for data in self.process.stdout:
            self.stdout += data

    async def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        async for data in self.process.stderr:
            self.stderr += data


@contextlib.asynccontextmanager
async def open_process(
    folder: Path, environ: Mapping[str, str], *arguments: str, wrapper: Sequence[str] = (), awaits: str = "/readyz"
) -> AsyncIterator[Process]:
    """Start `securellm serve` on a free port; it is killed at the end if it still runs.

    `wrapper` is a command that becomes its last arguments; `awaits` what must answer 200 before the block begins.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    base = {name: value for name, value in os.environ.items() if name in PASSED_ON}
    state = {"STATE_DIRECTORY": str(folder / "state"), "LOGS_DIRECTORY": str(folder / "log"), "CONFIG_PATH": ""}
    if "PYTHONPATH" not in base:
        base["PYTHONPATH"] = str(Path(__file__).resolve().parents[2] / "src")
    process = await trio.lowlevel.open_process(
        [*wrapper, sys.executable, "-m", "securellm", "serve", "--port", str(port), *arguments],
        env={**base, **state, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
    )
    running = Process(process, port)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running._read_stdout)
            nursery.start_soon(running._read_stderr)
            with trio.fail_after(_STARTED_S):
                await _answering(running, awaits)
            yield running
            if process.returncode is None:
                process.terminate()
                with trio.move_on_after(10):
                    await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                await process.wait()


async def _answering(running: Process, target: str) -> None:
    while running.process.returncode is None:
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", running.port)
        except OSError:
            await trio.sleep(0.05)  # the port is not bound yet, and nothing tells when it is
            continue
        async with stream:
            await stream.send_all(f"GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            answer = b""
            with contextlib.suppress(trio.BrokenResourceError):  # it ended while we were waiting in its queue
                async for data in stream:
                    answer += data
        if answer.startswith(b"HTTP/1.1 200"):
            return
    raise AssertionError(f"it ended: {running.stderr.decode(errors='replace')}")
