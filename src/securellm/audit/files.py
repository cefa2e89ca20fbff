"""The audit log's directory: what its files are called, who may read them, and the lock of a writer slot.

Names carry the UTC date and the slot, never a process id, so that whoever takes a slot over goes on with its chain.
"""

import datetime
import fcntl
import os
import re
from pathlib import Path

import msgspec

from securellm.errors import ConfigError

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
US_PER_DAY = 86_400 * 1_000_000

_EPOCH = datetime.date(1970, 1, 1)
_NAME = re.compile(r"audit\.(\d{4}-\d{2}-\d{2})(?:\.w([2-9]|[1-9]\d+))?\.(log|checkpoints)")


class DayFile(msgspec.Struct, frozen=True, order=True):
    """A log file of one slot; files sort as their records do."""

    date: str
    path: Path


def date_of(unix_us: int) -> str:
    """The UTC date of a moment, as file names have it."""
    return datetime.datetime.fromtimestamp(unix_us // 1_000_000, datetime.UTC).strftime("%Y-%m-%d")


def day_ends(date: str) -> int:
    """When that UTC day is over, in microseconds since 1970."""
    return (datetime.date.fromisoformat(date) - _EPOCH).days * US_PER_DAY + US_PER_DAY


def days_before(date: str, days: int) -> str:
    """The date so many days earlier."""
    return (datetime.date.fromisoformat(date) - datetime.timedelta(days=days)).isoformat()


def log_name(date: str, slot: int) -> str:
    """`audit.2026-11-22.log`, and `audit.2026-11-22.w2.log` from slot 2."""
    return f"audit.{date}{_slot_part(slot)}.log"


def checkpoints_name(date: str, slot: int) -> str:
    """The file of signed checkpoints beside a day's log."""
    return f"audit.{date}{_slot_part(slot)}.checkpoints"


def list_logs(directory: Path, slot: int) -> list[DayFile]:
    """The slot's log files, oldest first. Raises OSError."""
    return _list(directory, slot, "log")


def list_checkpoints(directory: Path, slot: int) -> list[DayFile]:
    """The slot's checkpoint files, oldest first. Raises OSError."""
    return _list(directory, slot, "checkpoints")


def make_directory(directory: Path) -> None:
    """Make a directory that only its owner may enter, unless it is there. Raises ConfigError.

    One that is there keeps its mode, which others may rely on (/var/log); the files in it are private anyway.
    """
    try:
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"the audit log cannot be written in {directory}: {reason_of(exc)}") from exc


class SlotLock:
    """A writer slot that is held; the kernel gives it back when the process ends, however it ends."""

    def __init__(self, directory: Path, slot: int) -> None:
        """Take it. Raises ConfigError when another process has it, or the directory cannot be written in."""
        try:
            self._handle = os.open(directory / f"slot-{slot}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as exc:
            raise ConfigError(f"the audit log cannot be written in {directory}: {reason_of(exc)}") from exc
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            self.release()
            message = f"slot {slot} of the audit log in {directory} is being written by another process"
            raise ConfigError(message) from exc
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):  # the lock's file may be there from better times
            self.release()
            raise ConfigError(f"the audit log cannot be written in {directory}: permission denied")

    def release(self) -> None:
        """Give it back."""
        os.close(self._handle)


def reason_of(error: OSError) -> str:
    """The system's words for an error, without paths."""
    return (error.strerror or "input/output error").lower()


def _slot_part(slot: int) -> str:
    return "" if slot == 1 else f".w{slot}"


def _list(directory: Path, slot: int, kind: str) -> list[DayFile]:
    found = []
    for path in directory.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and int(match[2] or 1) == slot and match[3] == kind:
            found.append(DayFile(match[1], path))
    return sorted(found)
