"""The statements on the index of the audit log: rows in, rows out. Everything here blocks; call it from a thread.

Rows and the place up to which they go are written in one transaction, which begins with a look at the place: whoever
comes second writes nothing, so that a row is there exactly once however many processes fill the index.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select

from securellm.accounts.database import INDEX_LOCK, Database, upsert
from securellm.accounts.schema import AUDIT_LOGS, AUDIT_POSITIONS

COLUMNS: tuple[str, ...] = tuple(column.name for column in AUDIT_LOGS.columns if column.name != "node")
DELETED_AT_ONCE = 5_000  # rows; other writers of the store wait for less than a tenth of a second

Row = dict[str, Any]
Values = tuple[Any, ...]  # of a row, in the order of COLUMNS


class Position(msgspec.Struct, frozen=True):
    """How far a slot of a node is indexed: up to `offset` of `file`, whose last line begins at `line_offset`."""

    node: str
    slot: int
    file: str
    offset: int
    line_offset: int
    line_hash: str


def read_positions(database: Database, node: str) -> dict[int, Position]:
    """How far each slot of a node is indexed. Raises StoreUnavailable."""
    mine = select(AUDIT_POSITIONS).where(AUDIT_POSITIONS.c.node == node)
    with database.transaction() as connection:
        return {row.slot: Position(**row._mapping) for row in connection.execute(mine)}


def add_rows(database: Database, rows: list[Values], before: Position | None, after: Position) -> bool:
    """Add the rows between two places; False, and nothing is done, when the slot is no longer at `before`.

    Raises StoreUnavailable.
    """
    with database.transaction(write=True, lock=INDEX_LOCK) as connection:
        if _position(connection, after.node, after.slot) != before:
            return False
        if rows:
            # A damaged log may have a sequence number twice; the first counts.
            # The statement is compiled here and the values go to the driver as they are: SQLAlchemy's own way with
            # many rows takes as long again as the store (measured: 110 to 45 µs a row), and a gateway runs beside it.
            compiled = upsert(connection, AUDIT_LOGS).on_conflict_do_nothing().compile(connection.engine)
            if compiled.positional:
                connection.exec_driver_sql(str(compiled), [(after.node, *row) for row in rows])
            else:
                connection.exec_driver_sql(str(compiled), [_fitting(after.node, row) for row in rows])
        _put(connection, after)
    return True


def move_back(database: Database, before: Position, after: Position | None, from_seq: int) -> None:
    """Forget a slot's rows from a sequence number on, and where it was. Raises StoreUnavailable."""
    while _delete(database, before.node, before.slot, from_seq, None):
        pass
    with database.transaction(write=True, lock=INDEX_LOCK) as connection:
        if _position(connection, before.node, before.slot) != before:
            return
        connection.execute(delete(AUDIT_LOGS).where(_rows_of(before.node, before.slot, from_seq)))
        connection.execute(delete(AUDIT_POSITIONS).where(_place_of(before.node, before.slot)))
        if after is not None:
            connection.execute(insert(AUDIT_POSITIONS).values(msgspec.structs.asdict(after)))


def delete_before(database: Database, node: str, slot: int, seq: int) -> int:
    """Forget some of a slot's rows before a sequence number; how many, 0 at the end. Raises StoreUnavailable."""
    return _delete(database, node, slot, 0, seq)


def find_rows(
    database: Database,
    *,
    equal: Mapping[str, str],
    among: Mapping[str, frozenset[str]],
    since: str | None,
    until: str | None,
    limit: int,
) -> list[Row]:
    """The newest rows of every node for which everything holds, oldest first. Raises StoreUnavailable."""
    columns = AUDIT_LOGS.c
    newest = (columns.timestamp.desc(), columns.node.desc(), columns.slot.desc(), columns.seq.desc())
    wanted = select(*(columns[name] for name in COLUMNS)).order_by(*newest).limit(limit)
    for name, value in equal.items():
        wanted = wanted.where(columns[name] == value)
    for name, values in among.items():
        wanted = wanted.where(columns[name].in_(sorted(values)))
    if since is not None:
        wanted = wanted.where(columns.timestamp >= since)
    if until is not None:
        wanted = wanted.where(columns.timestamp < until)
    with database.transaction() as connection:
        rows = connection.execute(wanted).all()
    return [dict(row._mapping) for row in reversed(rows)]


def count_rows(database: Database, node: str) -> int:
    """How many records of a node are indexed. Raises StoreUnavailable."""
    mine = select(func.count()).select_from(AUDIT_LOGS).where(AUDIT_LOGS.c.node == node)
    with database.transaction() as connection:
        return int(connection.execute(mine).scalar_one())


def _rows_of(node: str, slot: int, from_seq: int) -> ColumnElement[bool]:
    return and_(AUDIT_LOGS.c.node == node, AUDIT_LOGS.c.slot == slot, AUDIT_LOGS.c.seq >= from_seq)


def _place_of(node: str, slot: int) -> ColumnElement[bool]:
    return and_(AUDIT_POSITIONS.c.node == node, AUDIT_POSITIONS.c.slot == slot)


def _position(connection: Connection, node: str, slot: int) -> Position | None:
    row = connection.execute(select(AUDIT_POSITIONS).where(_place_of(node, slot))).first()
    return Position(**row._mapping) if row is not None else None


def _put(connection: Connection, position: Position) -> None:
    fields = msgspec.structs.asdict(position)
    statement = upsert(connection, AUDIT_POSITIONS).values(fields)
    connection.execute(statement.on_conflict_do_update(index_elements=["node", "slot"], set_=fields))


def _fitting(node: str, row: Values) -> Row:
    """A row for PostgreSQL, which takes no NUL in a text, keeps to the length of a column, and has no booleans here."""
    fitting: Row = {"node": node}
    for name, value in zip(COLUMNS, row, strict=True):
        if isinstance(value, str):
            value = value.replace("\0", "\ufffd")[: _LONGEST[name]]
        elif isinstance(value, bool):
            value = int(value)
        fitting[name] = value
    return fitting


_LONGEST: dict[str, int | None] = {column.name: getattr(column.type, "length", None) for column in AUDIT_LOGS.columns}


def _delete(database: Database, node: str, slot: int, from_seq: int, to_seq: int | None) -> int:
    columns = AUDIT_LOGS.c
    mine = _rows_of(node, slot, from_seq)
    if to_seq is not None:
        mine = and_(mine, columns.seq < to_seq)
    with database.transaction(write=True, lock=INDEX_LOCK) as connection:
        first = connection.execute(select(func.min(columns.seq)).where(mine)).scalar()
        if first is None:
            return 0
        few = and_(mine, columns.seq < first + DELETED_AT_ONCE)
        return int(connection.execute(delete(AUDIT_LOGS).where(few)).rowcount)
