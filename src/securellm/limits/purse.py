"""What one process may spend of the budgets of its callers, and what it tells and asks their store. Pure.

Reserving and settling are decisions in memory over the leases (`lease.py`) of a caller's budgets. Whoever cannot be let
in so waits; `gather` puts together one exchange with the store, for all who wait and all there is to tell, and
`answered` or `failed` says what became of it. Between the two, reserving and settling go on. One exchange at a time.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from securellm.accounts.bounds import Budget
from securellm.accounts.leases import ANEW, GRANTED, Answer, Batch, Charge, Order, Want
from securellm.accounts.windows import Window, window_of
from securellm.chat import Caller, RequestId
from securellm.limits.lease import Lease

LOOK_EVERY_S = 0.5  # how often the store hears what was settled, and gets back what nobody uses
AHEAD_S = 2.0  # leased ahead of need: what the last while would spend in this time
RENEW_S = 10.0  # a lease that nothing happens to is renewed so often
LEASE_S = 60  # a lease that is not renewed is ended as charged; longer than a store is likely to be away
MAX_WANTS = 1000  # in one exchange; the others wait for the next
MAX_ORDERS = 200  # told in one exchange besides those of waiting requests, so that these need not wait for long
MAX_KNOWN_CALLERS = 10_000
# What one request may reserve or be charged at most, a million USD and a million million tokens: beyond it a caller's
# bound or a provider's word is nonsense, and sums stay within the 64 bits of the store.
MAX_NUSD = 2**50
MAX_TOKENS = 2**40


class Reservation(msgspec.Struct, eq=False):
    """What one request has reserved. Settle or release it once; whatever comes after that changes nothing."""

    _purse: "Purse"
    _parts: tuple[Lease, ...]
    cost_nusd: int
    tokens: int
    request_id: RequestId
    _until_s: float
    over_tokens: int = 0  # once it is settled: tokens beyond `tokens`
    _open: bool = True

    def __repr__(self) -> str:
        return f"<Reservation {self.request_id} {self.cost_nusd} nusd {self.tokens} tokens>"

    def settle(self, cost_nusd: int, tokens: int) -> int:
        """Charge what was really used and give back the rest; returns the overrun in nano-USD. Never raises or waits.

        An overrun (more than was reserved) is charged in full.
        """
        return self._purse.settle(self, cost_nusd, tokens) if self._open else 0

    def release(self) -> None:
        """Give all of it back: nothing was used."""
        if self._open:
            self._purse.settle(self, 0, 0)


class Waiter:
    """A request that waits for the next exchange. `tell` is called once something is known of it."""

    __slots__ = (
        "abandoned",
        "aside",
        "caller",
        "cost_nusd",
        "exceeded",
        "parts",
        "request_id",
        "result",
        "tell",
        "tokens",
    )

    def __init__(
        self, caller: Caller, cost_nusd: int, tokens: int, request_id: RequestId, tell: Callable[[], None]
    ) -> None:
        self.caller = caller
        self.cost_nusd = cost_nusd
        self.tokens = tokens
        self.request_id = request_id
        self.tell = tell
        self.result: Reservation | None = None
        self.exceeded: Budget | None = None  # both None: the store did not answer
        self.abandoned = False  # it waits no more; what is granted to it is free
        self.parts: tuple[Lease, ...] = ()
        self.aside: list[tuple[int, int]] = []  # taken off what is free in each part, until the answer is there


class Exchange(NamedTuple):
    """One exchange with the store, and whom its answer concerns."""

    batch: Batch
    leases: list[Lease]  # of the orders
    waiters: list[Waiter]  # of the wants

    @property
    def is_empty(self) -> bool:
        """There is nothing to tell the store; whoever waits needs nothing of it."""
        return not self.batch.orders and not self.batch.charges


class Purse:
    """See the module. `budgets_of` are the budgets that a caller spends of; `owner` names this process to the store."""

    def __init__(
        self, budgets_of: Callable[[Caller], Sequence[Budget]], owner: str, stale_after_s: float, now_s: float
    ) -> None:
        self.waiting: list[Waiter] = []
        self.overruns = 0
        self.overrun_nusd = 0
        self.stale = 0
        self._budgets_of = budgets_of
        self._owner = owner
        self.stale_after_s = stale_after_s
        self._leases: dict[tuple[str, Window], Lease] = {}
        self._parts_of: dict[str | None, tuple[Sequence[Budget], float, tuple[Lease, ...]]] = {}
        self._open: dict[Reservation, None] = {}  # in the order in which they become stale
        self._touched: list[Lease] = []  # to be looked at
        self._due: list[Lease] = []  # looked at, to be told to the store
        self._charges: list[Charge] = []
        self._exchanging = False
        self._number = 0
        self._looked_s = now_s
        self._renewed_s = now_s

    @property
    def leases(self) -> int:
        """How many there are."""
        return len(self._leases)

    @property
    def reservations(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def pressing(self) -> bool:
        """The next exchange should not be waited for."""
        return bool(self.waiting or self._due)

    def reserve(
        self,
        caller: Caller,
        cost_nusd: int,
        tokens: int,
        request_id: RequestId,
        now_s: float,
        budgets: Sequence[Budget] | None = None,
    ) -> Reservation | None:
        """Reserve in every budget of the caller, or in none; None: the leases are too small.

        `budgets` are the caller's, where they are known already.
        """
        kept = self._parts_of.get(caller.key_id)
        if kept is not None and kept[0] is budgets and now_s < kept[1]:
            parts = kept[2]
        else:
            parts = self._parts(caller, now_s, budgets)
        for lease in parts:
            if not lease.covers(cost_nusd, tokens, now_s) and lease.limits(cost_nusd, tokens):
                return None
        for lease in parts:
            lease.reserve(cost_nusd, tokens)
            if not lease.touched:
                self._touch(lease)
        return self._reservation(parts, cost_nusd, tokens, request_id, now_s)

    def settle(self, reservation: Reservation, cost_nusd: int, tokens: int) -> int:
        """See Reservation.settle."""
        reservation._open = False
        self._open.pop(reservation, None)
        if cost_nusd > MAX_NUSD:
            cost_nusd = MAX_NUSD
        if tokens > MAX_TOKENS:
            tokens = MAX_TOKENS
        reserved_nusd, reserved_tokens = reservation.cost_nusd, reservation.tokens
        for lease in reservation._parts:
            lease.settle(reserved_nusd, reserved_tokens, cost_nusd, tokens)
            if not lease.touched:
                self._touch(lease)
        over_nusd = cost_nusd - reserved_nusd
        if tokens > reserved_tokens:
            reservation.over_tokens = tokens - reserved_tokens
        if over_nusd <= 0 or not reservation._parts:
            return 0
        self.overruns += 1
        self.overrun_nusd += over_nusd
        return over_nusd

    def look_is_due(self, now_s: float) -> bool:
        """It was long ago that somebody looked, or the clock was set back."""
        return not 0 <= now_s - self._looked_s < LOOK_EVERY_S

    def look(self, now_s: float) -> list[Reservation]:
        """See what should be leased ahead and let go of what is idle; what is stale is charged, and returned."""
        elapsed_s = now_s - self._looked_s
        self._looked_s = now_s
        stale = self._end_stale(now_s)
        share = AHEAD_S / elapsed_s if elapsed_s >= LOOK_EVERY_S else 0.0
        touched, self._touched = self._touched, []
        for lease in touched:
            lease.touched = False
            lease.refresh(share)
            if now_s >= lease.window.end_s:
                lease.retire()
            else:
                lease.drop_idle()
        self._due += touched
        if not self._exchanging and not 0 <= now_s - self._renewed_s < RENEW_S:
            self._renewed_s = now_s
            self._renew()
        return stale

    def retire(self) -> None:
        """Nothing more is reserved: what is free goes back with the next exchanges."""
        for lease in self._leases.values():
            lease.retire()
            self._due.append(lease)

    def gather(self, now_s: float) -> Exchange:
        """What is to be told and asked; what waiters need is set aside as far as it is there."""
        chosen: dict[Lease, list[int]] = {}  # -> set aside, nano-USD and tokens; the number of its order
        due, self._due = self._due[:MAX_ORDERS], self._due[MAX_ORDERS:]
        for lease in due:
            if lease.ended:
                self._charges += lease.charges()
            else:
                chosen.setdefault(lease, [0, 0, len(chosen)])
        waiters = [waiter for waiter in self.waiting if not waiter.abandoned]
        waiters, self.waiting = waiters[:MAX_WANTS], waiters[MAX_WANTS:]
        wants = [self._want(waiter, chosen, now_s) for waiter in waiters]
        self._number += 1
        orders = [lease.order(self._number, nusd, tokens) for lease, (nusd, tokens, _) in chosen.items()]
        charges, self._charges = self._charges, []
        self._exchanging = True
        batch = Batch(self._owner, int(now_s) + LEASE_S, orders, wants, charges)
        return Exchange(batch, list(chosen), waiters)

    def answered(self, exchange: Exchange, answer: Answer, now_s: float) -> list[Lease]:
        """Take the store's answer; `now_s` is when the exchange was gathered. Returns the leases that were ended."""
        self._exchanging = False
        batch = exchange.batch
        granted = {
            number
            for want, verdict in zip(batch.wants, answer.wants, strict=True)
            if verdict == GRANTED
            for number, _, _ in want.parts
        }
        for number, (lease, order, leased) in enumerate(zip(exchange.leases, batch.orders, answer.leases, strict=True)):
            lease.exchanged(order, leased, number in granted, now_s + LEASE_S)
            if lease.ended:
                self._forget(lease)
        for waiter, verdict in zip(exchange.waiters, answer.wants, strict=True):
            self._answer(waiter, verdict, batch.orders, now_s)
        for lease in exchange.leases:
            if not lease.touched and (lease.wants_another_look or lease.ended):
                self._touch(lease)
        return [lease for lease in exchange.leases if lease.ended]

    def failed(self, exchange: Exchange) -> None:
        """Nothing is known of what became of it: what is held goes on being held, and is told again."""
        self._exchanging = False
        self._charges += exchange.batch.charges
        for waiter in exchange.waiters:
            for lease, aside in zip(waiter.parts, waiter.aside, strict=True):
                lease.put_back(*aside)
            waiter.tell()
        for lease in exchange.leases:
            if not lease.touched:
                self._touch(lease)

    def _parts(self, caller: Caller, now_s: float, budgets: Sequence[Budget] | None = None) -> tuple[Lease, ...]:
        """The leases on the caller's budgets in their windows of now."""
        if budgets is None:
            budgets = self._budgets_of(caller)
        kept = self._parts_of.get(caller.key_id)
        if kept is not None and now_s < kept[1] and (kept[0] is budgets or kept[0] == budgets):
            return kept[2]
        windows = [window_of(budget, int(now_s)) for budget in budgets]
        parts = tuple(self._lease(budget, window) for budget, window in zip(budgets, windows, strict=True))
        if any(part.budget != budget for part, budget in zip(parts, budgets, strict=True)):
            return parts  # other limits are taken over between two exchanges
        if len(self._parts_of) >= MAX_KNOWN_CALLERS:
            self._parts_of.clear()
        until_s = min((window.end_s for window in windows), default=now_s + RENEW_S)
        self._parts_of[caller.key_id] = budgets, until_s, parts
        return parts

    def _lease(self, budget: Budget, window: Window) -> Lease:
        """The one lease on a window of a budget; with other limits it goes on."""
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
        reservation = Reservation(self, parts, cost_nusd, tokens, request_id, now_s + self.stale_after_s)
        if parts:
            self._open[reservation] = None
        return reservation

    def _end_stale(self, now_s: float) -> list[Reservation]:
        """Charge in full what nobody has settled in time."""
        stale = []
        for reservation in self._open:
            if reservation._until_s > now_s:
                break
            stale.append(reservation)
        for reservation in stale:
            self.settle(reservation, reservation.cost_nusd, reservation.tokens)
        self.stale += len(stale)
        return stale

    def _renew(self) -> None:
        """Tell the store of every lease that there is, and forget those that are of no use."""
        due = set(self._due)  # one that is about to be told stays: there must never be two of one window
        for key, lease in list(self._leases.items()):
            if lease.known:
                self._due.append(lease)
            elif lease.idle and not lease.touched and lease not in due:
                del self._leases[key]
        self._parts_of.clear()

    def _want(self, waiter: Waiter, chosen: dict[Lease, list[int]], now_s: float) -> Want:
        """What a waiter lacks; what there is of it is set aside, and its leases are among the chosen."""
        waiter.parts = self._parts(waiter.caller, now_s)
        waiter.aside = [lease.set_aside(waiter.cost_nusd, waiter.tokens) for lease in waiter.parts]
        lacking = []
        for lease, (nusd, tokens) in zip(waiter.parts, waiter.aside, strict=True):
            if lease.limits(waiter.cost_nusd, waiter.tokens):
                aside = chosen.setdefault(lease, [0, 0, len(chosen)])
                aside[0] += nusd
                aside[1] += tokens
                lacking.append((aside[2], waiter.cost_nusd - nusd, waiter.tokens - tokens))
        return Want(tuple(lacking))

    def _answer(self, waiter: Waiter, verdict: int, orders: Sequence[Order], now_s: float) -> None:
        """Tell a waiter what became of its want; what was granted to one that has gone is free."""
        if verdict == GRANTED:
            for lease in waiter.parts:
                lease.note_reserved(waiter.cost_nusd, waiter.tokens)
            waiter.result = self._reservation(waiter.parts, waiter.cost_nusd, waiter.tokens, waiter.request_id, now_s)
            if waiter.abandoned:
                waiter.result.release()
            waiter.tell()
            return
        for lease, aside in zip(waiter.parts, waiter.aside, strict=True):
            lease.put_back(*aside)
        if verdict == ANEW:
            self.waiting.insert(0, waiter)
            return
        waiter.exceeded = orders[verdict].budget
        waiter.tell()

    def _forget(self, lease: Lease) -> None:
        """Somebody ended the lease as charged; the next request takes a new one."""
        key = lease.budget.id, lease.window
        if self._leases.get(key) is lease:
            del self._leases[key]
        self._parts_of.clear()
