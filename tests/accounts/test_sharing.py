"""One store, opened twice by a process and by others beside it: everybody sees what everybody writes."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from securellm.accounts import rows
from securellm.accounts.database import Database, open_database
from securellm.accounts.records import StoreEvent
from securellm.errors import StoreUnavailable

SOURCE = Path(__file__).parent.parent.parent / "src"
NOTE = """
import sys
from pathlib import Path
from securellm.accounts import rows
from securellm.accounts.database import open_database
from securellm.accounts.records import StoreEvent
database = open_database(Path(sys.argv[1]), 0)
with database.transaction(write=True) as connection:
    rows.note_event(connection, StoreEvent(0, 0, "from_outside", sys.argv[2]))
database.close()
"""


def _note(database: Database, subject: str) -> None:
    with database.transaction(write=True) as connection:
        rows.note_event(connection, StoreEvent(0, 0, "from_first", subject))


def _subjects(database: Database) -> list[str]:
    with database.transaction(write=True) as connection:
        return [event.subject for event in rows.take_events(connection, 0, 0, 100)]


def _generation(database: Database) -> int:
    with database.transaction() as connection:
        return rows.read_generation(connection)


def _note_from_outside(path: Path, subject: str) -> None:
    command = [sys.executable, "-c", NOTE, str(path), subject]
    subprocess.run(command, check=True, timeout=60, env={**os.environ, "PYTHONPATH": str(SOURCE)})


def test_a_second_opening_keeps_the_locks_of_the_first(tmp_path: Path) -> None:
    """The index beside the store in one process: another process that comes and goes does not take its log away."""
    path = tmp_path / "models.db"
    first = open_database(path, 0)
    _generation(first)
    second = open_database(path, 0, synchronous="NORMAL")
    _generation(second)
    for number in range(3):
        _note_from_outside(path, f"outside-{number}")
        _note(first, f"first-{number}")
    first.close()
    with second.transaction(write=True) as connection:
        connection.exec_driver_sql("UPDATE events SET taken_until_s = NULL")
    subjects = _subjects(second)
    second.close()
    expected = [f"{who}-{number}" for number in range(3) for who in ("outside", "first")]
    assert subjects == expected
    third = open_database(path, 0)
    with third.transaction() as connection:
        assert rows.has_events(connection, 1)
    third.close()


def test_the_store_is_private(tmp_path: Path) -> None:
    """A new file is readable by its owner alone; what cannot be made is told."""
    path = tmp_path / "state" / "models.db"
    open_database(path, 0).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        open_database(tmp_path / "file" / "models.db", 0)
