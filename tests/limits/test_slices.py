"""Slices of a shared bucket: whatever the processes do, no window holds more than the bucket would have granted."""

import heapq
import itertools
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from rig.limit_stores import NOW_US, BruteForce, demands
from securellm.limits.places import KEPT_US, LIVES_US, RENEW_US, Places
from securellm.limits.slices import ARRIVED_US, FRESH_US, Ask, Slices

MS = 1000


class _Shared:
    """What Redis has, by the arithmetic of the script (`test_leased.py` holds the two together)."""

    def __init__(self) -> None:
        self.tat_us = 0

    def answer(self, ask: Ask, now_us: int) -> tuple[int, int, int]:
        tat_us = max(self.tat_us - ask.returned_us, 0)
        if ask.charge_us:
            tat_us = max(tat_us, now_us) + ask.charge_us
        granted = leased = 0
        if ask.need_us:
            base_us = max(tat_us, now_us)
            if granted := self._fit(ask, base_us - now_us, ask.need_us):
                tat_us = base_us + granted
        if ask.ahead_us and granted == ask.need_us:
            base_us = max(tat_us, now_us + ask.hold_us)
            if leased := self._fit(ask, base_us - now_us, ask.ahead_us):
                tat_us = base_us + leased
        self.tat_us = tat_us
        return granted, leased, tat_us

    @staticmethod
    def _fit(ask: Ask, backlog_us: int, wanted_us: int) -> int:
        room_us = min(ask.capacity_us - backlog_us, wanted_us)
        return room_us - room_us % ask.unit_us if room_us >= ask.unit_us else 0


class _World:
    """Processes, the bucket between them, and messages that take their time."""

    def __init__(self, processes: int, rpm: int, burst: int) -> None:
        (self.demand,) = demands(rpm=rpm, burst=burst)
        self.now_us = NOW_US
        self.shared = _Shared()
        self.oracle = BruteForce(self.demand.capacity)
        self.slices = [Slices(self.demand) for _ in range(processes)]
        self.granted = 0
        self.worst_us = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def arrive(self, process: int, there_us: int, back_us: int) -> None:
        """A request: it takes what is there, else it waits for one answer."""
        if not self._take(process):
            slices = self.slices[process]
            slices.waiting_us += self.demand.cost_us
            self._ask(process, there_us, back_us)
            self._at(there_us + back_us + 1, lambda: self._end_wait(process))
        elif self.slices[process].wants_ahead(self.now_us):
            self._ask(process, there_us, back_us)

    def tend(self, process: int, there_us: int, back_us: int) -> None:
        self.slices[process].room_us(self.now_us)
        if self.slices[process].is_owing():
            self._ask(process, there_us, back_us)

    def wait(self, wait_us: int) -> None:
        until_us = self.now_us + wait_us
        while self._events and self._events[0][0] <= until_us:
            self.now_us, _, step = heapq.heappop(self._events)
            step()
        self.now_us = until_us

    def _end_wait(self, process: int) -> None:
        self.slices[process].waiting_us -= self.demand.cost_us
        self._take(process)

    def _take(self, process: int) -> bool:
        slices, cost_us = self.slices[process], self.demand.cost_us
        if slices.room_us(self.now_us) < cost_us:
            return False
        slices.spend(cost_us, self.now_us)
        self.worst_us = max(self.worst_us, self.oracle.wait_us(self.now_us, cost_us))
        self.oracle.grant(self.now_us, cost_us)
        self.granted += 1
        return True

    def _ask(self, process: int, there_us: int, back_us: int) -> None:
        slices, sent_us = self.slices[process], self.now_us
        if slices.asking:
            return
        slices.asking = True
        ask = slices.ask(sent_us)

        def reach() -> None:
            answer = self.shared.answer(ask, self.now_us)
            self._at(back_us, lambda: come(answer))

        def come(answer: tuple[int, int, int]) -> None:
            slices.asking = False
            slices.answered(ask, *answer, sent_us=sent_us, now_us=self.now_us)

        self._at(there_us, reach)

    def _at(self, delay_us: int, step: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_us + delay_us, next(self._order), step))


delays = st.sampled_from([100, 700, 5 * MS, 20 * MS])


@settings(max_examples=150, deadline=None)
@given(
    limit=st.sampled_from([(60, 5), (600, 5), (3000, 100), (12_000, 40)]),
    trace=st.lists(
        st.tuples(
            st.integers(0, 2), st.integers(1, 30), st.sampled_from([0, MS, 7 * MS, 60 * MS, 700 * MS]), delays, delays
        ),
        max_size=60,
    ),
)
def test_no_window_is_over_the_limit(limit: tuple[int, int], trace: list[tuple[int, int, int, int, int]]) -> None:
    """Three processes, any arrivals, any delays: as Redis granted it, or up to 50 ms later."""
    world = _World(3, *limit)
    for process, requests, wait_us, there_us, back_us in trace:
        for _ in range(requests):
            world.arrive(process, there_us, back_us)
        for other in range(3):
            world.tend(other, there_us, back_us)
        world.wait(wait_us)
    world.wait(100 * MS)
    assert world.worst_us <= ARRIVED_US


def test_a_steady_caller_is_let_in_without_waiting() -> None:
    """At half of the limit everything is granted, and after the first moments from slices that are there already."""
    world = _World(2, 12_000, 400)
    hops = 0
    for number in range(400):
        before = world.granted
        world.arrive(number % 2, 700, 700)
        hops += world.granted == before
        world.wait(10 * MS)
        for process in range(2):
            world.tend(process, 700, 700)
    assert world.granted >= 395
    assert hops < 60


def test_one_that_is_used_now_and_then_holds_nothing() -> None:
    """Nothing is leased ahead for a request in a second, so that nothing is kept from others."""
    world = _World(1, 600, 50)
    for _ in range(10):
        world.arrive(0, 700, 700)
        world.wait(1000 * MS)
        assert world.slices[0].room_us(world.now_us) == 0
    assert world.granted == 10


def test_a_refusal_is_believed_for_a_moment() -> None:
    """What Redis refused is refused here until time has given it back, and asked for anew after 100 ms at most."""
    (demand,) = demands(rpm=60, burst=1)
    slices = Slices(demand)
    slices.waiting_us = demand.cost_us
    ask = slices.ask(NOW_US)
    slices.answered(ask, 0, 0, NOW_US + 1_000_000, sent_us=NOW_US, now_us=NOW_US)
    assert slices.refuses(demand.cost_us, NOW_US + 1)
    assert slices.retry_after_us(demand.cost_us, NOW_US + 1) == 999_999
    assert not slices.refuses(demand.cost_us, NOW_US + FRESH_US)
    assert not slices.refuses(demand.cost_us, NOW_US - 3_600_000_000)


def test_a_debt_is_told_until_it_is_heard() -> None:
    """An ask that was lost has not paid."""
    (demand,) = demands(tpm=6000)
    slices = Slices(demand)
    slices.charge(700)
    lost = slices.ask(NOW_US)
    assert lost.charge_us == 700
    slices.unpaid(lost)
    assert slices.ask(NOW_US).charge_us == 700
    assert not slices.is_owing()


def test_a_clock_that_was_set_back_ends_slices() -> None:
    """What was leased in a time to come is not there."""
    (demand,) = demands(rpm=600, burst=50)
    slices = Slices(demand)
    slices.waiting_us = demand.cost_us
    ask = slices.ask(NOW_US)
    slices.answered(ask, demand.cost_us, 0, NOW_US + demand.cost_us, sent_us=NOW_US, now_us=NOW_US)
    assert slices.room_us(NOW_US + 1) == demand.cost_us
    assert slices.room_us(NOW_US - 3_600_000_000) == 0


def test_places_are_renewed_and_given_back() -> None:
    """One in use is renewed every few seconds, also after an outage in which it was lost; a free one goes back soon."""
    (demand,) = demands(concurrent=10)
    places = Places(demand)
    places.waiting = 1
    used, wanted = places.ask(NOW_US)
    assert (used, wanted) == (0, 1)
    places.answered(wanted, 1, 3, NOW_US)
    places.waiting, places.used = 0, 1
    assert places.level == 4
    assert not places.is_due(NOW_US + RENEW_US)
    assert places.is_due(NOW_US + RENEW_US + 1)
    places.lost(NOW_US + LIVES_US + 1)
    assert places.held == 0
    assert places.is_due(NOW_US + LIVES_US + 1)
    assert places.ask(NOW_US + LIVES_US + 1) == (1, 1)
    places.answered(1, 1, 3, NOW_US + LIVES_US + 2)
    freed_us = NOW_US + LIVES_US + 3
    places.release(freed_us)
    assert places.ask(freed_us + KEPT_US) == (0, 1)
    assert places.is_due(freed_us + KEPT_US + 1)
    assert places.ask(freed_us + KEPT_US + 1) == (0, 0)
