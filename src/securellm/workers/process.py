"""What the supervisor knows of the process in one slot, and what it does to it."""

import os
import signal
import socket
import time
from contextlib import suppress

from securellm.workers.link import Lines, Message, encode_message


class WorkerProcess:
    """A slot, with the process that is in it now, if any."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.pid: int | None = None
        self.link: socket.socket | None = None
        self.lines = Lines()
        self.ready_s: float | None = None  # since when it serves
        self.heard_s = 0.0  # when it last said something
        self.start_at_s: float | None = None  # when the next one is due
        self.deaths = 0  # in a row, of processes that died young
        self.starts_in_vain = 0  # in a row

    def __repr__(self) -> str:
        state = "serves" if self.ready_s is not None else "starts" if self.pid is not None else "is empty"
        return f"<WorkerProcess {self.slot} {state}, process {self.pid}>"

    def begin(self, pid: int, link: socket.socket) -> None:
        """A process has been started for it."""
        self.pid, self.link, self.lines = pid, link, Lines()
        self.ready_s, self.start_at_s = None, None
        self.heard_s = time.monotonic()

    def tell(self, message: Message) -> None:
        """Send a message. One that cannot take it has ended, or hangs and will be killed for it."""
        if self.link is not None:
            with suppress(OSError):
                self.link.send(encode_message(message))

    def has_unread(self) -> bool:
        """Whether something lies on its link."""
        if self.link is None:
            return False
        with suppress(OSError):
            return bool(self.link.recv(1, socket.MSG_PEEK))
        return False

    def wait(self) -> int | None:
        """The exit code, negative for a signal, if the process has ended; it is then forgotten."""
        if self.pid is None:
            return None
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        self.pid = None
        return os.waitstatus_to_exitcode(status)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal, by default the one that ends it at once; `wait` has its exit code."""
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, however that happens."""
    import ctypes  # not at the top: only workers need it

    set_death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
    ctypes.CDLL(None, use_errno=True).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def describe_end(status: int) -> str:
    """How a process with this exit code ended."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with code {status}"
