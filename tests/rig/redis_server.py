"""A real redis-server for a test, on a free port and in a directory of its own; it can hang, die and come back."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_STARTED_S = 20.0


class RedisServer:
    """One server; `arguments` are options of redis-server."""

    def __init__(self, folder: Path, *arguments: str, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.tls = any(argument == "--tls-port" for argument in arguments)
        self._arguments = [argument.replace("{port}", str(self.port)) for argument in arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        command = ["redis-server", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        if not self.tls:
            command += ["--port", str(self.port)]
        with (self.folder / f"redis-{self.port}.log").open("ab") as output:
            self._process = subprocess.Popen(
                [*command, *self._arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        until_s = time.monotonic() + _STARTED_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self._process.poll() is None, (self.folder / f"redis-{self.port}.log").read_text()
                assert time.monotonic() < until_s, "redis-server does not start"
                time.sleep(0.01)
            else:
                return

    def hang(self) -> None:
        """SIGSTOP: it takes connections (the kernel does) and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def command(self, *words: str) -> str:
        """What redis-cli makes of a command; for what a test looks at beside the product."""
        result = subprocess.run(
            ["redis-cli", "-p", str(self.port), *words], capture_output=True, text=True, timeout=10, check=True
        )
        return result.stdout.strip()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@contextlib.contextmanager
def open_redis_server(folder: Path, *arguments: str, port: int | None = None) -> Iterator[RedisServer]:
    """A server that runs inside the block."""
    assert shutil.which("redis-server"), "redis-server is not installed"
    server = RedisServer(folder, *arguments, port=port)
    server.start()
    try:
        yield server
    finally:
        server.kill()
