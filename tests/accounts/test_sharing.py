"""One store, opened twice by a process and by others beside it: everybody sees what everybody writes."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from securellm.accounts.database import open_database
from securellm.errors import StoreUnavailable

SOURCE = Path(__file__).parent.parent.parent / "src"
NOTE = """
import sys
from pathlib import Path
from securellm.accounts.database import open_database
database = open_database(Path(sys.argv[1]), 0)
database.note_event("from_outside", sys.argv[2], 0)
database.close()
"""


def _note_from_outside(path: Path, subject: str) -> None:
    command = [sys.executable, "-c", NOTE, str(path), subject]
    subprocess.run(command, check=True, timeout=60, env={**os.environ, "PYTHONPATH": str(SOURCE)})


def test_a_second_opening_keeps_the_locks_of_the_first(tmp_path: Path) -> None:
    """The index beside the store in one process: another process that comes and goes does not take its log away."""
    path = tmp_path / "models.db"
    first = open_database(path, 0)
    first.generation()
    second = open_database(path, 0, synchronous="NORMAL")
    second.generation()
    for number in range(3):
        _note_from_outside(path, f"outside-{number}")
        first.note_event("from_first", f"first-{number}", 0)
    subjects = [event.subject for event in second.events(100)]
    first.close()
    second.close()
    expected = [f"{who}-{number}" for number in range(3) for who in ("outside", "first")]
    assert subjects == expected
    third = open_database(path, 0)
    assert [event.subject for event in third.events(100)] == expected
    third.close()


def test_the_store_is_private(tmp_path: Path) -> None:
    """A new file is readable by its owner alone; what cannot be made is told."""
    path = tmp_path / "state" / "models.db"
    open_database(path, 0).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        open_database(tmp_path / "file" / "models.db", 0)
