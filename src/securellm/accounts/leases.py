"""Leases on budgets: what a process may spend without asking again, and how the store decides about them. Pure.

The store knows, for each window of a budget, what was spent and what is leased to whom; the two never add up to more
than the limit. A process tells it now and then, in one exchange: how much it has settled in all (a running total, so
that saying it twice adds it once), how much it still holds, and what it wants. What it holds is an absolute figure: an
exchange whose outcome nobody learned is put right by the next one. An exchange that comes too late, after a newer one,
is known by its number and changes nothing.

A lease that nobody renewed in time is ended by whoever comes next, and all of it is charged: its owner may have spent
it. If the owner lives it goes on spending what is paid for already, learns of it, and takes a new lease.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from securellm.accounts.bounds import Budget
from securellm.accounts.windows import Window, bucket_of, counts, window_of

# A lease ahead of need is at most this part of what is left, and there is none where less than so many of the largest
# recent needs are left: then every process has what its requests need, and nothing lies idle with the wrong one.
AHEAD_PART = 64


class Order(msgspec.Struct, frozen=True):
    """What a process says of its lease on one window of a budget. Amounts are nano-USD and tokens."""

    budget: Budget
    window: Window
    number: int  # of this exchange about this lease, ascending
    known: bool  # the store has told us that the lease is there
    settled_nusd: int  # in all, since the lease is there
    settled_tokens: int
    held_nusd: int  # what stays leased, before anything new
    held_tokens: int
    ahead_nusd: int = 0  # wanted ahead of need; below 0, more is free than is wanted
    ahead_tokens: int = 0
    largest_nusd: int = 0  # of the recent needs
    largest_tokens: int = 0


class Want(NamedTuple):
    """What one waiting request lacks: (number of the order, nano-USD, tokens) each, all or nothing."""

    parts: tuple[tuple[int, int, int], ...]


class Charge(NamedTuple):
    """Spending that no lease covers: it is added to what was spent, whatever the limit."""

    budget: Budget
    window: Window
    nusd: int
    tokens: int


class Batch(msgspec.Struct, frozen=True):
    """One exchange with the store."""

    owner: str
    expires_at_s: int  # of every lease in it
    orders: Sequence[Order]
    wants: Sequence[Want] = ()
    charges: Sequence[Charge] = ()


class Leased(NamedTuple):
    """What became of an order."""

    there: bool  # False: the lease was ended as charged, by somebody else; nothing was granted
    ahead_nusd: int = 0
    ahead_tokens: int = 0
    most_nusd: int = 0  # what may be held ahead of need, as much as is left now
    most_tokens: int = 0


GRANTED = -1
ANEW = -2  # the lease that the want goes with was ended: ask again with a new one


class Answer(NamedTuple):
    """What became of the orders, and of the wants: GRANTED, ANEW, or the number of the order that had not enough."""

    leases: list[Leased]
    wants: list[int]


class SpentRow(NamedTuple):
    """What was spent in one bucket."""

    budget_id: str
    bucket: Window
    nusd: int
    tokens: int


class LeaseRow(NamedTuple):
    """One lease as the store keeps it. Its key is the budget, the window and the owner."""

    budget_id: str
    window: Window
    owner: str
    number: int
    settled_nusd: int
    settled_tokens: int
    nusd: int
    tokens: int
    expires_at_s: int

    @property
    def key(self) -> tuple[str, Window, str]:
        """What there is one of."""
        return self.budget_id, self.window, self.owner


class Decision(NamedTuple):
    """The answer, and what is to be written in the same transaction."""

    answer: Answer
    spent: dict[tuple[str, Window], tuple[int, int]]  # to be added
    leases: list[LeaseRow]  # to be put in place of what was there
    gone: list[tuple[str, Window, str]]  # leases to be deleted


class Spending(msgspec.Struct, frozen=True):
    """A budget as an operator sees it. `reserved` is what is leased: reserved by requests, or about to be."""

    budget: Budget
    window: Window  # a rolling one is the time that counts now
    spent_nusd: int
    spent_tokens: int
    reserved_nusd: int
    reserved_tokens: int

    @property
    def left_nusd(self) -> int | None:
        """What may still be reserved; None without a limit, never below 0."""
        limit = self.budget.limit_nusd
        return None if limit is None else max(limit - self.spent_nusd - self.reserved_nusd, 0)

    @property
    def left_tokens(self) -> int | None:
        """What may still be reserved; None without a limit, never below 0."""
        limit = self.budget.limit_tokens
        return None if limit is None else max(limit - self.spent_tokens - self.reserved_tokens, 0)


def decide(batch: Batch, spent: Sequence[SpentRow], leases: Sequence[LeaseRow], now_s: int) -> Decision:
    """Answer a batch. `spent` and `leases` are all rows of its budgets, read and locked in this transaction."""
    return _Deciding(batch, spent, leases, now_s).decide()


def spending_of(budget: Budget, spent: Sequence[SpentRow], leases: Sequence[LeaseRow], now_s: int) -> Spending:
    """A budget's figures, of the rows of its store."""
    window = window_of(budget, now_s)
    rows = [row for row in spent if row.budget_id == budget.id]
    held = []
    for lease in leases:
        if lease.budget_id == budget.id and lease.window == window:
            if lease.expires_at_s > now_s:
                held.append(lease)
            else:  # whoever comes next will charge it
                bucket = bucket_of(budget, window, lease.expires_at_s)
                rows.append(SpentRow(budget.id, bucket, lease.nusd, lease.tokens))
    rows = [row for row in rows if counts(budget, window, row.bucket, now_s)]
    return Spending(
        budget,
        Window(now_s - budget.rolling_s, now_s) if budget.window == "rolling" else window,
        sum(row.nusd for row in rows),
        sum(row.tokens for row in rows),
        sum(lease.nusd for lease in held),
        sum(lease.tokens for lease in held),
    )


class _Left:
    """What is left of one window of a budget while a batch is decided."""

    __slots__ = ("nusd", "tokens")

    def __init__(self, budget: Budget) -> None:
        self.nusd = budget.limit_nusd
        self.tokens = budget.limit_tokens

    def take(self, nusd: int, tokens: int) -> None:
        if self.nusd is not None:
            self.nusd -= nusd
        if self.tokens is not None:
            self.tokens -= tokens

    def has(self, nusd: int, tokens: int) -> bool:
        """Needing nothing is always possible, also where more was spent than there was."""
        return (not nusd or self.nusd is None or nusd <= self.nusd) and (
            not tokens or self.tokens is None or tokens <= self.tokens
        )


class _Deciding:
    """One batch being decided."""

    def __init__(self, batch: Batch, spent: Sequence[SpentRow], leases: Sequence[LeaseRow], now_s: int) -> None:
        self._batch = batch
        self._now_s = now_s
        self._budgets = {order.budget.id: order.budget for order in batch.orders}
        self._budgets |= {charge.budget.id: charge.budget for charge in batch.charges}
        self._rows = spent
        self._leases = {lease.key: lease for lease in leases}
        self._spent: dict[tuple[str, Window], tuple[int, int]] = {}
        self._put: dict[tuple[str, Window, str], LeaseRow] = {}
        self._gone: list[tuple[str, Window, str]] = []

    def decide(self) -> Decision:
        for charge in self._batch.charges:
            self._charge(charge.budget, charge.window, charge.nusd, charge.tokens)
        there = [self._settle(order) for order in self._batch.orders]
        self._end_expired()
        lefts = self._lefts()
        granted = [[0, 0] for _ in self._batch.orders]
        wants = [self._grant(want, there, lefts, granted) for want in self._batch.wants]
        answers = []
        for order, alive, more in zip(self._batch.orders, there, granted, strict=True):
            if not alive:
                answers.append(Leased(there=False))
                continue
            left = lefts[order.budget.id, order.window]
            most_nusd = _most_ahead(left.nusd, order.largest_nusd)
            most_tokens = _most_ahead(left.tokens, order.largest_tokens)
            ahead_nusd = max(min(order.ahead_nusd, most_nusd), 0)
            ahead_tokens = max(min(order.ahead_tokens, most_tokens), 0)
            left.take(ahead_nusd, ahead_tokens)
            self._lease(order, more[0] + ahead_nusd, more[1] + ahead_tokens)
            answers.append(Leased(True, ahead_nusd, ahead_tokens, most_nusd, most_tokens))
        return Decision(Answer(answers, wants), self._spent, list(self._put.values()), self._gone)

    def _settle(self, order: Order) -> bool:
        """Add what was settled since; False when the order goes with no lease any more, or came too late."""
        row = self._leases.get((order.budget.id, order.window, self._batch.owner))
        if row is None:
            if order.known:
                return False
            settled_nusd, settled_tokens = order.settled_nusd, order.settled_tokens
        elif row.number >= order.number:
            return False
        else:
            settled_nusd = order.settled_nusd - row.settled_nusd
            settled_tokens = order.settled_tokens - row.settled_tokens
        self._charge(order.budget, order.window, settled_nusd, settled_tokens)
        return True

    def _charge(self, budget: Budget, window: Window, nusd: int, tokens: int, at_s: int | None = None) -> None:
        if nusd or tokens:
            key = budget.id, bucket_of(budget, window, self._now_s if at_s is None else at_s)
            before = self._spent.get(key, (0, 0))
            self._spent[key] = before[0] + nusd, before[1] + tokens

    def _end_expired(self) -> None:
        """End the leases that others did not renew: all of them is charged, when they expired."""
        for key, row in list(self._leases.items()):
            if row.owner != self._batch.owner and row.expires_at_s <= self._now_s:
                self._charge(self._budgets[row.budget_id], row.window, row.nusd, row.tokens, row.expires_at_s)
                self._gone.append(key)
                del self._leases[key]

    def _lefts(self) -> dict[tuple[str, Window], _Left]:
        """What is left of each window that is asked about, with what this owner goes on holding taken off."""
        ordered = {(order.budget.id, order.window): order for order in self._batch.orders}
        lefts = {}
        for key, order in ordered.items():
            left = lefts[key] = _Left(order.budget)
            for row in self._rows:
                if row.budget_id == key[0] and counts(order.budget, order.window, row.bucket, self._now_s):
                    left.take(row.nusd, row.tokens)
            for (budget_id, bucket), (nusd, tokens) in self._spent.items():
                if budget_id == key[0] and counts(order.budget, order.window, bucket, self._now_s):
                    left.take(nusd, tokens)
            for row_key, lease in self._leases.items():
                if row_key[:2] == key and lease.owner != self._batch.owner:
                    left.take(lease.nusd, lease.tokens)
            left.take(order.held_nusd, order.held_tokens)
        return lefts

    def _grant(
        self, want: Want, there: list[bool], lefts: dict[tuple[str, Window], _Left], granted: list[list[int]]
    ) -> int:
        orders = self._batch.orders
        for number, nusd, tokens in want.parts:
            if not there[number]:
                return ANEW
            if not lefts[orders[number].budget.id, orders[number].window].has(nusd, tokens):
                return number
        for number, nusd, tokens in want.parts:
            lefts[orders[number].budget.id, orders[number].window].take(nusd, tokens)
            granted[number][0] += nusd
            granted[number][1] += tokens
        return GRANTED

    def _lease(self, order: Order, more_nusd: int, more_tokens: int) -> None:
        """Put the lease in place; one that holds nothing is deleted."""
        key = order.budget.id, order.window, self._batch.owner
        nusd, tokens = order.held_nusd + more_nusd, order.held_tokens + more_tokens
        if nusd or tokens:
            self._put[key] = LeaseRow(
                *key,
                number=order.number,
                settled_nusd=order.settled_nusd,
                settled_tokens=order.settled_tokens,
                nusd=nusd,
                tokens=tokens,
                expires_at_s=self._batch.expires_at_s,
            )
        elif key in self._leases:
            self._gone.append(key)


def _most_ahead(left: int | None, largest: int) -> int:
    """What may be leased ahead of need."""
    return 0 if left is None or left < AHEAD_PART * largest else left // AHEAD_PART
