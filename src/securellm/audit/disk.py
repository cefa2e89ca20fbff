"""The few things that the audit writer asks of a disk, as a seam where tests make each of them fail.

Bytes are written at an offset: what a failed attempt left behind is written over by the next, so that nothing depends
on how much of it arrived.
"""

import errno
import os
from pathlib import Path
from typing import Protocol

from securellm.audit.files import FILE_MODE


class DiskFile(Protocol):
    """An open file. Everything raises OSError."""

    def write(self, data: memoryview, offset: int) -> int:
        """Write some of `data` at `offset`; how many bytes it was."""

    def sync(self) -> None:
        """Return when everything written is on disk."""

    def truncate(self, length: int) -> None:
        """Cut the file."""

    def size(self) -> int:
        """Its length in bytes."""

    def close(self) -> None:
        """Give it back; nothing is flushed."""


class Disk(Protocol):
    """Where files are opened and removed. Everything raises OSError."""

    def open(self, path: Path) -> DiskFile:
        """Open for writing, made private if it is not there; a new name is on disk when this returns."""

    def remove(self, path: Path) -> None:
        """Delete a file."""


class RealDisk:
    """The machine's."""

    def open(self, path: Path) -> DiskFile:
        """See Disk."""
        try:
            return RealFile(os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
        except FileNotFoundError:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            sync_directory(path.parent)
        except OSError:
            os.close(handle)
            raise
        return RealFile(handle)

    def remove(self, path: Path) -> None:
        """See Disk."""
        path.unlink(missing_ok=True)


class RealFile:
    """A file descriptor."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def write(self, data: memoryview, offset: int) -> int:
        """See DiskFile."""
        return os.pwrite(self._handle, data, offset)

    def sync(self) -> None:
        """See DiskFile. The length of the file is data, too: fdatasync covers it."""
        os.fdatasync(self._handle)

    def truncate(self, length: int) -> None:
        """See DiskFile."""
        os.ftruncate(self._handle, length)

    def size(self) -> int:
        """See DiskFile."""
        return os.fstat(self._handle).st_size

    def close(self) -> None:
        """See DiskFile."""
        os.close(self._handle)


def sync_directory(path: Path) -> None:
    """Return when the names in a directory are on disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(file: DiskFile, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`, and have it on disk. Raises OSError; then nothing is known of these bytes."""
    rest = memoryview(data)
    while rest:
        written = file.write(rest, offset)
        if written <= 0:
            raise OSError(errno.EIO, "nothing was written")
        rest = rest[written:]
        offset += written
    file.sync()
