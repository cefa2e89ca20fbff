"""`/api/admin/keys`: make, list, change, rotate and revoke the keys of callers."""

import time
from typing import Any

import msgspec

from securellm.accounts.keys import KeyRecord, MintedKey
from securellm.accounts.records import KeyChanges
from securellm.accounts.store import Store
from securellm.chat import EVERYTHING, Grants
from securellm.config.tree import Rates
from securellm.errors import StoreUnavailable
from securellm.web.administration import schemas
from securellm.web.administration.asking import Asking, endpoint

HIDDEN = ("digest", "previous_digest")


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be made."""

    name: str = ""
    role: str = "user"
    expires_at_s: int | None = None
    user_id: str | None = None
    team_id: str | None = None
    grants: Grants = EVERYTHING
    rates: Rates | None = None


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a key is rotated."""

    overlap_s: int = 3600  # for which the old secret stays good


async def list_keys(asking: Asking) -> dict[str, Any]:
    """All keys, or those of a user or a team."""
    wanted = asking.query("user_id", "team_id")
    records = await asking.read(
        lambda store: store.list_keys(user_id=wanted.get("user_id"), team_id=wanted.get("team_id"))
    )
    return {"keys": [_shown(record) for record in records]}


async def create_key(asking: Asking) -> dict[str, Any]:
    """Make a key; its text is in this answer and nowhere else."""
    new = await asking.body(NewKey)

    def create(store: Store) -> tuple[MintedKey, KeyRecord]:
        minted = store.create_key(**msgspec.structs.asdict(new), actor=asking.actor)
        if minted is None:
            raise StoreUnavailable("the key was not made")
        return minted, store.find_key(minted.id)

    minted, record = await asking.change(create)
    return {"key": minted.text, **_shown(record)}


async def show_key(asking: Asking, key_id: str) -> dict[str, Any]:
    """One key."""
    return _shown(await asking.read(lambda store: store.find_key(key_id)))


async def change_key(asking: Asking, key_id: str) -> dict[str, Any]:
    """Change what is given; grants and rates as a whole."""
    changes = await asking.body(KeyChanges)
    return _shown(await asking.change(lambda store: store.update_key(key_id, changes, actor=asking.actor)))


async def revoke_key(asking: Asking, key_id: str) -> dict[str, Any]:
    """Revoke it, for good; once more changes nothing."""

    def revoke(store: Store) -> KeyRecord:
        store.revoke_key(key_id, actor=asking.actor)
        return store.find_key(key_id)

    return _shown(await asking.change(revoke))


async def rotate_key(asking: Asking, key_id: str) -> dict[str, Any]:
    """Give it a new secret, which is in this answer and nowhere else."""
    rotation = await asking.body(Rotation)

    def rotate(store: Store) -> tuple[MintedKey, KeyRecord]:
        minted = store.rotate_key(key_id, overlap_s=rotation.overlap_s, actor=asking.actor)
        return minted, store.find_key(key_id)

    minted, record = await asking.change(rotate)
    return {"key": minted.text, **_shown(record)}


def _shown(record: KeyRecord) -> dict[str, Any]:
    facts = {name: value for name, value in msgspec.structs.asdict(record).items() if name not in HIDDEN}
    return {**facts, "state": record.state(time.time())}


ROUTES = (
    endpoint("GET", "/keys", list_keys, "List the keys", schemas.KEYS),
    endpoint("POST", "/keys", create_key, "Make a key", schemas.MADE_KEY, schema=schemas.NEW_KEY, status=201),
    endpoint("GET", "/keys/<key_id>", show_key, "Show a key", schemas.KEY),
    endpoint("PATCH", "/keys/<key_id>", change_key, "Change a key", schemas.KEY, schema=schemas.KEY_CHANGES),
    endpoint("DELETE", "/keys/<key_id>", revoke_key, "Revoke a key", schemas.KEY),
    endpoint("POST", "/keys/<key_id>/rotate", rotate_key, "Rotate a key", schemas.MADE_KEY, schema=schemas.ROTATION),
)
