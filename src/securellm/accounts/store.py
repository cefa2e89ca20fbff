"""The store of keys: opened when first used, watched for being taken away. Every method blocks; call it in a thread.

SQLAlchemy is imported with the first use, not with this module. A file that vanishes under us is an outage, never an
empty store: making a new one would turn every key into an unknown one.
"""

import os
import secrets
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from securellm.accounts.keys import ID_BYTES, SECRET_BYTES, KeyRecord, MintedKey, digest_key, mint_key
from securellm.accounts.pepper import load_pepper
from securellm.config.tree import Config
from securellm.errors import StoreUnavailable

if TYPE_CHECKING:
    from securellm.accounts.database import Database

MINT_ATTEMPTS = 4  # ids have 40 bits; a second try is rare, a fourth is a broken source of randomness


class StoredModel(msgspec.Struct, frozen=True):
    """One model as a provider listed it."""

    provider: str
    model: str
    context: int | None
    max_output: int | None
    created_s: int
    display_name: str | None


class StoreEvent(msgspec.Struct, frozen=True):
    """Something that was done to the store, by whatever process, and belongs into the audit log."""

    id: int
    at_s: int
    action: str  # key_created, key_revoked
    subject: str  # the id of the key


class KeyTable(msgspec.Struct, frozen=True):
    """All keys at one generation, and the pepper that their digests were made with."""

    generation: int
    records: tuple[KeyRecord, ...]
    pepper: bytes

    def __repr__(self) -> str:
        """How many keys, of which generation."""
        return f"<KeyTable generation {self.generation} {len(self.records)} keys>"


class Store:
    """The keys of one configuration. Usable from any thread, one call at a time."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._path: Path = config.database.path
        self._lock = threading.Lock()
        self._database: Database | None = None
        self._pepper: bytes | None = None
        self._file: tuple[int, int] | None = None  # device and inode of what was opened

    def __repr__(self) -> str:
        """Where it is, and whether it is open."""
        return f"<Store {self._path} {'open' if self._database else 'closed'}>"

    def close(self) -> None:
        """Close it; the next use opens it again."""
        with self._lock:
            self._close()

    def read_keys(self, known_generation: int | None = None) -> KeyTable | None:
        """Every key, or None when the generation is still the known one. Raises StoreUnavailable."""
        with self._lock:
            database, pepper = self._open()
            if known_generation is not None and database.generation() == known_generation:
                return None
            generation, records = database.keys()
            return KeyTable(generation, tuple(records), pepper)

    def create_key(
        self, name: str, role: str = "user", *, expires_at_s: int | None = None, only_first: bool = False
    ) -> MintedKey | None:
        """Mint and keep a key. None only with `only_first`, when there is a key already. Raises StoreUnavailable."""
        from securellm.accounts.database import IdTaken

        with self._lock:
            database, pepper = self._open()
            for _ in range(MINT_ATTEMPTS):
                minted = mint_key(secrets.token_bytes(ID_BYTES + SECRET_BYTES))
                digest = digest_key(pepper, minted.text)
                record = KeyRecord(minted.id, digest, name, role, int(time.time()), expires_at_s)
                try:
                    return minted if database.add_key(record, only_first=only_first) else None
                except IdTaken:
                    continue
        raise StoreUnavailable(f"{MINT_ATTEMPTS} new keys in a row had ids that are taken")

    def revoke_key(self, key_id: str) -> bool:
        """Revoke a key; False when there is no such key or it is revoked already. Raises StoreUnavailable."""
        with self._lock:
            return self._open()[0].revoke_key(key_id, int(time.time()))

    def note_event(self, action: str, subject: str) -> None:
        """Leave word for the audit log of something that a command does beside the gateway. Raises StoreUnavailable."""
        with self._lock:
            self._open()[0].note_event(action, subject, int(time.time()))

    def read_events(self, limit: int = 1000) -> list[StoreEvent]:
        """The oldest events that are not known to be in the audit log. Raises StoreUnavailable."""
        with self._lock:
            return self._open()[0].events(limit)

    def forget_events(self, last_id: int) -> None:
        """The audit log has the events up to that one. Raises StoreUnavailable."""
        with self._lock:
            self._open()[0].forget_events(last_id)

    def save_models(self, provider: str, models: list[StoredModel]) -> None:
        """Replace what is known of a provider's models. Raises StoreUnavailable."""
        with self._lock:
            self._open()[0].save_models(provider, models, int(time.time()))

    def read_models(self) -> list[StoredModel]:
        """Every model that was saved. Raises StoreUnavailable."""
        with self._lock:
            return self._open()[0].models()

    def _open(self) -> "tuple[Database, bytes]":
        from securellm.accounts.database import open_database

        if self._database is not None and self._is_replaced():
            self._close()
        if self._database is None:
            self._database = open_database(self._path, int(time.time()))
            self._file = self._identity()
        if self._pepper is None:
            self._pepper = load_pepper(self._config)
        return self._database, self._pepper

    def _is_replaced(self) -> bool:
        """Whether another file lies at our path. Raises StoreUnavailable when none does."""
        return self._identity() != self._file

    def _identity(self) -> tuple[int, int]:
        try:
            found = os.stat(self._path)
        except OSError as exc:
            raise StoreUnavailable(f"{self._path} is gone: {exc.strerror or 'input/output error'}") from exc
        return found.st_dev, found.st_ino

    def _close(self) -> None:
        database, self._database, self._file = self._database, None, None
        if database is not None:
            database.close()


@asynccontextmanager
async def open_store(config: Config) -> AsyncIterator[Store]:
    """The store of a configuration, closed at the end. Nothing is opened before its first use."""
    store = Store(config)
    try:
        yield store
    finally:
        store.close()


def ensure_first_key(config: Config) -> str | None:
    """Mint an admin's key if there is none anywhere, and return it; None when there is one or none is needed.

    A revoked or expired key counts: whoever took the last key away did not ask for another. Raises StoreUnavailable.
    """
    if not config.security.require_auth or config.security.api_keys:
        return None
    store = Store(config)
    try:
        minted = store.create_key("first key", "admin", only_first=True)
    finally:
        store.close()
    return minted.text if minted else None
