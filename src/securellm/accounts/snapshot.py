"""Whose key is it: answered from memory, refreshed from the store every second.

A request never waits for the store. A key that is revoked by another process stops working within `REFRESH_S` and the
time of one read. While the store cannot be read, known keys work for `MAX_STALE_S`; unknown ones are 503 at once, since
they may be new. After that every key of the store is 503: "cannot check" is never told as 401.
"""

import logging
import secrets
import time
from collections.abc import Callable

import msgspec
import trio

from securellm.accounts.keys import (
    MAX_KEY_CHARS,
    KeyRecord,
    digest_key,
    parse_key,
    same_digest,
)
from securellm.accounts.store import KeyTable, Store
from securellm.chat import Caller, Headers, KeyId
from securellm.config.tree import Config
from securellm.errors import InvalidKey, StoreUnavailable

REFRESH_S = 1.0  # between two looks at the generation; a revocation is promised in force within 2 s
FRESH_S = 5.0  # a snapshot this old, or one whose last refresh failed, cannot call a key unknown
MAX_STALE_S = 60.0  # how long known keys work without the store

_NO_DIGEST = bytes(32)  # compared against when the id is unknown, so that both take the same time
_REFUSAL = "no valid API key: expected one in Authorization (Bearer) or x-api-key"

_log = logging.getLogger("securellm.accounts")


class AccountsStatistics(msgspec.Struct, frozen=True):
    """What an operator may see. `age_s` is since the last good read, None before the first."""

    keys: int
    config_keys: int
    generation: int | None
    age_s: float | None
    latency_ms: float | None  # of the last good read
    fresh: bool  # the last read was good and not long ago
    error: str | None  # of the last read, None when it was good


class Accounts:
    """The keys of the configuration and of the store, as of the last refresh."""

    def __init__(self, config: Config, store: Store, *, now_s: Callable[[], float] = time.time) -> None:
        self._require_auth = config.security.require_auth
        self._store = store
        self._now_s = now_s  # Unix seconds, for expiry
        self._config_pepper = secrets.token_bytes(32)  # these digests never leave this process
        self._config_digests = tuple(digest_key(self._config_pepper, key.reveal()) for key in config.security.api_keys)
        self._table: KeyTable | None = None
        self._records: dict[KeyId, KeyRecord] = {}
        self._read_at_s: float | None = None  # trio's clock
        self._latency_ms: float | None = None
        self._error: str | None = None
        self._limiter = trio.CapacityLimiter(1)

    def __repr__(self) -> str:
        """What an operator may see."""
        return f"<Accounts {self.statistics()}>"

    def identify(self, headers: Headers) -> Caller:
        """Who sent these headers. Raises InvalidKey, StoreUnavailable.

        With authentication off every caller is anonymous, but for those who send a good key all the same.
        """
        if self._require_auth:
            return self._identify(headers)
        try:
            return self._identify(headers)
        except (InvalidKey, StoreUnavailable):
            return Caller(None, None, "anonymous")

    async def refresh(self) -> None:
        """Read the store once. A failure is kept for `statistics` and told in the log, once; nothing is raised."""
        started_s = trio.current_time()
        known = self._table.generation if self._table else None
        try:
            # Abandoned on cancellation: a disk that hangs must not hold the process.
            table = await trio.to_thread.run_sync(
                self._store.read_keys, known, abandon_on_cancel=True, limiter=self._limiter
            )
        except StoreUnavailable as error:
            if self._error is None:
                _log.error("the key store cannot be read: %s", error.message)
            self._error = error.message
            return
        if self._error is not None:
            _log.warning("the key store can be read again")
        self._error = None
        self._read_at_s = trio.current_time()
        self._latency_ms = (self._read_at_s - started_s) * 1000
        if table is not None:
            self._table = table
            self._records = {record.id: record for record in table.records}

    async def keep_fresh(self) -> None:
        """Refresh until cancelled."""
        while True:
            await trio.sleep(REFRESH_S)
            await self.refresh()

    def statistics(self) -> AccountsStatistics:
        """The figures now."""
        age_s = self._age_s()
        return AccountsStatistics(
            keys=len(self._records),
            config_keys=len(self._config_digests),
            generation=self._table.generation if self._table else None,
            age_s=age_s,
            latency_ms=self._latency_ms,
            fresh=self._is_fresh(),
            error=self._error,
        )

    def _identify(self, headers: Headers) -> Caller:
        text = _presented_key(headers)
        given = digest_key(self._config_pepper, text)
        for number, digest in enumerate(self._config_digests, 1):
            if same_digest(digest, given):
                return Caller(KeyId(f"config{number:02}"), None, f"config key {number}")
        key_id = parse_key(text)
        if key_id is None:
            raise InvalidKey(_REFUSAL)
        return self._identify_stored(key_id, text)

    def _identify_stored(self, key_id: KeyId, text: str) -> Caller:
        age_s = self._age_s()
        if self._table is None or age_s is None or age_s > MAX_STALE_S:
            raise StoreUnavailable("keys cannot be checked now: the key store does not answer", retry_after_s=1)
        record = self._records.get(key_id)
        good = same_digest(record.digest if record else _NO_DIGEST, digest_key(self._table.pepper, text))
        if record is None and not self._is_fresh():
            raise StoreUnavailable("a key cannot be looked up now: the key store does not answer", retry_after_s=1)
        if record is None or not good or record.state(self._now_s()) != "active":
            raise InvalidKey(_REFUSAL)
        return Caller(record.id, None, record.name, record.role)

    def _age_s(self) -> float | None:
        return None if self._read_at_s is None else trio.current_time() - self._read_at_s

    def _is_fresh(self) -> bool:
        age_s = self._age_s()
        return self._error is None and age_s is not None and age_s <= FRESH_S


def _presented_key(headers: Headers) -> str:
    """The one key in the headers; Bearer and x-api-key may both be there if they are equal. Raises InvalidKey."""
    found: set[bytes] = set()
    for name, value in headers:
        if name == b"authorization":
            scheme, _, credentials = value.strip().partition(b" ")
            if scheme.lower() != b"bearer":
                raise InvalidKey(_REFUSAL)
            found.add(credentials.strip())
        elif name == b"x-api-key":
            found.add(value.strip())
    found.discard(b"")
    if len(found) != 1:
        raise InvalidKey(_REFUSAL)
    (key,) = found
    if len(key) > MAX_KEY_CHARS or not key.isascii():
        raise InvalidKey(_REFUSAL)
    return key.decode("ascii")
