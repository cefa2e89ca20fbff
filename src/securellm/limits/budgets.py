"""Budgets: what a request may cost is reserved before it is asked for, and settled to what it did cost.

The store of the accounts keeps what was spent, for all processes on all machines. Asking it takes a transaction on
disk, so this process leases from it what its requests are about to need (`accounts/leases.py`), in one exchange at a
time that carries whatever is to be told and asked. A reservation is a decision in memory, over all budgets of its
caller at once; only when a lease is too small does a request wait, at most `WAIT_S`, for the next exchange. Where
little is left leases are just what the waiting requests need, one after the other; what nobody uses goes back.

Settled + reserved is never more than the budget. A process that dies leaves its leases, which are charged in full when
they expire: at most what its open requests could have cost, and what it had leased ahead (some seconds of its spending,
and at most a 64th of what was left). What it settled before its last exchange is charged as it was.
"""

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import trio

from securellm.accounts.bounds import Budget
from securellm.accounts.leases import ANEW, GRANTED, Answer, Batch, Charge, Order, Spending, Want
from securellm.accounts.windows import Window, window_of
from securellm.chat import Caller, RequestId
from securellm.errors import BudgetExceeded, BudgetsUnavailable, StoreUnavailable
from securellm.limits.lease import Lease

WAIT_S = 0.05  # what a request waits for the store; longer is worse than a refusal
EXCHANGE_EVERY_S = 0.5  # how often the store hears what was settled, and gets back what nobody uses
AHEAD_S = 2.0  # leased ahead of need: what the last while would spend in this time
RENEW_S = 10.0  # a lease that nothing happens to is renewed so often
LEASE_S = 60  # a lease that is not renewed is ended as charged; longer than a store is likely to be away
STALE_MARGIN_S = 30.0  # after a request's last moment its reservation is ended as charged
ABANDON_S = 5.0  # an exchange that takes longer is left to itself: its thread waits on, another one tries
MAX_WANTS = 1000  # in one exchange; the others wait for the next
MAX_ORDERS = 200  # told in one exchange besides those of waiting requests, so that these need not wait for long
MAX_KNOWN_CALLERS = 10_000

_log = logging.getLogger("securellm.limits")


class SpendingStore(Protocol):
    """Where spending is kept. Both block, and raise StoreUnavailable."""

    def exchange(self, batch: Batch, now_s: int) -> Answer:
        """Decide about a batch in one durable transaction."""

    def read(self, budgets: Sequence[Budget], now_s: int) -> list[Spending]:
        """The figures of some budgets."""


class BudgetsStatistics(msgspec.Struct, frozen=True):
    """What an operator may see; counts are since the start."""

    leases: int
    reservations: int
    waiting: int
    exchanges: int
    latency_ms: float | None  # of the last exchange that was answered
    error: str | None  # of the last one, None when it was answered
    unavailable: int  # requests refused because the store did not answer
    exceeded: dict[str, int]  # requests refused because there was not enough, by the kind of the budget
    overruns: int  # requests that were charged more than was reserved
    overrun_nusd: int
    stale: int  # reservations that nobody settled in time, charged as estimated


class Reservation:
    """What one request has reserved. Settle or release it once; whatever comes after that changes nothing."""

    __slots__ = ("_budgets", "_open", "_parts", "_until_s", "cost_nusd", "over_tokens", "request_id", "tokens")

    def __init__(
        self,
        budgets: "Budgets",
        parts: tuple[Lease, ...],
        cost_nusd: int,
        tokens: int,
        request_id: RequestId,
        until_s: float,
    ) -> None:
        self.cost_nusd = cost_nusd
        self.tokens = tokens
        self.request_id = request_id
        self.over_tokens = 0  # once it is settled: tokens beyond `tokens`
        self._budgets = budgets
        self._parts = parts
        self._until_s = until_s
        self._open = True

    def __repr__(self) -> str:
        return f"<Reservation {self.request_id} {self.cost_nusd} nusd {self.tokens} tokens>"

    def settle(self, cost_nusd: int, tokens: int) -> int:
        """Charge what was really used and give back the rest; returns the overrun in nano-USD. Never raises or waits.

        An overrun (more than was reserved) is charged in full. A model that is free has an overrun of 0, whatever
        `over_tokens` says.
        """
        return self._budgets.settle(self, cost_nusd, tokens) if self._open else 0

    def release(self) -> None:
        """Give all of it back: nothing was used."""
        if self._open:
            self._budgets.settle(self, 0, 0)


class _Waiter:
    """A request that waits for the next exchange."""

    __slots__ = (
        "abandoned",
        "aside",
        "caller",
        "cost_nusd",
        "done",
        "exceeded",
        "parts",
        "request_id",
        "result",
        "tokens",
    )

    def __init__(self, caller: Caller, cost_nusd: int, tokens: int, request_id: RequestId) -> None:
        self.caller = caller
        self.cost_nusd = cost_nusd
        self.tokens = tokens
        self.request_id = request_id
        self.done = trio.Event()
        self.result: Reservation | None = None
        self.exceeded: Budget | None = None
        self.abandoned = False
        self.parts: tuple[Lease, ...] = ()
        self.aside: list[tuple[int, int]] = []  # taken off what is free in each part, until the answer is there


class Budgets:
    """The budgets of all callers, as one process spends them. `keep` must run for anything to be leased."""

    def __init__(
        self,
        store: SpendingStore,
        budgets_of: Callable[[Caller], Sequence[Budget]],
        *,
        stale_after_s: float = 600.0 + STALE_MARGIN_S,
        wait_s: float = WAIT_S,
        now_s: Callable[[], float] = time.time,
        owner: str | None = None,
    ) -> None:
        self._store = store
        self._budgets_of = budgets_of
        self._stale_after_s = stale_after_s  # the time for a whole request, and a margin
        self._wait_s = wait_s
        self._now_s = now_s  # Unix seconds: windows are in UTC
        self._owner = owner or secrets.token_hex(8)
        self._leases: dict[tuple[str, Window], Lease] = {}
        self._parts_of: dict[str | None, tuple[Sequence[Budget], float, tuple[Lease, ...]]] = {}
        self._open: dict[Reservation, None] = {}  # in the order in which they become stale
        self._waiting: list[_Waiter] = []
        self._touched: list[Lease] = []  # to be looked at
        self._due: list[Lease] = []  # looked at, to be told to the store
        self._exchanging = False
        self._charges: list[Charge] = []
        self._wake = trio.Event()
        self._threads = trio.CapacityLimiter(2)  # one at work, and one that was left to itself
        self._number = 0
        self._looked_s = now_s()
        self._renewed_s = now_s()
        self._exchanges = 0
        self._latency_ms: float | None = None
        self._error: str | None = None
        self._unavailable = 0
        self._exceeded: dict[str, int] = {}
        self._overruns = 0
        self._overrun_nusd = 0
        self._stale = 0

    def __repr__(self) -> str:
        return f"<Budgets {self.statistics()}>"

    async def reserve(self, caller: Caller, cost_nusd: int, tokens: int, request_id: RequestId) -> Reservation:
        """Reserve in every budget of the caller, or in none. Raises BudgetExceeded, BudgetsUnavailable.

        What costs nothing is not refused by a budget in USD. Waits only when a lease is too small, at most `WAIT_S`.
        """
        now_s = self._now_s()
        parts = self._parts(caller, now_s)
        for lease in parts:
            if not lease.covers(cost_nusd, tokens, now_s) and _needs(lease, cost_nusd, tokens):
                return await self._wait(caller, cost_nusd, tokens, request_id)
        for lease in parts:
            lease.reserve(cost_nusd, tokens)
            if not lease.touched:
                self._touch(lease)
        return self._reservation(parts, cost_nusd, tokens, request_id, now_s)

    def settle(self, reservation: Reservation, cost_nusd: int, tokens: int) -> int:
        """See Reservation.settle."""
        reservation._open = False
        self._open.pop(reservation, None)
        reserved_nusd, reserved_tokens = reservation.cost_nusd, reservation.tokens
        for lease in reservation._parts:
            lease.settle(reserved_nusd, reserved_tokens, cost_nusd, tokens)
            if not lease.touched:
                self._touch(lease)
        over_nusd = cost_nusd - reserved_nusd
        reservation.over_tokens = max(tokens - reserved_tokens, 0)
        if over_nusd <= 0 or not reservation._parts:
            return 0
        self._overruns += 1
        self._overrun_nusd += over_nusd
        return over_nusd

    async def keep(self) -> None:
        """Exchange with the store until cancelled, then tell it what is settled and give back what is free."""
        try:
            while True:
                with trio.move_on_after(EXCHANGE_EVERY_S):
                    await self._wake.wait()
                self._wake = trio.Event()
                await self._exchange()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2.0):
                for lease in self._leases.values():
                    lease.retire()
                    if not lease.touched:
                        self._touch(lease)
                await self._exchange(last=True)

    async def spent(self, budgets: Sequence[Budget]) -> list[Spending]:
        """The figures of some budgets, as the store has them now. Raises StoreUnavailable."""
        return await trio.to_thread.run_sync(self._store.read, budgets, int(self._now_s()), abandon_on_cancel=True)

    def statistics(self) -> BudgetsStatistics:
        """The figures now."""
        return BudgetsStatistics(
            leases=len(self._leases),
            reservations=len(self._open),
            waiting=len(self._waiting),
            exchanges=self._exchanges,
            latency_ms=self._latency_ms,
            error=self._error,
            unavailable=self._unavailable,
            exceeded=dict(self._exceeded),
            overruns=self._overruns,
            overrun_nusd=self._overrun_nusd,
            stale=self._stale,
        )

    def _parts(self, caller: Caller, now_s: float) -> tuple[Lease, ...]:
        """The leases on the caller's budgets in their windows of now."""
        budgets = self._budgets_of(caller)
        kept = self._parts_of.get(caller.key_id)
        if kept is not None and now_s < kept[1] and (kept[0] is budgets or kept[0] == budgets):
            return kept[2]
        parts = tuple(self._lease(budget, window_of(budget, int(now_s))) for budget in budgets)
        until_s = min((part.window.end_s for part in parts), default=now_s + 1)
        if self._exchanging and any(part.budget != budget for part, budget in zip(parts, budgets, strict=True)):
            return parts  # new limits are taken over between two exchanges
        if len(self._parts_of) >= MAX_KNOWN_CALLERS:
            self._parts_of.clear()
        self._parts_of[caller.key_id] = budgets, until_s, parts
        return parts

    def _lease(self, budget: Budget, window: Window) -> Lease:
        """The one lease on a window of a budget; with other limits it goes on, unless other units are limited."""
        lease = self._leases.get((budget.id, window))
        if lease is None:
            lease = self._leases[budget.id, window] = Lease(budget, window)
        elif lease.budget != budget and not self._exchanging:
            lease.change_limits(budget)
        return lease

    def _touch(self, lease: Lease) -> None:
        lease.touched = True
        self._touched.append(lease)

    def _reservation(
        self, parts: tuple[Lease, ...], cost_nusd: int, tokens: int, request_id: RequestId, now_s: float
    ) -> Reservation:
        reservation = Reservation(self, parts, cost_nusd, tokens, request_id, now_s + self._stale_after_s)
        if parts:
            self._open[reservation] = None
        return reservation

    async def _wait(self, caller: Caller, cost_nusd: int, tokens: int, request_id: RequestId) -> Reservation:
        waiter = _Waiter(caller, cost_nusd, tokens, request_id)
        self._waiting.append(waiter)
        self._wake.set()
        try:
            with trio.move_on_after(self._wait_s):
                await waiter.done.wait()
        except BaseException:
            if waiter.result is not None:
                waiter.result.release()
            raise
        finally:
            waiter.abandoned = True
        if waiter.result is not None:
            return waiter.result
        if waiter.exceeded is not None:
            budget = waiter.exceeded
            self._exceeded[budget.kind] = self._exceeded.get(budget.kind, 0) + 1
            raise BudgetExceeded(_exceeded_message(budget, cost_nusd, tokens), param=budget.kind)
        self._unavailable += 1
        raise BudgetsUnavailable("what is left of a budget cannot be told now", retry_after_s=1.0)

    async def _exchange(self, *, last: bool = False) -> None:
        """One exchange with the store, if there is anything to say. Raises nothing but Cancelled."""
        now_s = self._now_s()
        everything = last or not 0 <= now_s - self._looked_s < EXCHANGE_EVERY_S
        if everything:
            self._look(now_s)
        waiters, leases, batch = self._gather(now_s)
        if not batch.orders and not batch.charges:
            return
        started_s = trio.current_time()
        answer: Answer | None = None
        error = f"no answer within {ABANDON_S:g} s"
        self._exchanging = True
        try:
            with trio.move_on_after(ABANDON_S):
                answer = await trio.to_thread.run_sync(
                    self._store.exchange, batch, int(now_s), abandon_on_cancel=True, limiter=self._threads
                )
        except StoreUnavailable as unavailable:
            error = unavailable.message
        finally:
            self._exchanging = False
        if answer is None:
            self._failed(waiters, leases, batch, error)
            return
        self._exchanges += 1
        self._latency_ms = (trio.current_time() - started_s) * 1000
        if self._error is not None:
            _log.warning("the store of budgets answers again")
        self._error = None
        self._answered(waiters, leases, batch, answer, now_s)

    def _look(self, now_s: float) -> None:
        """End what is stale, see what should be leased ahead, and let go of what is idle."""
        elapsed_s = now_s - self._looked_s
        self._looked_s = now_s
        for reservation in list(self._open):
            if reservation._until_s > now_s:
                break
            self._stale += 1
            _log.error("request %s never settled what it reserved: charged as estimated", reservation.request_id)
            self.settle(reservation, reservation.cost_nusd, reservation.tokens)
        share = AHEAD_S / elapsed_s if elapsed_s >= EXCHANGE_EVERY_S else 0.0  # the clock was set back
        touched, self._touched = self._touched, []
        for lease in touched:
            lease.touched = False
            lease.refresh(share)
            if now_s >= lease.window.end_s:
                lease.retire()
            else:
                lease.drop_idle()
        self._due += touched
        if not 0 <= now_s - self._renewed_s < RENEW_S:
            self._renewed_s = now_s
            for key, lease in list(self._leases.items()):
                if lease.known:
                    self._due.append(lease)
                elif lease.idle and not lease.touched:
                    del self._leases[key]
                    lease.retire()
            self._parts_of.clear()

    def _gather(self, now_s: float) -> tuple[list[_Waiter], list[Lease], Batch]:
        """What is to be told and asked; what waiters need is set aside as far as it is there."""
        chosen: dict[Lease, list[int]] = {}  # -> set aside, nano-USD and tokens
        due, self._due = self._due[:MAX_ORDERS], self._due[MAX_ORDERS:]
        for lease in due:
            if lease.ended:
                self._charges += lease.charges()
            else:
                chosen[lease] = [0, 0]
        if self._due:
            self._wake.set()
        waiters, wants = [], []
        numbers = {lease: number for number, lease in enumerate(chosen)}
        for waiter in self._next_waiters():
            waiter.parts = self._parts(waiter.caller, now_s)
            waiter.aside = [lease.set_aside(waiter.cost_nusd, waiter.tokens) for lease in waiter.parts]
            lacking = []
            for lease, (nusd, tokens) in zip(waiter.parts, waiter.aside, strict=True):
                if _needs(lease, waiter.cost_nusd, waiter.tokens):
                    number = numbers.setdefault(lease, len(numbers))
                    aside = chosen.setdefault(lease, [0, 0])
                    aside[0] += nusd
                    aside[1] += tokens
                    lacking.append((number, waiter.cost_nusd - nusd, waiter.tokens - tokens))
            waiters.append(waiter)
            wants.append(Want(tuple(lacking)))
        self._number += 1
        orders = [lease.order(self._number, *aside) for lease, aside in chosen.items()]
        charges, self._charges = self._charges, []
        return waiters, list(chosen), Batch(self._owner, int(now_s) + LEASE_S, orders, wants, charges)

    def _next_waiters(self) -> list[_Waiter]:
        """Those that still wait, first come first served; more than an exchange may hold stay for the next."""
        waiting = [waiter for waiter in self._waiting if not waiter.abandoned]
        self._waiting = waiting[MAX_WANTS:]
        if self._waiting:
            self._wake.set()
        return waiting[:MAX_WANTS]

    def _answered(
        self, waiters: list[_Waiter], leases: list[Lease], batch: Batch, answer: Answer, now_s: float
    ) -> None:
        granted = {
            number
            for want, verdict in zip(batch.wants, answer.wants, strict=True)
            if verdict == GRANTED
            for number, _, _ in want.parts
        }
        for number, (lease, order, leased) in enumerate(zip(leases, batch.orders, answer.leases, strict=True)):
            lease.exchanged(order, leased, number in granted, now_s + LEASE_S)
            if lease.ended:
                self._forget(lease)
        for waiter, verdict in zip(waiters, answer.wants, strict=True):
            self._answer(waiter, verdict, batch.orders, now_s)
        for lease in leases:
            if not lease.touched and (lease.wants_another_look or lease.ended):
                self._touch(lease)

    def _answer(self, waiter: _Waiter, verdict: int, orders: Sequence[Order], now_s: float) -> None:
        """Tell a waiter what became of its want; what was granted to one that has gone is free."""
        if verdict != GRANTED:
            for lease, aside in zip(waiter.parts, waiter.aside, strict=True):
                lease.put_back(*aside)
            if verdict == ANEW:
                self._waiting.insert(0, waiter)
                self._wake.set()
                return
            waiter.exceeded = orders[verdict].budget
            waiter.done.set()
            return
        for lease in waiter.parts:
            lease.note_reserved(waiter.cost_nusd, waiter.tokens)
        waiter.result = self._reservation(waiter.parts, waiter.cost_nusd, waiter.tokens, waiter.request_id, now_s)
        if waiter.abandoned:
            waiter.result.release()
        waiter.done.set()

    def _failed(self, waiters: list[_Waiter], leases: list[Lease], batch: Batch, error: str) -> None:
        """Nothing is known of what became of it: what is held goes on being held, and is told again."""
        if self._error is None:
            _log.error("the store of budgets does not answer: %s", error)
        self._error = error
        self._charges += batch.charges
        for waiter in waiters:
            for lease, aside in zip(waiter.parts, waiter.aside, strict=True):
                lease.put_back(*aside)
            waiter.done.set()
        for lease in leases:
            if not lease.touched:
                self._touch(lease)

    def _forget(self, lease: Lease) -> None:
        """Somebody ended the lease as charged; the next request takes a new one."""
        _log.warning("a lease on budget %s was ended by another process: charged in full", lease.budget.id)
        key = lease.budget.id, lease.window
        if self._leases.get(key) is lease:
            del self._leases[key]
        self._parts_of.clear()


def _needs(lease: Lease, cost_nusd: int, tokens: int) -> bool:
    """Whether the budget limits what is to be reserved: one in USD has no say in what costs nothing."""
    return bool((cost_nusd and lease.counts_nusd) or (tokens and lease.counts_tokens))


def _exceeded_message(budget: Budget, cost_nusd: int, tokens: int) -> str:
    window = "rolling window" if budget.window == "rolling" else budget.window
    return (
        f"the budget of the {budget.kind} for this {window} has not enough left:"
        f" the request may cost {cost_nusd / 1e9:.6f} USD and use {tokens} tokens"
    )
