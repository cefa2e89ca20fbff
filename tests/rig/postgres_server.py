"""A real PostgreSQL for a test, on a free port and in a directory of its own; it can stop, hang, die and come back."""

import contextlib
import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from securellm.config.secrets import Secret

PLACES = sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)  # where Debian puts them, out of the way
_STARTED_S = 30.0
PASSWORD = "pg-canary-0123456789"


class PostgresServer:
    """One server. It refuses to run as root, so that its files are another user's and it runs as that one.

    `networked`: it takes connections from the networks that its machine is in, not from loopback only.
    """

    def __init__(self, *, networked: bool = False) -> None:
        # Not pytest's directory, which others may not enter.
        self._folder = Path(tempfile.mkdtemp(prefix="securellm-postgres-"))
        self._data = self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        password = self._folder / "password"
        password.write_text(PASSWORD)
        os.chmod(password, 0o644)
        options = ["--auth=scram-sha-256", f"--pwfile={password}", "-U", "owner", "-E", "UTF8", "--no-sync"]
        self._run("initdb", "-D", str(self._data), *options)
        self._addresses = "*" if networked else "127.0.0.1"
        if networked:
            with (self._data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet scram-sha-256\n")

    def url(self, database: str, host: str = "127.0.0.1") -> Secret:
        """Where a database is, for whoever knows the server as `host`."""
        return Secret(f"postgresql://owner:{PASSWORD}@{host}:{self.port}/{database}")

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        settings = ["-c", f"listen_addresses={self._addresses}", "-c", f"unix_socket_directories={self._folder}"]
        settings += ["-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=40"]
        command = self._as_user(_program("postgres"), "-D", str(self._data), "-p", str(self.port), *settings)
        with (self._folder / "log").open("ab") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        until_s = time.monotonic() + _STARTED_S
        while not self._is_ready():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < until_s, "PostgreSQL does not start"
            time.sleep(0.05)

    def stop(self) -> None:
        """An orderly end that cuts connections off, as a restart does."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL of the server and of whatever serves a connection."""
        assert self._process is not None
        children = _children(self._process.pid)
        self._end(signal.SIGKILL)
        for child in children:
            _signal(child, signal.SIGKILL)

    def hang(self) -> None:
        """SIGSTOP: connections stand and nothing answers."""
        assert self._process is not None
        for process in (self._process.pid, *_children(self._process.pid)):
            _signal(process, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        for process in (self._process.pid, *_children(self._process.pid)):
            _signal(process, signal.SIGCONT)

    def close(self) -> None:
        """End it and take its files away."""
        if self._process is not None:
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def create_database(self, name: str) -> Secret:
        """A new, empty database; where it is."""
        self.query("postgres", f'CREATE DATABASE "{name}"')
        return self.url(name)

    def query(self, database: str, statement: str) -> str:
        """What psql makes of a statement; for what a test looks at beside the product."""
        command = [_program("psql"), "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement]
        result = subprocess.run(
            [*command, self.url(database).reveal()], capture_output=True, text=True, timeout=30, check=True
        )
        return result.stdout.strip()

    def _is_ready(self) -> bool:
        command = [_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False, timeout=30).returncode == 0

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(number)
        process.wait(30)
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _run(self, program: str, *arguments: str) -> None:
        command = self._as_user(_program(program), *arguments)
        subprocess.run(command, check=True, capture_output=True, timeout=120, cwd=self._folder)

    def _as_user(self, *command: str) -> list[str]:
        if self._user is None:
            return list(command)
        return ["setpriv", f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups", *command]


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests that leave it running; each takes a database of its own."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


def _program(name: str) -> str:
    places = os.pathsep.join([*PLACES, os.environ.get("PATH", "")])
    found = shutil.which(name, path=places)
    assert found, f"{name} is not installed"
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # what serves a connection comes and goes
        os.kill(pid, number)


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]
