"""What one process holds of the places of a limit on requests at one time that machines share. Pure.

Places are leased one by one as they are needed, with a few ahead where many are in use; one that is free again is kept
for a moment, for the next request, and then goes back. Redis forgets the places of a process that does not renew them.
"""

from securellm.limits.quota import Demand

LIVES_US = 10_000_000  # a dead machine's places are free after this
RENEW_US = 3_000_000
KEPT_US = 200_000  # a free place waits so long for the next request
FINAL_US = 2000  # from the end of a wait to the next look
FRESH_US = 50_000  # a refusal is not asked for again so soon
_AHEAD_SHARE = 8  # of those in use


class Places:
    """One count's."""

    __slots__ = ("_freed_us", "_full_us", "_renewed_us", "asking", "demand", "held", "others", "used", "waiting")

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        self.asking = False
        self.waiting = 0  # callers that wait for a place
        self.used = 0
        self.held = 0  # leased, in use or not
        self.others = 0  # held by others, when last heard of
        self._full_us = -FRESH_US
        self._renewed_us = 0
        self._freed_us = 0

    @property
    def level(self) -> int:
        """How many are in use as far as is known; what is free here counts as free."""
        return self.used + self.others

    def refuses(self, now_us: int) -> bool:
        """There was no place, and that was asked just now."""
        return 0 <= now_us - self._full_us < FRESH_US

    def refused_since(self, since_us: int) -> bool:
        """There was no place when that was asked after then."""
        return self._full_us >= since_us

    def be_final(self, now_us: int) -> None:
        """Whoever waited for this refusal gets it."""
        self._full_us = max(self._full_us, now_us - FRESH_US + FINAL_US)

    def has_room(self) -> bool:
        """One is free here."""
        return self.used < self.held

    def release(self, now_us: int) -> None:
        """A request ended."""
        self.used = max(self.used - 1, 0)
        self._freed_us = now_us

    def wants_ahead(self) -> bool:
        """Many are in use and none is free."""
        return self.used >= _AHEAD_SHARE and self.used == self.held and self.level < self.demand.capacity

    def is_due(self, now_us: int) -> bool:
        """To be renewed, or to be given back."""
        if self.held > self.used and abs(now_us - self._freed_us) > KEPT_US:  # a clock that was set back counts, too
            return True
        return bool(self.held or self.used) and abs(now_us - self._renewed_us) > RENEW_US

    def ask(self, now_us: int) -> tuple[int, int]:
        """How many are in use, and how many are wanted."""
        free = self.held - self.used
        if self.waiting:
            return self.used, self.used + max(free, self.waiting) + self.used // _AHEAD_SHARE
        if self.wants_ahead():
            return self.used, self.used + self.used // _AHEAD_SHARE
        return self.used, self.used if abs(now_us - self._freed_us) > KEPT_US else self.held

    def answered(self, wanted: int, held: int, others: int, now_us: int) -> None:
        """So many are ours now."""
        self.held, self.others = held, others
        self._renewed_us = now_us
        if held > self.used:
            self._freed_us = now_us
        if held < min(wanted, self.used + self.waiting):
            self._full_us = now_us

    def lost(self, now_us: int) -> None:
        """Not renewed for too long: Redis may have given them to others."""
        if abs(now_us - self._renewed_us) > LIVES_US:
            self.held = 0

    def is_idle(self) -> bool:
        """Nothing is held or waited for."""
        return not (self.asking or self.waiting or self.held or self.used)
