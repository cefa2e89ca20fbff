"""The store's statements, on SQLite by SQLAlchemy Core. Everything here blocks; call it from a worker thread.

Writes take the lock when they begin (BEGIN IMMEDIATE), so that two processes queue instead of failing half-way.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import URL, Connection, create_engine, delete, event, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from securellm.accounts.keys import KeyRecord
from securellm.accounts.pepper import OTHER_PLACE, make_state_dir
from securellm.accounts.schema import EVENTS, GENERATION, KEYS, META, METADATA, MODELS, REVISION, SCHEMA_VERSION
from securellm.accounts.store import StoredModel, StoreEvent
from securellm.chat import KeyId
from securellm.errors import StoreUnavailable

BUSY_TIMEOUT_MS = 5000  # how long a write waits for another process's; its own writes take a few milliseconds


class IdTaken(Exception):
    """The store has a key of that id already; mint another."""


class Database:
    """One open SQLite file. Made by `open_database`; `close` it."""

    def __init__(self, path: Path, *, synchronous: str = "FULL") -> None:
        self._path = path
        self._engine = create_engine(URL.create("sqlite", database=str(path)), pool_size=1, max_overflow=1)
        event.listen(self._engine, "connect", partial(_prepare_connection, synchronous))
        event.listen(self._engine, "begin", _begin)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def create_tables(self, now_s: int) -> None:
        """Make what is missing of revision 1. Raises StoreUnavailable on a store of a later revision."""
        with self.transaction(write=True) as connection:
            METADATA.create_all(connection)
            connection.execute(
                upsert(SCHEMA_VERSION).values(version=REVISION, applied_at_s=now_s).on_conflict_do_nothing()
            )
            connection.execute(upsert(META).values(name=GENERATION, value=0).on_conflict_do_nothing())
            found = connection.execute(select(func.max(SCHEMA_VERSION.c.version))).scalar_one()
        if found > REVISION:
            raise StoreUnavailable(f"{self._path} has schema revision {found}, this version knows {REVISION}")

    def generation(self) -> int:
        """How often the keys have changed."""
        with self.transaction() as connection:
            return _generation(connection)

    def keys(self) -> tuple[int, list[KeyRecord]]:
        """The generation and every key of it, oldest first."""
        with self.transaction() as connection:
            generation = _generation(connection)
            rows = connection.execute(select(KEYS).order_by(KEYS.c.created_at_s, KEYS.c.id)).all()
        return generation, [_record(row._mapping) for row in rows]

    def add_key(self, record: KeyRecord, *, only_first: bool = False) -> bool:
        """Keep a key; with `only_first` only if there is none, and say whether it was kept. Raises IdTaken."""
        with self.transaction(write=True) as connection:
            if only_first and connection.execute(select(func.count()).select_from(KEYS)).scalar_one():
                return False
            try:
                connection.execute(insert(KEYS).values(msgspec.structs.asdict(record)))
            except IntegrityError as exc:
                raise IdTaken from exc
            _bump(connection)
            _note(connection, "key_created", record.id, record.created_at_s)
        return True

    def revoke_key(self, key_id: str, now_s: int) -> bool:
        """Revoke a key; False when there is no such key or it is revoked already."""
        with self.transaction(write=True) as connection:
            active = (KEYS.c.id == key_id) & KEYS.c.revoked_at_s.is_(None)
            changed = connection.execute(update(KEYS).where(active).values(revoked_at_s=now_s)).rowcount
            if changed:
                _bump(connection)
                _note(connection, "key_revoked", key_id, now_s)
        return bool(changed)

    def note_event(self, action: str, subject: str, now_s: int) -> None:
        """Leave word for the audit log."""
        with self.transaction(write=True) as connection:
            _note(connection, action, subject, now_s)

    def events(self, limit: int) -> list[StoreEvent]:
        """The oldest events that were not forgotten."""
        with self.transaction() as connection:
            rows = connection.execute(select(EVENTS).order_by(EVENTS.c.id).limit(limit)).all()
        return [StoreEvent(row.id, row.at_s, row.action, row.subject) for row in rows]

    def forget_events(self, last_id: int) -> None:
        """Take the events away up to that one: the audit log has them."""
        with self.transaction(write=True) as connection:
            connection.execute(delete(EVENTS).where(EVENTS.c.id <= last_id))

    def save_models(self, provider: str, models: list[StoredModel], now_s: int) -> None:
        """Replace what is known of a provider's models."""
        with self.transaction(write=True) as connection:
            connection.execute(delete(MODELS).where(MODELS.c.provider == provider))
            rows = [{**msgspec.structs.asdict(model), "provider": provider, "seen_at_s": now_s} for model in models]
            if rows:
                connection.execute(insert(MODELS), rows)

    def models(self) -> list[StoredModel]:
        """Every model that was saved, in the order of its provider and id."""
        with self.transaction() as connection:
            columns = [MODELS.c[field] for field in StoredModel.__struct_fields__]
            rows = connection.execute(select(*columns).order_by(MODELS.c.provider, MODELS.c.model)).all()
        return [StoredModel(*row) for row in rows]

    @contextmanager
    def transaction(self, *, write: bool = False) -> Iterator[Connection]:
        """One transaction; whatever the driver raises becomes StoreUnavailable, without the driver's text."""
        try:
            with self._engine.execution_options(write=write).begin() as connection:
                yield connection
        except SQLAlchemyError as exc:
            raise StoreUnavailable(f"{self._path} cannot be used: {type(exc).__name__}", retry_after_s=1) from exc


def open_database(path: Path, now_s: int, *, synchronous: str = "FULL") -> Database:
    """The store at `path`, made (0600, in a 0700 directory) if it is not there. Raises StoreUnavailable.

    With `synchronous` NORMAL the last changes may be lost with the machine's power, but the store stays whole.
    """
    try:
        make_state_dir(path.parent)
        # Never by opening it: closing a descriptor would drop the locks that SQLite holds on the file for this whole
        # process (https://sqlite.org/howtocorrupt.html, 2.2), and another process would take the store for unused.
        with suppress(FileExistsError):
            os.mknod(path, 0o600 | stat.S_IFREG)
    except OSError as exc:
        reason = exc.strerror or "input/output error"
        raise StoreUnavailable(f"{path} cannot be opened: {reason}; {OTHER_PLACE} (or database.url)") from exc
    database = Database(path, synchronous=synchronous)
    try:
        database.create_tables(now_s)
    except BaseException:
        database.close()
        raise
    return database


def _prepare_connection(synchronous: str, connection: Any, record: object) -> None:
    """Settings of each new connection; the driver's own BEGIN is off, `_begin` says it."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", f"synchronous={synchronous}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    write = connection.get_execution_options().get("write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _generation(connection: Connection) -> int:
    return int(connection.execute(select(META.c.value).where(META.c.name == GENERATION)).scalar_one())


def _note(connection: Connection, action: str, subject: str, at_s: int) -> None:
    connection.execute(insert(EVENTS).values(at_s=at_s, action=action, subject=subject))


def _bump(connection: Connection) -> None:
    connection.execute(update(META).where(META.c.name == GENERATION).values(value=META.c.value + 1))


def _record(row: Any) -> KeyRecord:
    return KeyRecord(**{**row, "id": KeyId(row["id"])})
