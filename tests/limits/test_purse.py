"""Budgets never overspent: every order of reserving, settling, dying, expiring, lost answers and passing time."""

import os
import random
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rig.spending import MemorySpending
from securellm.accounts.bounds import Budget
from securellm.accounts.leases import GRANTED, Answer
from securellm.accounts.windows import Window
from securellm.chat import Caller, KeyId, RequestId
from securellm.limits.purse import LEASE_S, Exchange, Purse, Reservation, Waiter

SCALE = float(os.environ.get("SECURELLM_TEST_SCALE", "1"))
EXAMPLES = max(20, int(100 * SCALE))
WALKS = max(2, int(12 * SCALE))
STEPS = 400
START_S = 1_795_219_000  # 200 s before a midnight
STALE_S = 400.0
ROLLING_S = 1000

BUDGETS = (
    Budget("key:k:day", "key", "k", 1000, None, "day", ROLLING_S),
    Budget("user:u:rolling", "user", "u", 1500, 300, "rolling", ROLLING_S),
    Budget("team:t:day", "team", "t", None, 500, "day", ROLLING_S),
)
CALLERS = {
    Caller(KeyId("k1"), "u", team_id="t"): BUDGETS,
    Caller(KeyId("k2"), "u"): BUDGETS[:2],
    Caller(KeyId("k3"), None, team_id="t"): BUDGETS[2:],
}


def process(now_s: float = START_S, owner: str = "p") -> Purse:
    """What one process has of the budgets above."""
    return Purse(lambda caller: CALLERS[caller], owner, STALE_S, now_s)


class LetIn:
    """A request that a provider may have been asked for: what it reserved, until it is settled to what it used."""

    def __init__(self, purse: Purse, reservation: Reservation, caller: Caller, at_s: float) -> None:
        self.purse = purse
        self.reservation = reservation
        self.caller = caller
        self.at_s = at_s
        self.nusd = reservation.cost_nusd
        self.tokens = reservation.tokens

    def window(self, budget: Budget) -> Window:
        """That of the budget in which it was reserved: an answer may arrive after midnight."""
        return next(lease.window for lease in self.reservation._parts if lease.budget == budget)


class Sent(NamedTuple):
    """An exchange that the store has done and whose answer is on its way."""

    exchange: Exchange
    answer: Answer
    at_s: float


which = st.integers(0, 2)
percent = st.sampled_from([0, 10, 50, 99, 100])


class Spending(RuleBasedStateMachine):
    """Three processes and a store; the truth beside them is a list of what was let in and what it came to.

    A request counts with what was reserved for it until it is settled, and for ever when its process died. In a rolling
    window it counts as of its letting in: the sum over any stretch of that length is within the limit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_s = float(START_S)
        self.store = MemorySpending()
        self.started = 0
        self.processes = [self._start() for _ in range(3)]
        self.sent: dict[Purse, Sent] = {}
        self.late: list[tuple[Exchange, float]] = []  # given up by its process, and not yet at the store
        self.let_in: list[LetIn] = []
        self.open: list[LetIn] = []

    def _start(self) -> Purse:
        self.started += 1
        return process(self.now_s, f"p{self.started}")

    def _note(self, purse: Purse, reservation: Reservation, caller: Caller) -> None:
        self.let_in.append(LetIn(purse, reservation, caller, self.now_s))
        self.open.append(self.let_in[-1])

    @rule(
        number=which,
        caller=st.sampled_from(list(CALLERS)),
        nusd=st.sampled_from([0, 1, 2, 5, 100, 333, 500]),
        tokens=st.sampled_from([0, 1, 20, 100]),
        wait=st.booleans(),
    )
    def reserve(self, number: int, caller: Caller, nusd: int, tokens: int, wait: bool) -> None:
        """A request asks; if the lease is too small it waits, for an exchange of now or of later."""
        purse = self.processes[number]
        reservation = purse.reserve(caller, nusd, tokens, RequestId("r"), self.now_s)
        if reservation is not None:
            self._note(purse, reservation, caller)
            return
        purse.waiting.append(Waiter(caller, nusd, tokens, RequestId("r"), lambda: None))
        if not wait and purse not in self.sent:
            self._send(purse)
            self._receive(purse)

    @rule(number=st.integers(0, 99), share=percent)
    def settle(self, number: int, share: int) -> None:
        """A request ends with a part of what it reserved; unless its process is dead, or it is stale."""
        if not self.open:
            return
        request = self.open.pop(number % len(self.open))
        if request.purse not in self.processes:
            return
        nusd, tokens = request.nusd * share // 100, request.tokens * share // 100
        settled_before = request.reservation not in request.purse._open and request.reservation._parts
        assert request.reservation.settle(nusd, tokens) == 0
        if not settled_before:
            request.nusd, request.tokens = nusd, tokens

    @rule(number=which)
    def look(self, number: int) -> None:
        """A process looks at what it has."""
        self.processes[number].look(self.now_s)

    @rule(number=which)
    def send(self, number: int) -> None:
        """A process begins an exchange; the store does it at once, the answer comes later."""
        if self.processes[number] not in self.sent:
            self._send(self.processes[number])

    def _send(self, purse: Purse) -> None:
        exchange = purse.gather(self.now_s)
        if exchange.is_empty:
            answer = Answer([], [GRANTED] * len(exchange.waiters))
        else:
            answer = self.store.exchange(exchange.batch, int(self.now_s))
        self.sent[purse] = Sent(exchange, answer, self.now_s)

    @rule(number=which, gone=st.booleans())
    def receive(self, number: int, gone: bool) -> None:
        """The answer arrives; whoever waited first may have gone."""
        self._receive(self.processes[number], gone=gone)

    def _receive(self, purse: Purse, *, gone: bool = False) -> None:
        if purse not in self.sent:
            return
        sent = self.sent.pop(purse)
        for waiter in sent.exchange.waiters[: int(gone)]:
            waiter.abandoned = True
        purse.answered(sent.exchange, sent.answer, sent.at_s)
        for waiter in sent.exchange.waiters:
            if waiter.result is not None and not waiter.abandoned:
                self._note(purse, waiter.result, waiter.caller)

    @rule(number=which)
    def lose(self, number: int) -> None:
        """The store has done it and the answer is lost."""
        sent = self.sent.pop(self.processes[number], None)
        if sent is not None:
            self.processes[number].failed(sent.exchange)

    @rule(number=which)
    def give_up(self, number: int) -> None:
        """A process gives up on an exchange that reaches the store only later."""
        purse = self.processes[number]
        if purse not in self.sent:
            exchange = purse.gather(self.now_s)
            purse.failed(exchange)
            self.late.append((exchange, self.now_s))

    @precondition(lambda self: self.late)
    @rule()
    def arrive_late(self) -> None:
        """What was given up reaches the store after all; nobody hears the answer."""
        exchange, at_s = self.late.pop(0)
        self.store.exchange(exchange.batch, int(at_s))

    @rule(number=which)
    def kill(self, number: int) -> None:
        """A process dies with all it knows, and another one takes its place."""
        self.sent.pop(self.processes[number], None)
        self.processes[number] = self._start()

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.6, 0.6, 3.0, 11.0, LEASE_S + 1.0, 250.0, ROLLING_S - 50.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes: leases expire, midnight comes, reservations become stale, windows roll on."""
        self.now_s += seconds

    @invariant()
    def nothing_is_overspent(self) -> None:
        """What was let in, at what it came to or may come to, is within every limit in every window."""
        for budget in BUDGETS:
            mine = [request for request in self.let_in if budget in CALLERS[request.caller]]
            for first in mine:
                if budget.window == "rolling":
                    inside = [request for request in mine if 0 <= request.at_s - first.at_s < ROLLING_S]
                else:
                    inside = [request for request in mine if request.window(budget) == first.window(budget)]
                if budget.limit_nusd is not None:
                    assert sum(request.nusd for request in inside) <= budget.limit_nusd
                if budget.limit_tokens is not None:
                    assert sum(request.tokens for request in inside) <= budget.limit_tokens


TestSpending = Spending.TestCase
TestSpending.settings = settings(max_examples=EXAMPLES, stateful_step_count=60, deadline=None)
TestSpending.pytestmark = [pytest.mark.slow]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(WALKS))
def test_long_walks_overspend_nothing(seed: int) -> None:
    """The same events in long random walks, in the proportions of a busy day: budgets run out, and windows turn."""
    dice = random.Random(seed)
    world = Spending()
    callers = list(CALLERS)
    for step in range(STEPS):
        number, event = dice.randrange(3), dice.random()
        if event < 0.45:
            amounts = dice.choice([0, 1, 2, 5, 20, 100, 333]), dice.choice([0, 1, 5, 20, 100])
            world.reserve(number, dice.choice(callers), *amounts, wait=dice.random() < 0.3)
        elif event < 0.62:
            world.settle(dice.randrange(1000), dice.choice([0, 10, 50, 99, 100]))
        elif event < 0.70:
            world.look(number)
        elif event < 0.78:
            world.send(number)
        elif event < 0.88:
            world.receive(number, gone=dice.random() < 0.2)
        elif event < 0.90:
            world.lose(number)
        elif event < 0.92:
            world.give_up(number)
        elif event < 0.94 and world.late:
            world.arrive_late()
        elif event < 0.945:
            world.kill(number)
        else:
            world.pass_time(dice.choice([0.1, 0.6, 3.0, 3.0, 11.0, 50.0] + [LEASE_S + 1.0, 250.0] * (seed % 2)))
        if step % 20 == 19:
            world.nothing_is_overspent()
    assert len(world.let_in) > STEPS / 20
