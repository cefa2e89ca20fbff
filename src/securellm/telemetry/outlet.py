"""Where log lines go that nobody may wait for: a bounded queue, and a thread that writes it to the stream.

A reader of standard error that is slow or hangs (a full pipe, a terminal with Ctrl-S) would else stop whoever logs,
and here that is the event loop with every request. When the queue is full the oldest line is dropped and counted.
"""

import contextlib
import io
import os
import select
import threading
from collections import deque
from typing import IO

LINES_AT_MOST = 5_000  # some megabytes
PIECE_BYTES = 4096  # PIPE_BUF: what a pipe that is ready takes whole, and does not mix with other writers' lines
LAST_WORDS_S = 2.0


class Outlet:
    """A stream to write lines to, for `logging.StreamHandler`; it never blocks. `close` it to have them written."""

    def __init__(self, stream: IO[str], lines_at_most: int = LINES_AT_MOST) -> None:
        self._stream = stream
        self._handle = handle_of(stream)
        self._lines_at_most = lines_at_most
        self._lines: deque[str] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._write, name="log-outlet", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Outlet {len(self._lines)} lines wait, {self.dropped} dropped>"

    def write(self, text: str) -> None:
        """Queue a line."""
        with self._changed:
            if len(self._lines) >= self._lines_at_most:
                self._lines.popleft()
                self.dropped += 1
            self._lines.append(text)
            self._changed.notify()

    def flush(self) -> None:
        """Nothing is kept back here."""

    def close(self, within_s: float = LAST_WORDS_S) -> None:
        """Write what is queued, for so long at most."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(within_s)

    def _write(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._closing:
                    self._changed.wait()
                lines = list(self._lines)
                self._lines.clear()
                if not lines:
                    return
            for line in lines:
                try:
                    self._write_out(line)
                except OSError:  # whoever read it has gone
                    self.dropped += 1

    def _write_out(self, line: str) -> None:
        if self._handle is None:
            self._stream.write(line)
            return
        # Past the stream's buffer: its lock, held by a thread that hangs, would stop the interpreter's end.
        data = memoryview(line.encode())
        while data:
            data = data[os.write(self._handle, data[:PIECE_BYTES]) :]


class Hasty:
    """A stream that drops what it cannot write at once, for a process that has no thread to wait in."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._handle = handle_of(stream)
        self.dropped = 0

    def write(self, text: str) -> None:
        """Write a line, or drop the rest of it."""
        if self._handle is None:
            self._stream.write(text)
            return
        ready = select.poll()
        ready.register(self._handle, select.POLLOUT)
        data = memoryview(text.encode())
        with contextlib.suppress(OSError):
            while data and ready.poll(0):
                data = data[os.write(self._handle, data[:PIECE_BYTES]) :]
        self.dropped += bool(data)

    def flush(self) -> None:
        """Nothing is kept back here."""


def handle_of(stream: IO[str]) -> int | None:
    """The stream's file descriptor, None when it has none."""
    try:
        return stream.fileno()
    except (io.UnsupportedOperation, AttributeError, ValueError):
        return None
