"""What the store keeps of users, teams and budgets, what may be changed, and the table of all of it. Pure."""

import msgspec
from msgspec import UNSET, UnsetType

from securellm.accounts.bounds import Budget
from securellm.accounts.keys import KeyRecord
from securellm.chat import Grants
from securellm.config.tree import Rates


class UserRecord(msgspec.Struct, frozen=True):
    """A person or a program that keys belong to. Times are Unix seconds; None: not disabled."""

    id: str
    name: str
    created_at_s: int
    team_id: str | None = None
    disabled_at_s: int | None = None
    rates: Rates | None = None  # of its own; None: as the configuration says


class TeamRecord(msgspec.Struct, frozen=True):
    """What users and keys belong to. Times are Unix seconds; None: not disabled."""

    id: str
    name: str
    created_at_s: int
    disabled_at_s: int | None = None
    rates: Rates | None = None


class KeyChanges(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be changed of a key; what is UNSET stays."""

    name: str | UnsetType = UNSET
    role: str | UnsetType = UNSET
    expires_at_s: int | UnsetType | None = UNSET
    user_id: str | UnsetType | None = UNSET
    team_id: str | UnsetType | None = UNSET
    grants: Grants | UnsetType = UNSET
    rates: Rates | UnsetType | None = UNSET


class UserChanges(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be changed of a user; what is UNSET stays."""

    name: str | UnsetType = UNSET
    team_id: str | UnsetType | None = UNSET
    disabled: bool | UnsetType = UNSET
    rates: Rates | UnsetType | None = UNSET


class TeamChanges(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be changed of a team; what is UNSET stays."""

    name: str | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET
    rates: Rates | UnsetType | None = UNSET


class KeyTable(msgspec.Struct, frozen=True):
    """Everything at one generation, and the pepper that the keys' digests were made with."""

    generation: int
    records: tuple[KeyRecord, ...]
    pepper: bytes
    users: tuple[UserRecord, ...] = ()
    teams: tuple[TeamRecord, ...] = ()
    budgets: tuple[Budget, ...] = ()

    def __repr__(self) -> str:
        """How many keys, of which generation."""
        return f"<KeyTable generation {self.generation} {len(self.records)} keys>"


class StoreEvent(msgspec.Struct, frozen=True):
    """Something that was done to the store, by whatever process, and belongs into the audit log."""

    id: int
    at_s: int
    action: str  # key_created, user_disabled, budget_set …
    subject: str  # the id of the key, user, team, budget or request
    actor: str = ""  # who did it: `cli:<login>`, the id of an administrator's key
    changed: str = ""  # what, in words: `role=admin rpm=60`


class StoredModel(msgspec.Struct, frozen=True):
    """One model as a provider listed it."""

    provider: str
    model: str
    context: int | None
    max_output: int | None
    created_s: int
    display_name: str | None
