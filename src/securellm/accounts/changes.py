"""What an account becomes by a change, checked, and how the change is told. Pure."""

from typing import Any

import msgspec
from msgspec import UNSET

from securellm.accounts import checks
from securellm.accounts.keys import KeyRecord
from securellm.accounts.records import KeyChanges, TeamChanges, TeamRecord, UserChanges, UserRecord
from securellm.errors import BadRequest

TOLD_CHARS = 2000  # of a change in the audit log; a longer one is cut

Changes = KeyChanges | UserChanges | TeamChanges


def change_key(record: KeyRecord, changes: KeyChanges) -> KeyRecord:
    """The key with what is not UNSET. Raises BadRequest."""
    if changes.name is not UNSET:
        checks.check_name(changes.name)
    if changes.role is not UNSET:
        checks.check_role(changes.role)
    if changes.expires_at_s is not UNSET:
        checks.check_expiry(changes.expires_at_s)
    given = _given(changes)
    if changes.grants is not UNSET:
        given["grants"] = checks.check_grants(changes.grants)
    if changes.rates is not UNSET:
        given["rates"] = checks.check_rates(changes.rates)
    return msgspec.structs.replace(record, **given)


def change_user(record: UserRecord, changes: UserChanges, now_s: int) -> UserRecord:
    """The user with what is not UNSET. Raises BadRequest."""
    return msgspec.structs.replace(record, **_owner(record, changes, now_s))


def change_team(record: TeamRecord, changes: TeamChanges, now_s: int) -> TeamRecord:
    """The team with what is not UNSET. Raises BadRequest."""
    return msgspec.structs.replace(record, **_owner(record, changes, now_s))


def tell(**facts: str | int | None) -> str:
    """Facts as JSON for the audit log, without those that are None."""
    return msgspec.json.encode({name: fact for name, fact in facts.items() if fact is not None}).decode()


def tell_changes(changes: Changes) -> str:
    """What was asked to be changed, as JSON; what is too long is cut."""
    text = msgspec.json.encode(changes).decode()
    return text if len(text) <= TOLD_CHARS else f"{text[:TOLD_CHARS]}…"


def verb_of(changes: UserChanges | TeamChanges) -> str:
    """`disabled` or `enabled` when that is what is changed, else `updated`."""
    if changes.disabled is UNSET:
        return "updated"
    return "disabled" if changes.disabled else "enabled"


def _owner(record: UserRecord | TeamRecord, changes: UserChanges | TeamChanges, now_s: int) -> dict[str, Any]:
    given = _given(changes)
    disabled = given.pop("disabled", UNSET)
    if changes.name is not UNSET:
        checks.check_name(changes.name)
    if changes.rates is not UNSET:
        given["rates"] = checks.check_rates(changes.rates)
    if disabled is not UNSET:
        given["disabled_at_s"] = (record.disabled_at_s or now_s) if disabled else None
    return given


def _given(changes: Changes) -> dict[str, Any]:
    given = {name: value for name, value in msgspec.structs.asdict(changes).items() if value is not UNSET}
    if not given:
        known = ", ".join(changes.__struct_fields__)
        raise BadRequest(f"nothing to change; expected some of {known}")
    return given
