"""The statements on keys, users, teams, budgets and what is noted of their changes. Everything here blocks.

Each takes the connection of a transaction, so that a change, its place in the generation and its event are one.
"""

from typing import Any

import msgspec
from sqlalchemy import Column, Connection, Table, and_, delete, func, insert, or_, select, update

from securellm.accounts.bounds import Budget, budget_id
from securellm.accounts.database import upsert
from securellm.accounts.keys import KeyRecord
from securellm.accounts.records import StoredModel, StoreEvent, TeamRecord, UserRecord
from securellm.accounts.schema import BUDGETS, EVENTS, GENERATION, KEYS, META, MODELS, PEPPER_MARK, TEAMS, USERS
from securellm.chat import EVERYTHING, Grants
from securellm.config.tree import Rates

RATES = Rates.__struct_fields__
GRANTS = Grants.__struct_fields__

Row = dict[str, Any]
Owner = UserRecord | TeamRecord


def read_generation(connection: Connection) -> int:
    """How often the accounts have changed."""
    return int(connection.execute(select(META.c.value).where(META.c.name == GENERATION)).scalar_one())


def move_generation(connection: Connection) -> None:
    """Something has changed: whoever polls reads everything again."""
    connection.execute(update(META).where(META.c.name == GENERATION).values(value=META.c.value + 1))


def keep_pepper_mark(connection: Connection, mark: int) -> int:
    """The mark of the pepper that the store is used with; the first one is kept."""
    connection.execute(upsert(connection, META).values(name=PEPPER_MARK, value=mark).on_conflict_do_nothing())
    return read_pepper_mark(connection) or mark


def read_pepper_mark(connection: Connection) -> int | None:
    """The mark of the pepper, None of a store that no key was looked for in."""
    return connection.execute(select(META.c.value).where(META.c.name == PEPPER_MARK)).scalar_one_or_none()


def read_keys(
    connection: Connection, *, key_id: str | None = None, user_id: str | None = None, team_id: str | None = None
) -> list[KeyRecord]:
    """The keys for which all that is given holds, oldest first."""
    wanted = select(*_KEY_COLUMNS).order_by(KEYS.c.created_at_s, KEYS.c.id)
    for column, value in ((KEYS.c.id, key_id), (KEYS.c.user_id, user_id), (KEYS.c.team_id, team_id)):
        if value is not None:
            wanted = wanted.where(column == value)
    return [_key(*row) for row in connection.execute(wanted)]


def count_keys(connection: Connection) -> int:
    """How many keys there are, revoked ones and all."""
    return int(connection.execute(select(func.count()).select_from(KEYS)).scalar_one())


def put_key(connection: Connection, record: KeyRecord) -> None:
    """Keep a new key. Raises IntegrityError when its id is taken."""
    connection.execute(insert(KEYS).values(_key_row(record)))


def change_key(connection: Connection, record: KeyRecord) -> None:
    """Keep what a key is now."""
    connection.execute(update(KEYS).where(KEYS.c.id == record.id).values(_key_row(record)))


def delete_key(connection: Connection, key_id: str) -> None:
    """Forget a key."""
    connection.execute(delete(KEYS).where(KEYS.c.id == key_id))


def read_users(connection: Connection, *, user_id: str | None = None, team_id: str | None = None) -> list[UserRecord]:
    """The users for whom all that is given holds, by id."""
    wanted = select(USERS).order_by(USERS.c.id)
    for column, value in ((USERS.c.id, user_id), (USERS.c.team_id, team_id)):
        if value is not None:
            wanted = wanted.where(column == value)
    return [UserRecord(**_with_rates(dict(row._mapping))) for row in connection.execute(wanted)]


def read_teams(connection: Connection, *, team_id: str | None = None) -> list[TeamRecord]:
    """The teams, or the one, by id."""
    wanted = select(TEAMS).order_by(TEAMS.c.id)
    if team_id is not None:
        wanted = wanted.where(TEAMS.c.id == team_id)
    return [TeamRecord(**_with_rates(dict(row._mapping))) for row in connection.execute(wanted)]


def put_owner(connection: Connection, record: Owner) -> None:
    """Keep a user or a team, in place of whatever there was."""
    table = _table_of(record)
    row = _without_rates(msgspec.structs.asdict(record))
    connection.execute(upsert(connection, table).values(row).on_conflict_do_update(index_elements=["id"], set_=row))


def delete_owner(connection: Connection, record: Owner) -> None:
    """Forget a user or a team."""
    table = _table_of(record)
    connection.execute(delete(table).where(table.c.id == record.id))


def read_budgets(connection: Connection, *, kind: str | None = None, subject: str | None = None) -> list[Budget]:
    """The budgets for which all that is given holds."""
    wanted = select(BUDGETS).order_by(BUDGETS.c.kind, BUDGETS.c.subject, BUDGETS.c.window)
    for column, value in ((BUDGETS.c.kind, kind), (BUDGETS.c.subject, subject)):
        if value is not None:
            wanted = wanted.where(column == value)
    return [Budget(budget_id(row.kind, row.subject, row.window), **row._mapping) for row in connection.execute(wanted)]


def put_budget(connection: Connection, budget: Budget) -> None:
    """Keep a budget, in place of whatever there was for its subject and window."""
    row = msgspec.structs.asdict(budget)
    del row["id"]
    keys = ["kind", "subject", "window"]
    connection.execute(upsert(connection, BUDGETS).values(row).on_conflict_do_update(index_elements=keys, set_=row))


def delete_budgets(connection: Connection, kind: str, subject: str, window: str | None) -> int:
    """Forget the budgets of a subject, or the one of a window; how many there were."""
    wanted = and_(BUDGETS.c.kind == kind, BUDGETS.c.subject == subject)
    if window is not None:
        wanted = and_(wanted, BUDGETS.c.window == window)
    return int(connection.execute(delete(BUDGETS).where(wanted)).rowcount)


def note_event(connection: Connection, event: StoreEvent) -> None:
    """Leave word for the audit log; the event's own id is not looked at."""
    row = msgspec.structs.asdict(event)
    del row["id"]
    connection.execute(insert(EVENTS).values(row))


def has_events(connection: Connection, now_s: int) -> bool:
    """Whether there is an event that nobody is telling."""
    return connection.execute(select(EVENTS.c.id).where(_is_free(now_s)).limit(1)).first() is not None


def take_events(connection: Connection, now_s: int, until_s: int, limit: int) -> list[StoreEvent]:
    """The oldest events that nobody is telling; they are the caller's until then."""
    columns = [EVENTS.c[field] for field in StoreEvent.__struct_fields__]
    rows = connection.execute(select(*columns).where(_is_free(now_s)).order_by(EVENTS.c.id).limit(limit)).all()
    events = [StoreEvent(*row) for row in rows]
    if events:
        mine = EVENTS.c.id.in_([one.id for one in events])
        connection.execute(update(EVENTS).where(mine).values(taken_until_s=until_s))
    return events


def give_back_events(connection: Connection, event_ids: list[int]) -> None:
    """Nobody is telling these any more."""
    connection.execute(update(EVENTS).where(EVENTS.c.id.in_(event_ids)).values(taken_until_s=None))


def forget_events(connection: Connection, event_ids: list[int]) -> None:
    """Take events away: the audit log has them."""
    connection.execute(delete(EVENTS).where(EVENTS.c.id.in_(event_ids)))


def save_models(connection: Connection, provider: str, models: list[StoredModel], now_s: int) -> None:
    """Replace what is known of a provider's models."""
    connection.execute(delete(MODELS).where(MODELS.c.provider == provider))
    rows = [{**msgspec.structs.asdict(model), "provider": provider, "seen_at_s": now_s} for model in models]
    if rows:
        connection.execute(insert(MODELS), rows)


def read_models(connection: Connection) -> list[StoredModel]:
    """Every model that was saved, in the order of its provider and id."""
    columns = [MODELS.c[field] for field in StoredModel.__struct_fields__]
    rows = connection.execute(select(*columns).order_by(MODELS.c.provider, MODELS.c.model)).all()
    return [StoredModel(*row) for row in rows]


def _is_free(now_s: int) -> Any:
    taken: Column[int] = EVENTS.c.taken_until_s
    return or_(taken.is_(None), taken < now_s)


def _table_of(record: Owner) -> Table:
    return USERS if isinstance(record, UserRecord) else TEAMS


# In the order in which `_key` takes them: a store may have many keys, and all are read after every change.
_KEY_COLUMNS = [
    KEYS.c[name]
    for name in (
        *(name for name in KeyRecord.__struct_fields__ if name not in ("grants", "rates")),
        *GRANTS,
        *RATES,
    )
]
_OWN_COLUMNS = len(_KEY_COLUMNS) - len(GRANTS) - len(RATES)


def _key(*values: Any) -> KeyRecord:
    key_id, digest, name, role, created_at_s, expires_at_s, revoked_at_s, user_id, team_id = values[:9]
    previous_digest, previous_until_s = values[9:_OWN_COLUMNS]
    texts = values[_OWN_COLUMNS : _OWN_COLUMNS + len(GRANTS)]
    rates = values[_OWN_COLUMNS + len(GRANTS) :]
    return KeyRecord(
        key_id,
        digest,
        name,
        role,
        created_at_s,
        expires_at_s,
        revoked_at_s,
        user_id,
        team_id,
        Grants(*(one if one is None else _decode_texts(one) for one in texts)) if any(texts) else EVERYTHING,
        Rates(*rates) if rates != _NO_RATES else None,
        previous_digest,
        previous_until_s,
    )


_NO_RATES = (None,) * len(RATES)
_decode_texts = msgspec.json.Decoder(tuple[str, ...]).decode


def _key_row(record: KeyRecord) -> Row:
    row = _without_rates(msgspec.structs.asdict(record))
    grants: Grants = row.pop("grants")
    for name in GRANTS:
        granted = getattr(grants, name)
        row[name] = msgspec.json.encode(granted).decode() if granted is not None else None
    return row


def _with_rates(row: Row) -> Row:
    """The row with its rates as one; none at all is None."""
    rates = {name: row.pop(name) for name in RATES}
    row["rates"] = Rates(**rates) if any(value is not None for value in rates.values()) else None
    return row


def _without_rates(row: Row) -> Row:
    rates: Rates | None = row.pop("rates")
    return {**row, **msgspec.structs.asdict(rates or Rates())}
