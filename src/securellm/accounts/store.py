"""The store of accounts: what may be read and changed of keys, users, teams and budgets. Every method blocks.

Call them by `in_thread`, or from a thread. Every change is one transaction with its place in the generation, which
snapshots poll, and with an event, which the gateway carries into the audit log. `actor` is who makes the change:
`cli:<login>`, or the id of an administrator's key. Whatever is refused names the field that is wrong. Every method may
raise StoreUnavailable; those that change something BadRequest, and NotFound where an id is given.

Long because the operations on one store are one list.
"""

import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from securellm.accounts import changes as change
from securellm.accounts import checks
from securellm.accounts.bounds import ANONYMOUS, Budget, budget_id
from securellm.accounts.keys import ID_BYTES, SECRET_BYTES, KeyRecord, MintedKey, digest_key, mint_key, remint_key
from securellm.accounts.opening import Opening
from securellm.accounts.records import (
    KeyChanges,
    KeyTable,
    StoredModel,
    StoreEvent,
    TeamChanges,
    TeamRecord,
    UserChanges,
    UserRecord,
)
from securellm.accounts.store_thread import StoreThread
from securellm.chat import EVERYTHING, Grants
from securellm.config.tree import Config, Rates
from securellm.errors import BadRequest, NotFound, StoreUnavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["KeyTable", "Store", "StoreEvent", "StoredModel", "ensure_first_key", "open_store"]

ACCOUNTS_LOCK = 1  # what changes of accounts wait for on a server, one after the other
LOCAL = "local"  # the actor where nobody says who it is
MINT_ATTEMPTS = 4  # ids have 40 bits; a second try is rare, a fourth is a broken source of randomness
MONTH_S = 30 * 86_400
TOLD_WITHIN_S = 60  # for which an event belongs to whoever took it; after that another may tell it

_CONFIG_KEY = re.compile(r"config\d{2,}", re.ASCII)  # the ids of keys that the configuration gives

_log = logging.getLogger("securellm.accounts")

T = TypeVar("T")


class Store:
    """The accounts of one configuration. Usable from any thread, one call at a time."""

    def __init__(self, config: Config) -> None:
        self._opening = Opening(config)
        self._thread = StoreThread("store")

    def __repr__(self) -> str:
        """Where it is, and whether it is open."""
        return f"<Store {self._opening!r}>"

    def close(self) -> None:
        """Close it; the next use opens it again."""
        self._opening.close()

    async def in_thread(self, act: Callable[..., T], *arguments: Any) -> T:
        """Call it in the store's own thread, together with whatever else is queued; see `StoreThread.run`."""
        return await self._thread.run(lambda: act(*arguments))

    @contextmanager
    def transaction(self, *, write: bool = False, lock: int | None = None) -> "Iterator[Connection]":
        """A transaction for tables of others; a write waits for those with the same `lock`. Raises StoreUnavailable."""
        with self._opening.transaction(write=write, lock=lock) as (connection, _):
            yield connection

    # -- for the snapshot ----------------------------------------------------------------------------------------

    def read_keys(self, known_generation: int | None = None) -> KeyTable | None:
        """Everything, or None when the generation is still the known one."""
        from securellm.accounts import rows

        with self._opening.transaction() as (connection, pepper):
            generation = rows.read_generation(connection)
            if generation == known_generation:
                return None
            return KeyTable(
                generation,
                tuple(rows.read_keys(connection)),
                pepper,
                tuple(rows.read_users(connection)),
                tuple(rows.read_teams(connection)),
                tuple(rows.read_budgets(connection)),
            )

    # -- keys ----------------------------------------------------------------------------------------------------

    def list_keys(self, *, user_id: str | None = None, team_id: str | None = None) -> list[KeyRecord]:
        """The keys, or those of a user or a team (not of its users), oldest first."""
        from securellm.accounts import rows

        with self.transaction() as connection:
            return rows.read_keys(connection, user_id=user_id, team_id=team_id)

    def find_key(self, key_id: str) -> KeyRecord:
        """One key. Raises NotFound."""
        with self.transaction() as connection:
            return _key(connection, key_id)

    def create_key(
        self,
        name: str = "",
        role: str = "user",
        *,
        expires_at_s: int | None = None,
        user_id: str | None = None,
        team_id: str | None = None,
        grants: Grants = EVERYTHING,
        rates: Rates | None = None,
        only_first: bool = False,
        actor: str = LOCAL,
    ) -> MintedKey | None:
        """Mint and keep a key. None only with `only_first`, when there is a key already."""
        from securellm.accounts import rows

        facts = KeyChanges(name, role, expires_at_s, user_id, team_id, grants, rates)
        for _ in range(MINT_ATTEMPTS):
            minted = mint_key(secrets.token_bytes(ID_BYTES + SECRET_BYTES))
            with self._change() as (connection, pepper, now_s):
                if only_first and rows.count_keys(connection):
                    return None
                blank = KeyRecord(minted.id, digest_key(pepper, minted.text), name, role, now_s)
                record = change.change_key(blank, facts)
                _check_owners(connection, user_id, team_id)
                if rows.read_keys(connection, key_id=minted.id):
                    continue
                rows.put_key(connection, record)
                _note(connection, "key_created", minted.id, actor, change.tell_changes(facts), now_s)
            return minted
        raise StoreUnavailable(f"{MINT_ATTEMPTS} new keys in a row had ids that are taken")

    def update_key(self, key_id: str, changes: KeyChanges, *, actor: str = LOCAL) -> KeyRecord:
        """Change what a key belongs to and may do. A revoked key stays revoked."""
        from securellm.accounts import rows

        with self._change() as (connection, _, now_s):
            record = change.change_key(_key(connection, key_id), changes)
            _check_owners(connection, record.user_id, record.team_id)
            rows.change_key(connection, record)
            _note(connection, "key_updated", key_id, actor, change.tell_changes(changes), now_s)
        return record

    def rotate_key(self, key_id: str, *, overlap_s: int = 0, actor: str = LOCAL) -> MintedKey:
        """Give a key another secret; the old one stays good for `overlap_s`, unless it is rotated again meanwhile.

        The key keeps its id, and so its limits, its budgets and what was spent of them.
        """
        from securellm.accounts import rows

        checks.check_overlap(overlap_s)
        with self._change() as (connection, pepper, now_s):
            before = _key(connection, key_id)
            if before.state(now_s) != "active":
                raise BadRequest(f"id: key {key_id} is {before.state(now_s)}; make a new one", param="id")
            minted = remint_key(before.id, secrets.token_bytes(SECRET_BYTES))
            record = msgspec.structs.replace(
                before,
                digest=digest_key(pepper, minted.text),
                previous_digest=before.digest if overlap_s else None,
                previous_until_s=now_s + overlap_s if overlap_s else None,
            )
            rows.change_key(connection, record)
            _note(connection, "key_rotated", key_id, actor, change.tell(overlap_s=overlap_s), now_s)
        return minted

    def revoke_key(self, key_id: str, *, actor: str = LOCAL) -> bool:
        """Revoke a key, for good; False when there is no such key or it is revoked already."""
        from securellm.accounts import rows

        with self._change() as (connection, _, now_s):
            found = rows.read_keys(connection, key_id=key_id)
            if not found or found[0].revoked_at_s is not None:
                return False
            rows.change_key(connection, msgspec.structs.replace(found[0], revoked_at_s=now_s))
            _note(connection, "key_revoked", key_id, actor, "", now_s)
        return True

    def delete_key(self, key_id: str, *, actor: str = LOCAL) -> None:
        """Forget a key that is revoked or expired, and its budgets."""
        from securellm.accounts import rows

        with self._change() as (connection, _, now_s):
            if _key(connection, key_id).state(now_s) == "active":
                raise BadRequest(f"id: key {key_id} is active; revoke it first", param="id")
            rows.delete_key(connection, key_id)
            rows.delete_budgets(connection, "key", key_id, None)
            _note(connection, "key_deleted", key_id, actor, "", now_s)

    # -- users and teams -----------------------------------------------------------------------------------------

    def list_users(self, *, team_id: str | None = None) -> list[UserRecord]:
        """The users, or those of a team, by id."""
        from securellm.accounts import rows

        with self.transaction() as connection:
            return rows.read_users(connection, team_id=team_id)

    def find_user(self, user_id: str) -> UserRecord:
        """One user. Raises NotFound."""
        with self.transaction() as connection:
            return _user(connection, user_id)

    def create_user(
        self,
        user_id: str,
        name: str = "",
        *,
        team_id: str | None = None,
        rates: Rates | None = None,
        actor: str = LOCAL,
    ) -> UserRecord:
        """Keep a new user."""
        from securellm.accounts import rows

        checks.check_id(user_id)
        facts = UserChanges(name, team_id, rates=rates)
        with self._change() as (connection, _, now_s):
            if rows.read_users(connection, user_id=user_id):
                raise BadRequest(f"id: there is a user {user_id} already; choose another", param="id")
            record = change.change_user(UserRecord(user_id, name, now_s), facts, now_s)
            _check_owners(connection, None, team_id)
            rows.put_owner(connection, record)
            _note(connection, "user_created", user_id, actor, change.tell_changes(facts), now_s)
        return record

    def update_user(self, user_id: str, changes: UserChanges, *, actor: str = LOCAL) -> UserRecord:
        """Change a user; disabling stops every key of the user, enabling lets them go on."""
        from securellm.accounts import rows

        with self._change() as (connection, _, now_s):
            record = change.change_user(_user(connection, user_id), changes, now_s)
            _check_owners(connection, None, record.team_id)
            rows.put_owner(connection, record)
            action = f"user_{change.verb_of(changes)}"
            _note(connection, action, user_id, actor, change.tell_changes(changes), now_s)
        return record

    def delete_user(self, user_id: str, *, actor: str = LOCAL) -> None:
        """Forget a user who has no active keys, and the user's budgets."""
        from securellm.accounts import rows

        with self._change() as (connection, _, now_s):
            record = _user(connection, user_id)
            _check_unused(rows.read_keys(connection, user_id=user_id), f"user {user_id}", now_s)
            rows.delete_owner(connection, record)
            rows.delete_budgets(connection, "user", user_id, None)
            _note(connection, "user_deleted", user_id, actor, "", now_s)

    def list_teams(self) -> list[TeamRecord]:
        """The teams, by id."""
        from securellm.accounts import rows

        with self.transaction() as connection:
            return rows.read_teams(connection)

    def find_team(self, team_id: str) -> TeamRecord:
        """One team. Raises NotFound."""
        with self.transaction() as connection:
            return _team(connection, team_id)

    def create_team(
        self, team_id: str, name: str = "", *, rates: Rates | None = None, actor: str = LOCAL
    ) -> TeamRecord:
        """Keep a new team."""
        from securellm.accounts import rows

        checks.check_id(team_id)
        facts = TeamChanges(name, rates=rates)
        with self._change() as (connection, _, now_s):
            if rows.read_teams(connection, team_id=team_id):
                raise BadRequest(f"id: there is a team {team_id} already; choose another", param="id")
            record = change.change_team(TeamRecord(team_id, name, now_s), facts, now_s)
            rows.put_owner(connection, record)
            _note(connection, "team_created", team_id, actor, change.tell_changes(facts), now_s)
        return record

    def update_team(self, team_id: str, changes: TeamChanges, *, actor: str = LOCAL) -> TeamRecord:
        """Change a team; disabling stops every key of the team and of its users."""
        from securellm.accounts import rows

        with self._change() as (connection, _, now_s):
            record = change.change_team(_team(connection, team_id), changes, now_s)
            rows.put_owner(connection, record)
            action = f"team_{change.verb_of(changes)}"
            _note(connection, action, team_id, actor, change.tell_changes(changes), now_s)
        return record

    def delete_team(self, team_id: str, *, actor: str = LOCAL) -> None:
        """Forget a team that has neither users nor active keys, and its budgets."""
        from securellm.accounts import rows

        with self._change() as (connection, _, now_s):
            record = _team(connection, team_id)
            _check_unused(rows.read_keys(connection, team_id=team_id), f"team {team_id}", now_s)
            users = rows.read_users(connection, team_id=team_id)
            if users:
                raise BadRequest(f"id: user {users[0].id} is in team {team_id}; take every user out first", param="id")
            rows.delete_owner(connection, record)
            rows.delete_budgets(connection, "team", team_id, None)
            _note(connection, "team_deleted", team_id, actor, "", now_s)

    # -- budgets -------------------------------------------------------------------------------------------------

    def list_budgets(self, *, kind: str | None = None, subject: str | None = None) -> list[Budget]:
        """The budgets, or those of a kind or a subject. What the configuration gives everybody is not among them."""
        from securellm.accounts import rows

        with self.transaction() as connection:
            return rows.read_budgets(connection, kind=kind, subject=subject)

    def set_budget(
        self,
        kind: str,
        subject: str,
        *,
        limit_nusd: int | None = None,
        limit_tokens: int | None = None,
        window: str = "month",
        rolling_s: int = MONTH_S,
        actor: str = LOCAL,
    ) -> Budget:
        """Keep a budget in place of whatever there was for the subject and window; what was spent counts on."""
        from securellm.accounts import rows

        identity = budget_id(kind, subject, window)
        budget = checks.check_budget(Budget(identity, kind, subject, limit_nusd, limit_tokens, window, rolling_s))
        with self._change() as (connection, _, now_s):
            _check_subject(connection, kind, subject)
            rows.put_budget(connection, budget)
            told = change.tell(limit_nusd=limit_nusd, limit_tokens=limit_tokens, window=window, rolling_s=rolling_s)
            _note(connection, "budget_set", identity, actor, told, now_s)
        return budget

    def remove_budget(self, kind: str, subject: str, window: str | None = None, *, actor: str = LOCAL) -> int:
        """Take away a subject's budgets, or the one of a window; how many there were. Raises NotFound if none."""
        from securellm.accounts import rows

        with self._change() as (connection, _, now_s):
            count = rows.delete_budgets(connection, kind, subject, window)
            if not count:
                raise NotFound(f"there is no budget of {kind} {subject}" + (f" for a {window}" if window else ""))
            _note(connection, "budget_removed", budget_id(kind, subject, window or "*"), actor, "", now_s)
        return count

    # -- what the audit log is to be told ------------------------------------------------------------------------

    def note_event(self, action: str, subject: str, *, actor: str = LOCAL) -> None:
        """Leave word for the audit log of something that a command does beside the gateway."""
        with self.transaction(write=True, lock=ACCOUNTS_LOCK) as connection:
            _write_event(connection, action, subject, actor, "", int(time.time()))

    def read_events(self, limit: int = 1000) -> list[StoreEvent]:
        """The oldest events that nobody is telling. They are the caller's, who forgets them within `TOLD_WITHIN_S`."""
        from securellm.accounts import rows

        now_s = int(time.time())
        with self.transaction() as connection:
            if not rows.has_events(connection, now_s):
                return []
        with self.transaction(write=True, lock=ACCOUNTS_LOCK) as connection:
            return rows.take_events(connection, now_s, now_s + TOLD_WITHIN_S, limit)

    def give_back_events(self, event_ids: list[int]) -> None:
        """The audit log does not take these events now; whoever comes next may tell them."""
        from securellm.accounts import rows

        with self.transaction(write=True, lock=ACCOUNTS_LOCK) as connection:
            rows.give_back_events(connection, event_ids)

    def forget_events(self, event_ids: list[int]) -> None:
        """The audit log has these events."""
        from securellm.accounts import rows

        with self.transaction(write=True, lock=ACCOUNTS_LOCK) as connection:
            rows.forget_events(connection, event_ids)

    # -- models --------------------------------------------------------------------------------------------------

    def save_models(self, provider: str, models: list[StoredModel]) -> None:
        """Replace what is known of a provider's models."""
        from securellm.accounts import rows

        with self.transaction(write=True, lock=ACCOUNTS_LOCK) as connection:
            rows.save_models(connection, provider, models, int(time.time()))

    def read_models(self) -> list[StoredModel]:
        """Every model that was saved."""
        from securellm.accounts import rows

        with self.transaction() as connection:
            return rows.read_models(connection)

    @contextmanager
    def _change(self) -> "Iterator[tuple[Connection, bytes, int]]":
        """A transaction of changes, the pepper, and now; whatever raises in it changes nothing."""
        with self._opening.transaction(write=True, lock=ACCOUNTS_LOCK) as (connection, pepper):
            yield connection, pepper, int(time.time())


def _note(connection: "Connection", action: str, subject: str, actor: str, changed: str, now_s: int) -> None:
    """The accounts are another generation, and the audit log is to be told why."""
    from securellm.accounts import rows

    rows.move_generation(connection)
    _write_event(connection, action, subject, actor, changed, now_s)


def _write_event(connection: "Connection", action: str, subject: str, actor: str, changed: str, now_s: int) -> None:
    from securellm.accounts import rows

    rows.note_event(connection, StoreEvent(0, now_s, action, subject, actor, changed))


def _key(connection: "Connection", key_id: str) -> KeyRecord:
    from securellm.accounts import rows

    found = rows.read_keys(connection, key_id=key_id)
    if not found:
        raise NotFound("there is no key with that id", param="id")
    return found[0]


def _user(connection: "Connection", user_id: str, param: str = "id") -> UserRecord:
    from securellm.accounts import rows

    found = rows.read_users(connection, user_id=user_id)
    if not found:
        raise NotFound(f"there is no user {user_id}", param=param)
    return found[0]


def _team(connection: "Connection", team_id: str, param: str = "id") -> TeamRecord:
    from securellm.accounts import rows

    found = rows.read_teams(connection, team_id=team_id)
    if not found:
        raise NotFound(f"there is no team {team_id}", param=param)
    return found[0]


def _check_owners(connection: "Connection", user_id: str | None, team_id: str | None) -> None:
    """See that whatever something is to belong to is there. Raises BadRequest."""
    try:
        if user_id is not None:
            _user(connection, user_id)
        if team_id is not None:
            _team(connection, team_id)
    except NotFound as error:
        param = "team_id" if "team" in error.message else "user_id"
        raise BadRequest(f"{param}: {error.message}; create it first", param=param) from None


def _check_unused(keys: list[KeyRecord], whose: str, now_s: int) -> None:
    active = [record for record in keys if record.state(now_s) == "active"]
    if active:
        raise BadRequest(f"id: {whose} has active keys ({active[0].id} …); revoke them or disable {whose}", param="id")


def _check_subject(connection: "Connection", kind: str, subject: str) -> None:
    """See that there is whatever a budget is for. Raises NotFound."""
    if kind == "user":
        _user(connection, subject, "subject")
    elif kind == "team":
        _team(connection, subject, "subject")
    elif subject != ANONYMOUS and not _CONFIG_KEY.fullmatch(subject):
        _key(connection, subject)


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

    A revoked or expired key counts: whoever took the last key away did not ask for another. Raises StoreUnavailable
    about a file; a server may be there later, and a start does not wait for it.
    """
    if not config.security.require_auth or config.security.api_keys:
        return None
    store = Store(config)
    try:
        minted = store.create_key("first key", "admin", only_first=True)
    except StoreUnavailable as error:
        if config.database.server is None:
            raise
        _log.warning("no first key was looked for: %s", error.message)
        return None
    finally:
        store.close()
    return minted.text if minted else None
