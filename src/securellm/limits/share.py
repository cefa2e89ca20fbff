"""What one process lets through of limits that it cannot share at the moment: its part of them, counted here. Pure.

With `parts` processes each one takes as if every request were that many. So all of them together keep to the limit as
far as each of them is cut off; one request fits into an untouched bucket, however many parts there are. What was known
of the shared bucket (`level_us`) is where it begins, and what was let through is owed to it: else an outage of a moment
would be room for a second burst.
"""

from securellm._fast import gcra
from securellm.limits.quota import Demand

MAX_BUCKETS = 50_000


class ShareLevel(int):
    """The level of a bucket of which was taken here and not of the shared one."""


class LocalShare:
    """Buckets of this process."""

    def __init__(self) -> None:
        self._tats_us: dict[bytes, int] = {}
        self._owed_us: dict[bytes, int] = {}  # as buckets without a part: what is owed is less from moment to moment

    def missing_us(self, demand: Demand, cost_us: int, parts: int, level_us: int, now_us: int) -> int:
        """How long until the cost fits; 0 when it does."""
        return max(-self._take(demand, cost_us, parts, level_us, now_us), 0)

    def spend(self, demand: Demand, cost_us: int, parts: int, level_us: int, now_us: int) -> ShareLevel:
        """Take what is known to fit."""
        if len(self._tats_us) >= MAX_BUCKETS and demand.bucket not in self._tats_us:
            self._tats_us = {bucket: tat_us for bucket, tat_us in self._tats_us.items() if tat_us > now_us}
            self._owed_us = {bucket: tat_us for bucket, tat_us in self._owed_us.items() if tat_us > now_us}
        self._tats_us[demand.bucket] = self._take(demand, cost_us, parts, level_us, now_us)
        owed_us = max(self._owed_us.get(demand.bucket, 0), now_us) + cost_us
        self._owed_us[demand.bucket] = owed_us
        return ShareLevel(self.level_us(demand, parts, now_us))

    def level_us(self, demand: Demand, parts: int, now_us: int) -> int:
        """The bucket's TAT as it has to be for the part that is left to be what remains."""
        backlog_us = max(self._tats_us.get(demand.bucket, 0) - now_us, 0)
        room_us = max(demand.capacity - backlog_us, 0) // parts
        return now_us + demand.capacity - room_us

    def adjust(self, demand: Demand, returned_us: int, parts: int, now_us: int) -> None:
        """Give back, or with a negative amount take more."""
        for levels, factor in ((self._tats_us, parts), (self._owed_us, 1)):
            if returned_us < 0:
                levels[demand.bucket] = gcra.charge(levels.get(demand.bucket, 0), now_us, -returned_us * factor)
            elif tat_us := levels.get(demand.bucket, 0):
                levels[demand.bucket] = max(tat_us - returned_us * factor, 0)

    def pay(self, demand: Demand, now_us: int) -> int:
        """Redis is back: what the shared bucket is owed, once."""
        self._tats_us.pop(demand.bucket, None)
        return max(self._owed_us.pop(demand.bucket, 0) - now_us, 0)

    def __len__(self) -> int:
        return len(self._tats_us)

    def _take(self, demand: Demand, cost_us: int, parts: int, level_us: int, now_us: int) -> int:
        tat_us = max(self._tats_us.get(demand.bucket, 0), level_us)
        return gcra.take(tat_us, now_us, cost_us * parts, max(demand.capacity, cost_us * parts))
