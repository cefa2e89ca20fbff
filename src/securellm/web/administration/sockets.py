"""The sockets of administration: `<state_dir>/admin.sock`, which its owner alone may use, and `[admin] bind` on TCP.

The file is replaced when nobody listens behind it any more, as after a kill, and never while somebody does. Its mode is
set before the socket listens, so that there is no moment at which anybody else could connect. Its name is found through
the directory's file descriptor, because the path of a Unix socket must be short, and that of a directory need not be.
"""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from securellm.config.tree import Config
from securellm.errors import ConfigError
from securellm.web.binding import bind_address

NAME = "admin.sock"
MODE = 0o600
BACKLOG = 64
LONGEST_PATH_BYTES = 100  # of a Unix socket: 108 on Linux, 104 elsewhere
PROBE_S = 1.0  # for whoever listens behind a socket to be told from nobody


@contextmanager
def open_admin_sockets(config: Config, *, first: bool) -> Iterator[list[socket.socket]]:
    """The sockets, listening; none but in the `first` of several workers. The file is removed at the end.

    Raises ConfigError.
    """
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        if first:
            if config.admin.bind is not None:
                host, _, port = config.admin.bind.rpartition(":")
                for sock in bind_address(host.removeprefix("[").removesuffix("]"), int(port)):
                    sockets.append(opened.enter_context(sock))
            sockets.append(opened.enter_context(_local_socket(config.state_dir)))
        yield sockets


@contextmanager
def _local_socket(state_dir: Path) -> Iterator[socket.socket]:
    path = state_dir / NAME
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)  # of two that start at once one looks after the other
            address = _address(path, directory)
            _remove_left_over(path, address)
            sock, identity = _listen(path, address)
        finally:
            os.close(directory)
    except OSError as exc:
        raise ConfigError(f"cannot listen on {path}: {(exc.strerror or 'input/output error').lower()}") from exc
    with sock:
        try:
            yield sock
        finally:
            if _identity(path) == identity:
                path.unlink(missing_ok=True)


def _address(path: Path, directory: int) -> str:
    if len(os.fsencode(path)) <= LONGEST_PATH_BYTES:
        return str(path)
    return f"/proc/self/fd/{directory}/{NAME}"


def _remove_left_over(path: Path, address: str) -> None:
    """Make room for our file. Raises ConfigError when it is in use, or no socket at all."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"{path} is there and is no socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(address)
        except OSError as exc:
            if exc.errno == errno.ECONNREFUSED:
                path.unlink(missing_ok=True)
                return
    raise ConfigError(f"another gateway listens on {path}; give each gateway a state_dir of its own")


def _listen(path: Path, address: str) -> tuple[socket.socket, tuple[int, int] | None]:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(address)
        os.chmod(path, MODE)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener, _identity(path)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
