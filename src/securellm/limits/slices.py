"""What one process holds of a bucket that machines share: slices leased from it, and what is owed to it. Pure.

A slice is room in microseconds, good until a moment. What is left of it then goes back, but for what time has given
back by itself in the meantime. How much is leased ahead follows from how much was used lately, so that a bucket that is
used now and then holds nothing back from others, and one in steady use always has the next slice before it needs it.
"""

from collections import deque
from typing import NamedTuple

from securellm.limits.quota import Demand, Measure

LONGEST_HOLD_US = 400_000
ARRIVED_US = 50_000  # from asking for a slice that is waited for until its use: nobody waits longer
FRESH_US = 100_000  # a refusal of the shared bucket is not asked for again so soon
FINAL_US = 2000  # from the end of a wait to the next look
_HOLD_SHARE = 16  # a slice ahead is held for this part of the bucket's time at most, and a burst refused so much early
_AHEAD_SHARE = 8  # and is this part of its room at most
_LEAST_RETRY_US = 1000


class _Slice:
    __slots__ = ("level_us", "room_us", "since_us", "until_us")

    def __init__(self, room_us: int, since_us: int, until_us: int, level_us: int) -> None:
        self.room_us = room_us
        self.since_us = since_us
        self.until_us = until_us
        self.level_us = level_us  # what the bucket was at when it was leased


class Ask(NamedTuple):
    """What is asked of the shared bucket, in microseconds; see `leased_scripts.LEASE`."""

    capacity_us: int
    unit_us: int
    need_us: int
    ahead_us: int
    hold_us: int
    charge_us: int
    returned_us: int


class Slices:
    """One bucket's. All times are of the clock that the store is given."""

    __slots__ = (
        "_charge_us",
        "_final_us",
        "_full_us",
        "_recent_us",
        "_returns",
        "_since_us",
        "_slices",
        "_tat_us",
        "_used_us",
        "asking",
        "demand",
        "hold_us",
        "touched_us",
        "waiting_us",
    )

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        self.hold_us = min(demand.capacity // _HOLD_SHARE, LONGEST_HOLD_US)  # for a slice leased ahead
        self.asking = False  # an ask is under way
        self.waiting_us = 0  # what callers wait for
        self.touched_us = 0
        self._slices: deque[_Slice] = deque()  # the one that ends first is the first
        self._tat_us = 0  # of the shared bucket, when it was last heard of
        self._full_us = -FRESH_US  # when it last granted less than was needed
        self._final_us = 0
        self._charge_us = 0
        self._returns: list[tuple[int, int]] = []  # room, and when it is full again without it
        self._since_us = 0
        self._used_us = 0  # since then
        self._recent_us = 0  # in as long a time before that

    @property
    def unit_us(self) -> int:
        """What is leased comes in whole requests; of tokens any amount will do."""
        return self.demand.cost_us if self.demand.measure is Measure.REQUESTS else 1

    def room_us(self, now_us: int) -> int:
        """What may be used now without asking."""
        self._expire(now_us)
        return sum(piece.room_us for piece in self._slices)

    def level_us(self, now_us: int) -> int:
        """The TAT of the bucket as far as is known, what is held here counted as not taken."""
        return max(self._tat_us - self.room_us(now_us), 0)

    def refuses(self, cost_us: int, now_us: int) -> bool:
        """The shared bucket had too little when it was asked just now, and time has not given that back since."""
        if 0 < self._final_us - now_us <= FINAL_US:
            return True
        if not 0 <= now_us - self._full_us < FRESH_US:
            return False
        return self.level_us(now_us) + cost_us - self.demand.capacity > now_us

    def refused_since(self, since_us: int) -> bool:
        """The shared bucket had too little when it was asked after that."""
        return self._full_us >= since_us

    def be_final(self, now_us: int) -> None:
        """Whoever waited for this refusal gets it, although it may fit by the time it looks."""
        self._final_us = now_us + FINAL_US

    def retry_after_us(self, cost_us: int, now_us: int) -> int:
        """When the cost will fit, if nobody takes anything meanwhile."""
        fits_us = self.level_us(now_us) + cost_us - self.demand.capacity
        return max(fits_us - now_us, self._final_us - now_us, _LEAST_RETRY_US)

    def touch(self, demand: Demand, now_us: int) -> None:
        """It is in use, under this quota, which may have changed."""
        self.touched_us = now_us
        if demand is not self.demand:
            self.demand = demand
            self.hold_us = min(demand.capacity // _HOLD_SHARE, LONGEST_HOLD_US)

    def spend(self, cost_us: int, now_us: int) -> None:
        """Use what is held; the room is known to be there."""
        if not 0 <= now_us - self._since_us < self.hold_us:
            self._recent_us = self._used_us if 0 <= now_us - self._since_us < 2 * self.hold_us else 0
            self._used_us, self._since_us = 0, now_us
        self._used_us += cost_us
        while cost_us > 0:
            first = self._slices[0]
            spent_us = min(first.room_us, cost_us)
            first.room_us -= spent_us
            cost_us -= spent_us
            if first.room_us == 0:
                self._slices.popleft()

    def charge(self, cost_us: int) -> None:
        """More was used than had been taken: the bucket goes into debt with the next ask."""
        self._charge_us += cost_us

    def give_back(self, returned_us: int, level_us: int) -> None:
        """Less was used than a take took that left the bucket at that level."""
        self._returns.append((returned_us, level_us))
        self._full_us = -FRESH_US  # it may fit now
        self._final_us = 0

    def wants_ahead(self, now_us: int) -> bool:
        """It is in use, and what is held lasts for less than half of a slice's time."""
        expected_us = self._expected_us(now_us)
        return expected_us > 0 and self._lasting_us(now_us) * 2 < expected_us

    def is_owing(self) -> bool:
        """There is something that the shared bucket has to be told."""
        return bool(self._charge_us or self._returns)

    def ask(self, now_us: int) -> Ask:
        """What to ask for now: what callers wait for, what is expected; and what is owed, which is thereby paid."""
        room_us = self.room_us(now_us)
        need_us = max(self.waiting_us - room_us, 0)
        ahead_us = 0
        if self.wants_ahead(now_us):
            ahead_us = min(self._expected_us(now_us) * 3 // 2, self.demand.capacity // _AHEAD_SHARE)
        charge_us, self._charge_us = self._charge_us, 0
        # A lease is booked at its end, so time has given back what lies between now and then, too.
        behind_us = now_us + self.hold_us
        returned_us = sum(min(back_us, max(until_us - behind_us, 0)) for back_us, until_us in self._returns)
        self._returns.clear()
        unit_us = self.unit_us
        return Ask(
            self.demand.capacity,
            unit_us,
            -(-need_us // unit_us) * unit_us,
            -(-ahead_us // unit_us) * unit_us,
            self.hold_us,
            charge_us,
            returned_us,
        )

    def answered(self, ask: Ask, granted_us: int, leased_us: int, tat_us: int, *, sent_us: int, now_us: int) -> None:
        """The shared bucket granted so much; its TAT is told in our clock."""
        self._tat_us = tat_us
        if leased_us:
            self._add(leased_us, sent_us, sent_us + ask.hold_us)
        if granted_us:
            self._add(granted_us, sent_us, sent_us + ARRIVED_US)
        if granted_us < ask.need_us:
            self._full_us = now_us
        elif ask.need_us:
            self._full_us = now_us - FRESH_US

    def unpaid(self, ask: Ask) -> None:
        """The ask was not answered: a debt is told again, what would have come back is lost with it."""
        self._charge_us += ask.charge_us

    def drop(self) -> None:
        """Everything that is held goes back."""
        for piece in self._slices:
            self._returns.append((piece.room_us, piece.level_us))
        self._slices.clear()

    def is_idle(self, now_us: int, after_us: int) -> bool:
        """Nothing is held, owed or waited for, and it was not used for so long."""
        busy = self.asking or self.waiting_us or self._slices or self.is_owing()
        return not busy and now_us - self.touched_us > after_us

    def _add(self, room_us: int, since_us: int, until_us: int) -> None:
        self._slices.append(_Slice(room_us, since_us, until_us, self._tat_us))
        if len(self._slices) > 1 and self._slices[-2].until_us > until_us:
            self._slices = deque(sorted(self._slices, key=lambda piece: piece.until_us))

    def _expire(self, now_us: int) -> None:
        while self._slices and not self._slices[0].since_us <= now_us < self._slices[0].until_us:
            ended = self._slices.popleft()
            self._returns.append((ended.room_us, ended.level_us))

    def _expected_us(self, now_us: int) -> int:
        """What will be used in the time of a slice: as much as lately, if that was more than one request."""
        if now_us - self._since_us >= 2 * self.hold_us or self._recent_us <= self.unit_us:
            return 0
        return self._recent_us

    def _lasting_us(self, now_us: int) -> int:
        """The room of slices that are not about to end."""
        soon_us = now_us + self.hold_us // 2
        return sum(piece.room_us for piece in self._slices if piece.until_us > soon_us)
