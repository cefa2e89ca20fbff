"""Whose key is it: answered from memory, refreshed from the store every second.

A request never waits for the store: it costs a look into a dictionary and one HMAC. What another process changes is in
force within `REFRESH_S` and the time of one read. While the store cannot be read, known keys work for
`database.max_stale_s`; unknown ones are 503 at once, since they may be new. After that every key of the store is 503:
"cannot check" is never told as 401.
"""

import logging
import secrets
import time
from collections.abc import Callable

import msgspec
import trio

from securellm.accounts.bounds import ANONYMOUS, Budget, OwnRates
from securellm.accounts.keys import MAX_KEY_CHARS, digest_key, parse_key, same_digest
from securellm.accounts.records import KeyTable
from securellm.accounts.store import Store
from securellm.accounts.view import View
from securellm.chat import Call, Caller, Headers, HeadNotes, KeyId
from securellm.config.tree import Config
from securellm.errors import InvalidKey, StoreUnavailable

REFRESH_S = 1.0  # between two looks at the generation; a revocation is promised in force within 2 s
FRESH_S = 5.0  # a snapshot this old, or one whose last refresh failed, cannot call a key unknown

_NO_DIGEST = bytes(32)  # compared against when the id is unknown, so that both take the same time
_REFUSAL = "no valid API key: expected one in Authorization (Bearer) or x-api-key"
_KEY_HEADERS = (b"authorization", b"x-api-key")
_ANONYMOUS = Caller(None, None, "anonymous")

_log = logging.getLogger("securellm.accounts")

OnChange = Callable[[frozenset[KeyId]], None]


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
    """The keys of the configuration and of the store, as of the last refresh.

    `generation` is another number whenever anything in here is another, so that what is derived can be kept by it.
    """

    def __init__(self, config: Config, store: Store, *, now_s: Callable[[], float] = time.time) -> None:
        self.generation = 0
        self._store = store
        self._now_s = now_s  # Unix seconds, for expiry
        self._config_pepper = secrets.token_bytes(32)  # these digests never leave this process
        self._table: KeyTable | None = None
        self._pepper = b""  # of the table
        self._listeners: list[OnChange] = []
        self._active: set[KeyId] = set()  # what listeners take to be in force
        self._next_end_s = 0.0  # before then no key expires
        self._read_at_s: float | None = None  # trio's clock
        self._latency_ms: float | None = None
        self._error: str | None = None
        self.configure(config)

    def configure(self, config: Config) -> None:
        """What the configuration says of keys, from now on."""
        self._require_auth = config.security.require_auth
        self._max_stale_s = config.database.max_stale_s
        self._settings = config.budgets
        self._config_callers = {
            digest_key(self._config_pepper, key.reveal()): Caller(
                KeyId(f"config{number:02}"), None, f"config key {number}"
            )
            for number, key in enumerate(config.security.api_keys, 1)
        }
        self._put(View(self._table, self._settings))

    def __repr__(self) -> str:
        """What an operator may see."""
        return f"<Accounts {self.statistics()}>"

    def identify(self, headers: Headers, notes: HeadNotes | None = None, *, anonymous: bool = True) -> Caller:
        """Who sent these headers. Raises InvalidKey, StoreUnavailable.

        With authentication off every caller is anonymous, but for those who send a good key all the same; not so where
        `anonymous` is False. The key's digest is noted.
        """
        if self._require_auth or not anonymous:
            return self._identify(_presented_key(headers), notes)
        try:
            return self._identify(_presented_key(headers), notes)
        except (InvalidKey, StoreUnavailable):
            return _ANONYMOUS

    def identify_caller(self, call: Call) -> Caller:
        """As `identify`; a key that was noted is looked up and compared as any other, but not read and digested."""
        notes = call.notes
        if notes.key_id is not None and notes.key_pepper is self._pepper and not self._is_stale(call.started_s):
            caller = self._find_in_force(notes.key_id, notes.key_digest)
            if caller is not None:
                return caller
        return self.identify(call.headers, notes)

    def caller_of(self, key_id: str) -> Caller | None:
        """Whoever uses the key with that id, as far as it is in force; `anonymous` where no key is needed."""
        entry = self._view.entries.get(KeyId(key_id))
        if entry is not None and self._now_s() < entry.until_s:
            return entry.caller
        if key_id == ANONYMOUS and not self._require_auth:
            return _ANONYMOUS
        return next((caller for caller in self._config_callers.values() if caller.key_id == key_id), None)

    def rates(self, caller: Caller) -> OwnRates:
        """What the store says of the rates of the caller's key, user and team."""
        return self._view.rates(caller)

    def budgets(self, caller: Caller) -> tuple[Budget, ...]:
        """What bounds the spending of the caller's key, user and team; the configuration's where the store has none."""
        return self._view.budgets(caller)

    def on_change(self, listener: OnChange) -> None:
        """Call `listener` after every change, with the keys that were in force before it and no longer are.

        It must not block. A key that expires is told so within `REFRESH_S`; a store that is down ends no key.
        """
        self._listeners.append(listener)

    async def refresh(self) -> None:
        """Read the store once. A failure is kept for `statistics` and told in the log, once; nothing is raised."""
        started_s = trio.current_time()
        known = self._table.generation if self._table else None
        try:
            # Given up on cancellation: a disk that hangs must not hold the process.
            read = await self._store.in_thread(self._read, known)
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
        if read is not None:
            table, settings, view = read
            self._table, self._pepper = table, table.pepper
            self._put(view if settings is self._settings else View(table, self._settings))
        self._tell()

    async def keep_fresh(self) -> None:
        """Refresh until cancelled."""
        while True:
            await trio.sleep(REFRESH_S)
            await self.refresh()

    def statistics(self) -> AccountsStatistics:
        """The figures now."""
        return AccountsStatistics(
            keys=len(self._table.records) if self._table else 0,
            config_keys=len(self._config_callers),
            generation=self._table.generation if self._table else None,
            age_s=self._age_s(),
            latency_ms=self._latency_ms,
            fresh=self._is_fresh(),
            error=self._error,
        )

    def _read(self, known: int | None) -> tuple[KeyTable, object, View] | None:
        """In the store's thread: the view of many keys takes long enough to be made there."""
        table = self._store.read_keys(known)
        settings = self._settings
        return (table, settings, View(table, settings)) if table is not None else None

    def _put(self, view: View) -> None:
        self._view = view
        self._next_end_s = 0.0
        self.generation += 1

    def _tell(self) -> None:
        now_s = self._now_s()
        if now_s < self._next_end_s:
            return
        before, self._active = self._active, self._view.active(now_s)
        self._next_end_s = self._view.next_end_s(now_s)
        ended = frozenset(before - self._active)
        for listener in self._listeners:
            listener(ended)

    def _identify(self, text: str, notes: HeadNotes | None) -> Caller:
        key_id = parse_key(text)
        if key_id is None:
            return self._identify_config(text)
        try:
            return self._identify_stored(key_id, text, notes)
        except (InvalidKey, StoreUnavailable):
            if not self._config_callers:
                raise
            known = self._config_callers.get(digest_key(self._config_pepper, text))
            if known is None:
                raise
            return known

    def _identify_config(self, text: str) -> Caller:
        # Looked up by a digest under a pepper that nobody knows: how long it takes says nothing of a key.
        known = self._config_callers.get(digest_key(self._config_pepper, text))
        if known is None:
            raise InvalidKey(_REFUSAL)
        return known

    def _identify_stored(self, key_id: KeyId, text: str, notes: HeadNotes | None) -> Caller:
        if self._is_stale(trio.current_time()):
            raise StoreUnavailable("keys cannot be checked now: the key store does not answer", retry_after_s=1)
        given = digest_key(self._pepper, text)
        if notes is not None:
            notes.key_id, notes.key_digest, notes.key_pepper = key_id, given, self._pepper
        caller = self._find_in_force(key_id, given)
        if caller is not None:
            return caller
        if key_id not in self._view.revoked and not self._is_fresh():  # it may be new, rotated, or let in again
            raise StoreUnavailable("a key cannot be looked up now: the key store does not answer", retry_after_s=1)
        raise InvalidKey(_REFUSAL)

    def _find_in_force(self, key_id: KeyId, given: bytes) -> Caller | None:
        """Whose key has that digest; None when it is nobody's, or is not in force now."""
        entry = self._view.entries.get(key_id)
        if entry is None:
            same_digest(_NO_DIGEST, given)
            return None
        now_s = self._now_s()
        good = same_digest(entry.digest, given)
        if not good and entry.previous_digest is not None:
            good = same_digest(entry.previous_digest, given) and now_s < entry.previous_until_s
        return entry.caller if good and now_s < entry.until_s else None

    def _is_stale(self, now_s: float) -> bool:
        """The last good read is so old, on Trio's clock, that keys can no longer be checked."""
        read_at_s = self._read_at_s
        return read_at_s is None or now_s - read_at_s > self._max_stale_s

    def _age_s(self) -> float | None:
        return None if self._read_at_s is None else trio.current_time() - self._read_at_s

    def _is_fresh(self) -> bool:
        age_s = self._age_s()
        return self._error is None and age_s is not None and age_s <= FRESH_S


def _presented_key(headers: Headers) -> str:
    """The one key in the headers; Bearer and x-api-key may both be there if they are equal. Raises InvalidKey."""
    found = b""
    for name, value in headers:
        if name not in _KEY_HEADERS:
            continue
        if name == b"authorization":
            scheme, _, credentials = value.strip().partition(b" ")
            if scheme.lower() != b"bearer":
                raise InvalidKey(_REFUSAL)
            given = credentials.strip()
        else:
            given = value.strip()
        if found and given and given != found:
            raise InvalidKey(_REFUSAL)
        found = given or found
    if not found or len(found) > MAX_KEY_CHARS or not found.isascii():
        raise InvalidKey(_REFUSAL)
    return found.decode("ascii")
