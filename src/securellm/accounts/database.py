"""One open store, on SQLite or PostgreSQL by SQLAlchemy Core. Everything here blocks; call it from a worker thread.

Writes take their lock when they begin (BEGIN IMMEDIATE; on PostgreSQL an advisory lock of the transaction), so that two
processes queue instead of failing half-way, and ids that count are in the order in which they can be seen.
"""

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, text
from sqlalchemy.exc import SQLAlchemyError

from securellm.accounts.pepper import OTHER_PLACE, make_state_dir
from securellm.config.database import Place, describe_place
from securellm.config.secrets import Secret
from securellm.errors import ConfigError, StoreUnavailable

BUSY_TIMEOUT_MS = 5000  # how long a write waits for another process's; its own writes take a few milliseconds
BUSY_PAUSE_S = 0.01  # between looks where SQLite itself does not wait
CONNECT_TIMEOUT_S = 3  # PostgreSQL; a server that is there answers in milliseconds
STATEMENT_TIMEOUT_MS = 10_000  # PostgreSQL; the longest statement reads all keys
LOST_TIMEOUT_MS = 10_000  # PostgreSQL; after that a server that answers nothing at all counts as gone
KEEPALIVE_S = 5  # PostgreSQL; a machine that vanishes while we wait for its answer is missed after three times that
ADVISORY_SPACE = 0x534C4231  # "SLB1": our locks among those of other programs in the same database
ACCOUNTS_LOCK = 1  # of whoever changes the accounts
INDEX_LOCK = 2  # of whoever fills the index of the audit log

# Statements wait for each other in `opening.py`; and no error's text has what is in the rows.
_POOL: dict[str, Any] = {"pool_size": 1, "max_overflow": 1, "hide_parameters": True}


class Database:
    """One open store. Made by `open_database`; `close` it."""

    def __init__(self, engine: Engine, where: str) -> None:
        self.where = where  # for people: without a password
        self._engine = engine
        # What is read in one transaction is of one moment; SQLite has it so by itself.
        is_server = engine.dialect.name == "postgresql"
        self._reading = engine.execution_options(**({"isolation_level": "REPEATABLE READ"} if is_server else {}))

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def transaction(self, *, write: bool = False, lock: int | None = ACCOUNTS_LOCK) -> Iterator[Connection]:
        """One transaction; whatever the driver raises becomes StoreUnavailable, without the driver's text.

        A write waits for others with the same `lock`; with None, on PostgreSQL, for those of the same rows only.
        """
        engine = self._engine.execution_options(write=True) if write else self._reading
        try:
            with engine.begin() as connection:
                if write and lock is not None and self.dialect == "postgresql":
                    connection.execute(_ADVISORY_LOCK, {"space": ADVISORY_SPACE, "lock": lock})
                yield connection
        except SQLAlchemyError as exc:
            raise StoreUnavailable(f"{self.where} cannot be used: {_reason(exc)}", retry_after_s=1) from exc


_ADVISORY_LOCK = text("SELECT pg_advisory_xact_lock(:space, :lock)")


def upsert(connection: Connection, table: Table) -> Any:
    """An INSERT with `on_conflict_do_nothing` and `on_conflict_do_update`, which every dialect spells for itself."""
    # Not at the top: each is megabytes, and the one that is in use was imported when the store was opened.
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)


def open_database(place: Place, now_s: int, *, synchronous: str = "FULL") -> Database:
    """The store at `place`, with its tables as of this version. Raises StoreUnavailable; ConfigError without a driver.

    A file is made (0600, in a 0700 directory) if it is not there. With `synchronous` NORMAL the last changes may be
    lost with the machine's power, but the store stays whole.
    """
    from securellm.accounts.migrate import bring_up_to_date

    engine = _server_engine(place, synchronous) if isinstance(place, Secret) else _file_engine(place, synchronous)
    database = Database(engine, describe_place(place))
    try:
        bring_up_to_date(database, now_s)
    except BaseException:
        database.close()
        raise
    return database


def _file_engine(path: Path, synchronous: str) -> Engine:
    try:
        make_state_dir(path.parent)
        # Never by opening it: closing a descriptor would drop the locks that SQLite holds on the file for this whole
        # process (https://sqlite.org/howtocorrupt.html, 2.2), and another process would take the store for unused.
        with suppress(FileExistsError):
            os.mknod(path, 0o600 | stat.S_IFREG)
    except OSError as exc:
        reason = exc.strerror or "input/output error"
        raise StoreUnavailable(f"{path} cannot be opened: {reason}; {OTHER_PLACE} (or database.url)") from exc
    engine = create_engine(URL.create("sqlite", database=str(path)), **_POOL)
    event.listen(engine, "connect", partial(_prepare_file, synchronous))
    event.listen(engine, "begin", _begin_in_file)
    return engine


def _prepare_file(synchronous: str, connection: Any, record: object) -> None:
    """Settings of each new connection; the driver's own BEGIN is off, `_begin_in_file` says it."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    _write_ahead(cursor)
    cursor.execute(f"PRAGMA synchronous={synchronous}")
    cursor.close()


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Take the journal mode WAL. Two who make a file at one time: SQLite lets neither wait here, so we do."""
    give_up_s = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= give_up_s:
                raise
            time.sleep(BUSY_PAUSE_S)
        else:
            return


def _begin_in_file(connection: Connection) -> None:
    write = connection.get_execution_options().get("write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _server_engine(url: Secret, synchronous: str) -> Engine:
    try:
        import psycopg  # not at the top: an extra, and few need it
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as exc:
        raise ConfigError(
            "database.url is a PostgreSQL server's, and its driver is not installed: "
            "pip install 'securellm-bridge[postgres]'"
        ) from exc
    commit = "on" if synchronous == "FULL" else "off"
    try:
        # libpq reads the URL by itself: several hosts, TLS, service files, and whatever else it knows.
        given = conninfo_to_dict(f"postgresql://{url.reveal().partition('://')[2]}")
    except psycopg.Error:
        # `from None`: the driver repeats what it could not read.
        raise ConfigError("database.url cannot be read as a URL of PostgreSQL") from None
    settings: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "securellm",
        "tcp_user_timeout": LOST_TIMEOUT_MS,
        "keepalives_idle": KEEPALIVE_S,
        "keepalives_interval": KEEPALIVE_S,
        "keepalives_count": 2,
        "options": f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={BUSY_TIMEOUT_MS} "
        f"-c idle_in_transaction_session_timeout={STATEMENT_TIMEOUT_MS} -c synchronous_commit={commit}",
        **given,
    }

    def connect() -> Any:
        # Prepared statements would be lost between a pooler's connections.
        return psycopg.connect(**settings, prepare_threshold=None)

    # A ping is a round trip for each use, once a second; without it the first use after a restart would fail.
    return create_engine("postgresql+psycopg://", creator=connect, pool_pre_ping=True, **_POOL)


def _reason(exc: SQLAlchemyError) -> str:
    """What kind of failure it was; PostgreSQL has a code for it."""
    code = getattr(getattr(exc, "orig", None), "sqlstate", None)
    return f"{type(exc).__name__} ({code})" if code else type(exc).__name__
