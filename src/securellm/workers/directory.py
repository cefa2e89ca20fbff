"""`<state>/run`: what the workers of one gateway share while it runs. Nothing in it outlives the gateway.

The supervisor holds a lock on it, so that a second gateway never takes the files of a living one for left-over ones.
What a dead supervisor left behind is removed at the next start: only names that are ours, and no directory.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from securellm.errors import ConfigError

NAME = "run"
MODE = 0o700
LOCK = "gateway.lock"
LEFT_OVER = re.compile(r"w\d+\.sock|(metrics|limits|budgets|cache)[\w.-]*")


@contextmanager
def open_run_directory(state_dir: Path) -> Iterator[Path]:
    """The directory, empty but for its lock; emptied again at the end. Raises ConfigError."""
    directory = state_dir / NAME
    try:
        directory.mkdir(mode=MODE, parents=True, exist_ok=True)
        directory.chmod(MODE)
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise ConfigError(f"{directory} cannot be used: {(exc.strerror or 'input/output error').lower()}") from exc
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise ConfigError(f"another gateway with several workers uses {directory}") from exc
        _clear(directory)
        owner = os.getpid()
        try:
            yield directory
        finally:
            if os.getpid() == owner:  # a worker that is forked within the block leaves it, too
                _clear(directory)
    finally:
        os.close(lock)


def _clear(directory: Path) -> None:
    for entry in os.scandir(directory):
        if LEFT_OVER.fullmatch(entry.name) and not entry.is_dir(follow_symlinks=False):
            Path(entry.path).unlink(missing_ok=True)
