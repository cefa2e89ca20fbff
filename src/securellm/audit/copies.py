"""A second place for checkpoints, beside the log's own: best on another machine, where who cuts the log cannot reach.

It has a thread of its own, because such a place (a network mount) may hang, and nothing of the log waits for it. A
copy that could not be made is counted; the next one holds, by its hashes, everything that the missing one held.
"""

import logging
import os
import queue
import threading
from pathlib import Path

from securellm.audit.files import DIRECTORY_MODE, FILE_MODE, reason_of

log = logging.getLogger(__name__)

MAX_WAITING = 64  # ten minutes of checkpoints


class Copies:
    """Appends what it is given to the files of the same name in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.missed = 0
        """checkpoints that have no copy"""
        self._directory = directory
        self._queue: queue.Queue[tuple[str, bytes] | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="audit-copies", daemon=True)

    def start(self) -> None:
        """Begin, in a thread that does not keep the process alive."""
        self._thread.start()

    def put(self, name: str, note: bytes) -> None:
        """Append to the file of that name there, some time. Never waits."""
        try:
            self._queue.put_nowait((name, note))
        except queue.Full:
            self.missed += 1

    def stop(self, within_s: float) -> None:
        """Finish what waits, for so long at most. Blocks: for the writer's thread, at its end."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(within_s)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            name, note = item
            try:
                self._append(self._directory / name, note)
            except OSError as exc:
                self.missed += 1
                log.error("a checkpoint cannot be copied to %s: %s", self._directory, reason_of(exc))

    def _append(self, path: Path, note: bytes) -> None:
        self._directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
        try:
            rest = memoryview(note)
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.fsync(handle)
        finally:
            os.close(handle)
