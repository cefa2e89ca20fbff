"""The accounts as requests want them: who each key is, made ready once for every change. Pure.

Nothing here is computed for a request: the caller of a key, its own rates and its budgets are looked up.
"""

from collections.abc import Iterable, Mapping

import msgspec

from securellm.accounts.bounds import NO_OWN_RATES, Budget, OwnRates, default_budget, subjects_of
from securellm.accounts.keys import KeyRecord
from securellm.accounts.records import KeyTable, TeamRecord, UserRecord
from securellm.chat import Caller, KeyId
from securellm.config.tree import Budgets, Rates

NEVER_S = float("inf")


class Entry(msgspec.Struct, frozen=True):
    """A key that is in force, unless its time is up. The digest before is None but for a key that was rotated."""

    digest: bytes
    caller: Caller
    until_s: float
    previous_digest: bytes | None
    previous_until_s: float


class View:
    """One generation of the accounts under one configuration. Never changes but for what it remembers."""

    def __init__(self, table: KeyTable | None, settings: Budgets) -> None:
        users = {user.id: user for user in table.users} if table else {}
        teams = {team.id: team for team in table.teams} if table else {}
        self.entries: dict[KeyId, Entry] = {}
        self.revoked: set[KeyId] = set()  # for good
        self._rates: dict[KeyId | None, OwnRates] = {}
        for record in table.records if table else ():
            if record.revoked_at_s is not None:
                self.revoked.add(record.id)
                continue
            caller = _caller(record, users)
            if _is_off(caller, users, teams):
                continue
            self.entries[record.id] = Entry(
                record.digest,
                caller,
                NEVER_S if record.expires_at_s is None else record.expires_at_s,
                record.previous_digest,
                record.previous_until_s or 0,
            )
            rates = OwnRates(record.rates, _rates(users, caller.user_id), _rates(teams, caller.team_id))
            if rates != NO_OWN_RATES:
                self._rates[record.id] = rates
        self._own = _by_subject(table.budgets if table else ())
        self._settings = settings
        self._budgets: dict[KeyId | None, tuple[Caller, tuple[Budget, ...]]] = {}

    def rates(self, caller: Caller) -> OwnRates:
        """What the store says of the caller's rates."""
        return self._rates.get(caller.key_id, NO_OWN_RATES)

    def budgets(self, caller: Caller) -> tuple[Budget, ...]:
        """What bounds the caller's spending; a subject without a budget in the store has the configuration's."""
        known = self._budgets.get(caller.key_id)
        if known is None or not (known[0] is caller or known[0] == caller):  # who was told apart before a change
            known = self._budgets[caller.key_id] = caller, tuple(self._find_budgets(caller))
        return known[1]

    def active(self, now_s: float) -> set[KeyId]:
        """The keys that are in force."""
        return {key_id for key_id, entry in self.entries.items() if now_s < entry.until_s}

    def next_end_s(self, now_s: float) -> float:
        """When the next key expires, in Unix seconds; infinity when none does."""
        return min((entry.until_s for entry in self.entries.values() if entry.until_s > now_s), default=NEVER_S)

    def _find_budgets(self, caller: Caller) -> Iterable[Budget]:
        for kind, subject in subjects_of(caller):
            own = self._own.get((kind, subject))
            if own:
                yield from own
            elif (default := default_budget(self._settings, kind, subject)) is not None:
                yield default


def _caller(record: KeyRecord, users: dict[str, UserRecord]) -> Caller:
    """A key without a team of its own belongs to its user's."""
    user = users.get(record.user_id) if record.user_id is not None else None
    team_id = record.team_id or (user.team_id if user is not None else None)
    return Caller(record.id, record.user_id, record.name, record.role, team_id, record.grants)


def _is_off(caller: Caller, users: dict[str, UserRecord], teams: dict[str, TeamRecord]) -> bool:
    """Whether its user or team is disabled, or not there: what cannot be told is refused."""
    owners: list[UserRecord | TeamRecord | None] = []
    team_ids = {caller.team_id}
    if caller.user_id is not None:
        user = users.get(caller.user_id)
        owners.append(user)
        team_ids.add(user.team_id if user is not None else None)
    owners += [teams.get(team_id) for team_id in team_ids if team_id is not None]
    return any(owner is None or owner.disabled_at_s is not None for owner in owners)


def _rates(owners: Mapping[str, UserRecord] | Mapping[str, TeamRecord], owner_id: str | None) -> Rates | None:
    return owners[owner_id].rates if owner_id is not None else None


def _by_subject(budgets: Iterable[Budget]) -> dict[tuple[str, str], list[Budget]]:
    own: dict[tuple[str, str], list[Budget]] = {}
    for budget in budgets:
        own.setdefault((budget.kind, budget.subject), []).append(budget)
    return own
