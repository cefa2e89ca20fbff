"""The store of one configuration, opened when first used and watched for being taken away. Everything here blocks.

SQLAlchemy is imported with the first use, not with this module. A file that vanishes under us is an outage, never an
empty store: making a new one would turn every key into an unknown one. For the same reason a pepper that is not the one
that the keys were made with is an outage, and not a reason to refuse every key.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from securellm.accounts.keys import mark_pepper
from securellm.accounts.pepper import load_pepper
from securellm.config.database import Place, describe_place
from securellm.config.tree import Config
from securellm.errors import StoreUnavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from securellm.accounts.database import Database


class Opening:
    """Gives out transactions, one at a time, to any thread."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._place: Place = config.database.place
        self._lock = threading.Lock()
        self._database: Database | None = None
        self._pepper: bytes | None = None
        self._file: tuple[int, int] | None = None  # device and inode of what was opened

    def __repr__(self) -> str:
        """Where it is, and whether it is open."""
        return f"<Opening {describe_place(self._place)} {'open' if self._database else 'closed'}>"

    def close(self) -> None:
        """Close it; the next use opens it again."""
        with self._lock:
            self._close()

    @contextmanager
    def transaction(self, *, write: bool = False, lock: int | None = None) -> "Iterator[tuple[Connection, bytes]]":
        """One transaction, and the pepper. Raises StoreUnavailable.

        On PostgreSQL a write waits for others with the same `lock`; in a file for every other.
        """
        with self._lock:
            database, pepper = self._open()
            with database.transaction(write=write, lock=lock) as connection:
                yield connection, pepper

    def _open(self) -> "tuple[Database, bytes]":
        from securellm.accounts.database import open_database

        if self._database is not None and self._is_replaced():
            self._close()
        if self._database is None:
            database = open_database(self._place, int(time.time()))
            try:
                self._pepper = load_pepper(self._config)
                _check_pepper(database, self._pepper)
            except BaseException:
                database.close()
                raise
            self._database = database
            self._file = self._identity()
        assert self._pepper is not None  # opened together
        return self._database, self._pepper

    def _is_replaced(self) -> bool:
        """Whether another file lies at our path. Raises StoreUnavailable when none does."""
        return self._identity() != self._file

    def _identity(self) -> tuple[int, int] | None:
        """What file it is; None of a server."""
        if self._config.database.server is not None:
            return None
        path = self._config.database.path
        try:
            found = os.stat(path)
        except OSError as exc:
            raise StoreUnavailable(f"{path} is gone: {exc.strerror or 'input/output error'}") from exc
        return found.st_dev, found.st_ino

    def _close(self) -> None:
        database, self._database, self._file = self._database, None, None
        if database is not None:
            database.close()


def _check_pepper(database: "Database", pepper: bytes) -> None:
    """See that the keys were made with this pepper; the first use of a store tells which it is."""
    from securellm.accounts import rows

    mark = mark_pepper(pepper)
    with database.transaction() as connection:
        kept = rows.read_pepper_mark(connection)
    if kept is None:
        with database.transaction(write=True) as connection:
            kept = rows.keep_pepper_mark(connection, mark)
    if kept != mark:
        raise StoreUnavailable(
            f"the pepper is not the one that the keys in {database.where} were made with; "
            "bring back the file <state_dir>/pepper, or what security.pepper was"
        )
