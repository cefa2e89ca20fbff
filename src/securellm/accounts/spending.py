"""What was spent of the budgets and what is leased of them: the store's statements. Everything here blocks.

An exchange is one transaction: it locks the budgets it is about, reads all their rows, lets `leases.decide` decide, and
writes that down; a batch takes as many statements as one budget. In a file the lock is the whole store's (BEGIN
IMMEDIATE); on PostgreSQL each budget has an advisory lock, taken in ascending order, so that exchanges about other
budgets do not wait. Durable before it is answered: a grant that a crash could undo would be spent twice.
"""

import threading
import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from securellm.accounts.bounds import Budget
from securellm.accounts.leases import Answer, Batch, Decision, LeaseRow, Spending, SpentRow, decide, spending_of
from securellm.accounts.opening import Opening
from securellm.accounts.windows import DAY_S, Window, window_of
from securellm.config.tree import Config

if TYPE_CHECKING:
    from sqlalchemy import Connection

LOCK_SPACE = 0x534C4232  # "SLB2": advisory locks of budgets; those of the accounts are in another space
# How long it may be silent before requests are refused. A server that is there answers in a few milliseconds; a file
# is on a disk that may be busy, and the audit log waits for that disk as well.
SERVER_PATIENCE_S = 0.05
FILE_PATIENCE_S = 2.0
KEPT_S = 400 * DAY_S  # for which what was spent in days and months is kept, to look at
KEPT_BUCKETS_S = 2  # times the rolling window, for its buckets
PRUNE_EVERY = 1000  # exchanges
CLOSE_TIMEOUT_S = 1.0


class SpendingDatabase:
    """A SpendingStore in the store of the accounts. Usable from any thread, one call at a time."""

    def __init__(self, config: Config) -> None:
        self._opening = Opening(config)
        self._rolling_s = int(config.budgets.rolling_s)
        self.patience_s = FILE_PATIENCE_S if config.database.server is None else SERVER_PATIENCE_S
        self._exchanges = 0
        self._in_use = threading.Lock()

    def __repr__(self) -> str:
        return f"<SpendingDatabase {self._opening!r}>"

    def close(self) -> None:
        """Close it; the next use opens it again. What hangs in a thread is left to itself."""
        if self._in_use.acquire(timeout=CLOSE_TIMEOUT_S):
            try:
                self._opening.close()
            finally:
                self._in_use.release()

    def exchange(self, batch: Batch, now_s: int) -> Answer:
        """Decide about a batch in one durable transaction. Raises StoreUnavailable."""
        ids = sorted({order.budget.id for order in batch.orders} | {charge.budget.id for charge in batch.charges})
        since_s = _since_s([(order.budget, order.window) for order in batch.orders], now_s)
        with self._in_use, self._opening.transaction(write=True) as (connection, _):
            _lock(connection, ids)
            decision = decide(batch, _read_spent(connection, ids, since_s), _read_leases(connection, ids), now_s)
            _write(connection, decision)
            if self._exchanges % PRUNE_EVERY == 0:
                _prune(connection, now_s, self._rolling_s)
        self._exchanges += 1
        return decision.answer

    def read(self, budgets: Sequence[Budget], now_s: int) -> list[Spending]:
        """The figures of some budgets. Raises StoreUnavailable."""
        with self._in_use, self._opening.transaction() as (connection, _):
            return read_spending(connection, budgets, now_s)


def read_spending(connection: "Connection", budgets: Sequence[Budget], now_s: int) -> list[Spending]:
    """The figures of some budgets, in a transaction of the store."""
    ids = sorted({budget.id for budget in budgets})
    since_s = _since_s([(budget, window_of(budget, now_s)) for budget in budgets], now_s)
    spent, leases = _read_spent(connection, ids, since_s), _read_leases(connection, ids)
    return [spending_of(budget, spent, leases, now_s) for budget in budgets]


def _since_s(windows: Iterable[tuple[Budget, Window]], now_s: int) -> int:
    """What ended before counts in none of the windows."""
    starts_s = (
        now_s - budget.rolling_s if budget.window == "rolling" else window.start_s for budget, window in windows
    )
    return min(starts_s, default=now_s)


def _lock(connection: "Connection", ids: Sequence[str]) -> None:
    """Wait for whoever is about one of these budgets; in a file the transaction has waited for everybody."""
    from sqlalchemy import text

    if connection.dialect.name == "postgresql":
        statement = text("SELECT pg_advisory_xact_lock(:space, number) FROM unnest(CAST(:numbers AS int[])) AS number")
        numbers = sorted({zlib.crc32(name.encode()) & 0x7FFFFFFF for name in ids})
        connection.execute(statement, {"space": LOCK_SPACE, "numbers": numbers})


def _read_spent(connection: "Connection", ids: Sequence[str], since_s: int) -> list[SpentRow]:
    from sqlalchemy import select

    from securellm.accounts.schema import BUDGET_SPENT

    table = BUDGET_SPENT.c
    columns = table.budget_id, table.start_s, table.end_s, table.nusd, table.tokens
    found = select(*columns).where(table.budget_id.in_(ids), table.end_s > since_s)
    return [SpentRow(row[0], Window(row[1], row[2]), row[3], row[4]) for row in connection.execute(found)]


def _read_leases(connection: "Connection", ids: Sequence[str]) -> list[LeaseRow]:
    from sqlalchemy import select

    from securellm.accounts.schema import BUDGET_LEASES

    found = select(BUDGET_LEASES).where(BUDGET_LEASES.c.budget_id.in_(ids))
    return [LeaseRow(row[0], Window(row[1], row[2]), *row[3:]) for row in connection.execute(found)]


def _write(connection: "Connection", decision: Decision) -> None:
    from sqlalchemy import bindparam, delete

    from securellm.accounts.database import upsert
    from securellm.accounts.schema import BUDGET_LEASES, BUDGET_SPENT

    if decision.spent:
        adding = upsert(connection, BUDGET_SPENT)
        adding = adding.on_conflict_do_update(
            index_elements=["budget_id", "start_s", "end_s"],
            set_={name: BUDGET_SPENT.c[name] + adding.excluded[name] for name in ("nusd", "tokens")},
        )
        rows = [
            {"budget_id": name, "start_s": bucket.start_s, "end_s": bucket.end_s, "nusd": nusd, "tokens": tokens}
            for (name, bucket), (nusd, tokens) in decision.spent.items()
        ]
        connection.execute(adding, rows)
    if decision.leases:
        putting = upsert(connection, BUDGET_LEASES)
        changed = ("number", "settled_nusd", "settled_tokens", "nusd", "tokens", "expires_at_s")
        putting = putting.on_conflict_do_update(
            index_elements=["budget_id", "start_s", "end_s", "owner"],
            set_={name: putting.excluded[name] for name in changed},
        )
        connection.execute(putting, [_lease_columns(lease) for lease in decision.leases])
    if decision.gone:
        table = BUDGET_LEASES.c
        one = (
            (table.budget_id == bindparam("of_budget"))
            & (table.start_s == bindparam("of_start"))
            & (table.end_s == bindparam("of_end"))
            & (table.owner == bindparam("of_owner"))
        )
        keys = [
            {"of_budget": name, "of_start": window.start_s, "of_end": window.end_s, "of_owner": owner}
            for name, window, owner in decision.gone
        ]
        connection.execute(delete(BUDGET_LEASES).where(one), keys)


def _lease_columns(lease: LeaseRow) -> dict[str, object]:
    columns = lease._asdict()
    columns["start_s"], columns["end_s"] = columns.pop("window")
    return columns


def _prune(connection: "Connection", now_s: int, rolling_s: int) -> None:
    """Let go of what counts no more: buckets of rolling windows soon, days and months after more than a year."""
    from sqlalchemy import delete

    from securellm.accounts.schema import BUDGET_SPENT

    table = BUDGET_SPENT.c
    connection.execute(delete(BUDGET_SPENT).where(table.end_s <= now_s - KEPT_S))
    old = (table.end_s <= now_s - KEPT_BUCKETS_S * rolling_s) & table.budget_id.like("%:rolling")
    connection.execute(delete(BUDGET_SPENT).where(old))
