"""Budgets: what a request may cost is reserved before it is asked for, and settled to what it did cost.

The store of the accounts keeps what was spent, for all processes on all machines. Asking it takes a transaction on
disk, so this process leases from it what its requests are about to need (`accounts/leases.py`), in one exchange at a
time that carries whatever is to be told and asked. A reservation is a decision in memory, over all budgets of its
caller at once (`purse.py`); only when a lease is too small does a request wait, some milliseconds, for the next
exchange. Where little is left leases are just what the waiting requests need, one after the other; what nobody uses
goes back.

Settled + reserved is never more than the budget. A process that dies leaves its leases, which are charged in full when
they expire: at most what its open requests could have cost, and what it had leased ahead (some seconds of its spending,
and at most a 64th of what was left). What it settled before its last exchange is charged as it was.
"""

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec
import trio

from securellm.accounts.bounds import Budget
from securellm.accounts.leases import GRANTED, Answer, Batch, Spending
from securellm.chat import Caller, RequestId
from securellm.config.tree import Timeouts
from securellm.errors import BudgetExceeded, BudgetsUnavailable, StoreUnavailable
from securellm.limits.purse import LOOK_EVERY_S, MAX_NUSD, MAX_TOKENS, Purse, Reservation, Waiter

__all__ = ["Budgets", "BudgetsStatistics", "Reservation", "SpendingStore"]

PATIENCE_S = 1.0  # for which a request waits at most while the store answers others
STALE_MARGIN_S = 30.0  # after a request's last moment its reservation is ended as charged
ABANDON_S = 5.0  # an exchange that takes longer is left to itself: its thread waits on, another one tries
FAREWELL_S = 2.0  # at the end, to tell what is settled and give back the rest

_log = logging.getLogger("securellm.limits")


class SpendingStore(Protocol):
    """Where spending is kept. What it does blocks, and raises StoreUnavailable."""

    @property
    def patience_s(self) -> float:
        """How long it may be silent before those who wait for it are refused."""

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


class Budgets:
    """The budgets of all callers, as one process spends them. `keep` must run for anything to be leased."""

    def __init__(
        self,
        store: SpendingStore,
        budgets_of: Callable[[Caller], Sequence[Budget]],
        *,
        stale_after_s: float = 600.0 + STALE_MARGIN_S,
        patience_s: float | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._patience_s = store.patience_s if patience_s is None else patience_s
        self._now_s = now_s  # Unix seconds: windows are in UTC
        self._purse = Purse(budgets_of, secrets.token_hex(8), stale_after_s, now_s())
        self._wake = trio.Event()
        self._readers = trio.CapacityLimiter(2)
        self._threads = trio.CapacityLimiter(2)  # one at work, and one that was left to itself
        self._asked_s: float | None = None  # since when the store owes an answer
        self._heard_s = 0.0  # when it answered last
        self._exchanges = 0
        self._latency_ms: float | None = None
        self._error: str | None = None
        self._unavailable = 0
        self._exceeded: dict[str, int] = {}

    def follow(self, timeouts: Timeouts) -> None:
        """Take a reservation for forgotten when no request made from now on can be under way any more."""
        self._purse.stale_after_s = timeouts.total_s + STALE_MARGIN_S

    def __repr__(self) -> str:
        return f"<Budgets {self.statistics()}>"

    async def reserve(self, caller: Caller, cost_nusd: int, tokens: int, request_id: RequestId) -> Reservation:
        """Reserve in every budget of the caller, or in none. Raises BudgetExceeded, BudgetsUnavailable.

        What costs nothing is not refused by a budget in USD. Waits only when a lease is too small, and not for a store
        that is silent for longer than its `patience_s`.
        """
        reservation = self.take(caller, cost_nusd, tokens, request_id)
        return await self.wait(caller, cost_nusd, tokens, request_id) if reservation is None else reservation

    def take(
        self,
        caller: Caller,
        cost_nusd: int,
        tokens: int,
        request_id: RequestId,
        budgets: Sequence[Budget] | None = None,
    ) -> Reservation | None:
        """What `reserve` does where the leases are large enough; else None, and `wait` does the rest.

        `budgets` are the caller's, where they are known already.
        """
        cost_nusd = cost_nusd if cost_nusd < MAX_NUSD else MAX_NUSD
        tokens = tokens if tokens < MAX_TOKENS else MAX_TOKENS
        return self._purse.reserve(caller, cost_nusd, tokens, request_id, self._now_s(), budgets)

    async def wait(self, caller: Caller, cost_nusd: int, tokens: int, request_id: RequestId) -> Reservation:
        """Reserve in the next exchange with the store. Raises as `reserve`."""
        cost_nusd, tokens = min(cost_nusd, MAX_NUSD), min(tokens, MAX_TOKENS)
        done = trio.Event()
        waiter = Waiter(caller, cost_nusd, tokens, request_id, done.set)
        self._purse.waiting.append(waiter)
        self._wake.set()
        try:
            await self._wait_for(done)
        except BaseException:
            if waiter.result is not None:
                waiter.result.release()
            raise
        finally:
            waiter.abandoned = True
        if waiter.result is not None:
            return waiter.result
        if waiter.exceeded is not None:
            kind = waiter.exceeded.kind
            self._exceeded[kind] = self._exceeded.get(kind, 0) + 1
            raise BudgetExceeded(_exceeded_message(waiter.exceeded, cost_nusd, tokens), param=kind)
        self._unavailable += 1
        raise BudgetsUnavailable("what is left of a budget cannot be told now", retry_after_s=1.0)

    async def keep(self) -> None:
        """Exchange with the store until cancelled, then tell it what is settled and give back what is free."""
        with suppress(StoreUnavailable):
            await self.spent(())  # opened before anybody waits for it
        try:
            while True:
                if not self._purse.pressing:
                    with trio.move_on_after(LOOK_EVERY_S):
                        await self._wake.wait()
                self._wake = trio.Event()
                if self._purse.look_is_due(self._now_s()):
                    self._look()
                await self._exchange()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + FAREWELL_S):
                self._look()
                self._purse.retire()
                while self._purse.pressing and await self._exchange():
                    pass

    async def spent(self, budgets: Sequence[Budget]) -> list[Spending]:
        """The figures of some budgets, as the store has them now. Raises StoreUnavailable."""
        now_s = int(self._now_s())
        with trio.move_on_after(ABANDON_S):
            return await trio.to_thread.run_sync(
                self._store.read, budgets, now_s, abandon_on_cancel=True, limiter=self._readers
            )
        raise StoreUnavailable(f"the store of budgets gave no answer within {ABANDON_S:g} s", retry_after_s=1.0)

    def statistics(self) -> BudgetsStatistics:
        """The figures now."""
        return BudgetsStatistics(
            leases=self._purse.leases,
            reservations=self._purse.reservations,
            waiting=len(self._purse.waiting),
            exchanges=self._exchanges,
            latency_ms=self._latency_ms,
            error=self._error,
            unavailable=self._unavailable,
            exceeded=dict(self._exceeded),
            overruns=self._purse.overruns,
            overrun_nusd=self._purse.overrun_nusd,
            stale=self._purse.stale,
        )

    async def _wait_for(self, done: trio.Event) -> None:
        """Wait until something is known, or the store has been silent for too long.

        The store's silence counts, not the time that passes: where this process is busy, the answer has often arrived
        and is about to be told when the time is up.
        """
        started_s = trio.current_time()
        until_s = started_s + self._patience_s
        last_s = started_s + max(self._patience_s, PATIENCE_S)
        while not done.is_set():
            with trio.move_on_at(until_s):
                await done.wait()
                return
            for _ in range(2):  # what has arrived meanwhile is told
                await trio.lowlevel.checkpoint()
            silent_since_s = max(self._heard_s if self._asked_s is None else self._asked_s, started_s)
            until_s = min(silent_since_s + self._patience_s, last_s)
            if trio.current_time() >= until_s:
                return

    def _look(self) -> None:
        for reservation in self._purse.look(self._now_s()):
            _log.error("request %s never settled what it reserved: charged as estimated", reservation.request_id)

    async def _exchange(self) -> bool:
        """One exchange with the store, if there is anything to say; False: it was not answered."""
        now_s = self._now_s()
        exchange = self._purse.gather(now_s)
        if exchange.is_empty:
            self._purse.answered(exchange, Answer([], [GRANTED] * len(exchange.waiters)), now_s)
            return True
        started_s = self._asked_s = trio.current_time()
        answer: Answer | None = None
        error = f"no answer within {ABANDON_S:g} s"
        try:
            with trio.move_on_after(ABANDON_S):
                answer = await trio.to_thread.run_sync(
                    self._store.exchange, exchange.batch, int(now_s), abandon_on_cancel=True, limiter=self._threads
                )
        except StoreUnavailable as unavailable:
            error = unavailable.message
        except BaseException:
            self._purse.failed(exchange)
            raise
        finally:
            self._asked_s = None
        if answer is None:
            if self._error is None:
                _log.error("the store of budgets does not answer: %s", error)
            self._error = error
            self._purse.failed(exchange)
            return False
        self._exchanges += 1
        self._heard_s = trio.current_time()
        self._latency_ms = (self._heard_s - started_s) * 1000
        if self._error is not None:
            _log.warning("the store of budgets answers again")
        self._error = None
        for lease in self._purse.answered(exchange, answer, now_s):
            _log.warning("a lease on budget %s was ended by another process: charged in full", lease.budget.id)
        return True


def _exceeded_message(budget: Budget, cost_nusd: int, tokens: int) -> str:
    window = "rolling window" if budget.window == "rolling" else budget.window
    return (
        f"the budget of the {budget.kind} for this {window} has not enough left:"
        f" the request may cost {cost_nusd / 1e9:.6f} USD and use {tokens} tokens"
    )
