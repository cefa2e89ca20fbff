"""Limits counted in this process alone. Pure.

A bucket that is full again is as good as one that never was, so it is forgotten: whenever a new one is made, two old
ones are looked at. Names of buckets come from keys, users and models, so their number is bounded all the same; past the
bound the bucket that is nearest to full, of a few, is forgotten early, which the statistics count.
"""

from collections import deque

from securellm._fast import gcra
from securellm.limits.quota import (
    Demand,
    Demands,
    Denied,
    Levels,
    Measure,
    Never,
    Short,
    StoreStatistics,
    refuse,
)

MAX_BUCKETS = 200_000  # about 40 MB; far more than the keys of a company
_LOOKED_AT = 2  # for each new bucket, so that the sweep goes round faster than buckets are made
_CANDIDATES = 8  # of which one is forgotten when there are too many


class ProcessStore:
    """One process's buckets."""

    def __init__(self, max_buckets: int = MAX_BUCKETS) -> None:
        self._max_buckets = max_buckets
        self._tats_us: dict[bytes, int] = {}
        self._counts: dict[bytes, int] = {}  # of CONCURRENT; bounded by the requests that are being served
        self._round: deque[bytes] = deque()  # the buckets in the order in which they are looked at
        self._forgotten = 0

    def __repr__(self) -> str:
        """What an operator may see."""
        return f"<ProcessStore {self.statistics()}>"

    def take(self, demands: Demands, tokens: int, now_us: int) -> Levels | Denied | Never | Short:
        """See Store."""
        levels = self._decide(demands, tokens, now_us)
        if not isinstance(levels, tuple):
            return levels
        for demand, level in zip(demands, levels, strict=True):
            if demand.measure is Measure.CONCURRENT:
                self._counts[demand.bucket] = level
            else:
                self._keep(demand.bucket, level, now_us)
        return levels

    def would_allow(self, demands: Demands, tokens: int, now_us: int) -> Denied | Never | Short | None:
        """See Store."""
        answer = self._decide(demands, tokens, now_us)
        return None if isinstance(answer, tuple) else answer

    def give_back(self, demand: Demand, amount: int, now_us: int, level: int) -> None:
        """See Store."""
        bucket = demand.bucket
        if demand.measure is Measure.CONCURRENT:
            count = self._counts.get(bucket, 0) - amount
            if count > 0:
                self._counts[bucket] = count
            else:
                self._counts.pop(bucket, None)
        elif amount < 0:
            tat_us = self._tats_us.get(bucket, 0)
            self._keep(bucket, gcra.charge(tat_us, now_us, demand.quota.cost_us(-amount)), now_us)
        elif (known_us := self._tats_us.get(bucket)) is not None:
            self._tats_us[bucket] = gcra.give_back(known_us, now_us, demand.quota.returned_us(amount), level)

    async def refill(self, short: Short) -> None:
        """See Store: here everything is always at hand."""

    def statistics(self) -> StoreStatistics:
        """See Store."""
        return StoreStatistics("process", len(self._tats_us) + len(self._counts), self._max_buckets, self._forgotten)

    def _decide(self, demands: Demands, tokens: int, now_us: int) -> Levels | Denied | Never:
        tats_us, take = self._tats_us, gcra.take
        levels = []
        for demand in demands:
            measure = demand.measure
            if measure is Measure.CONCURRENT:
                level = self._counts.get(demand.bucket, 0) + 1
                if level > demand.quota.burst:
                    return self._refuse(demands, tokens, now_us)
            else:
                cost_us = demand.cost_us or demand.quota.cost_us(tokens)
                level = take(tats_us.get(demand.bucket, 0), now_us, cost_us, demand.capacity_us)
                if level < 0:
                    return self._refuse(demands, tokens, now_us)
            levels.append(level)
        return tuple(levels)

    def _refuse(self, demands: Demands, tokens: int, now_us: int) -> Denied | Never:
        """Why not: the demand that can never be met, else the one to wait longest for."""
        return refuse(demands, tokens, now_us, [self._level(demand) for demand in demands])

    def _level(self, demand: Demand) -> int:
        kept = self._counts if demand.measure is Measure.CONCURRENT else self._tats_us
        return kept.get(demand.bucket, 0)

    def _keep(self, bucket: bytes, tat_us: int, now_us: int) -> None:
        if bucket not in self._tats_us:
            self._make_room(now_us)
            self._round.append(bucket)
        self._tats_us[bucket] = tat_us

    def _make_room(self, now_us: int) -> None:
        """Look at two old buckets, for a new one that is about to be kept."""
        tats_us, waiting = self._tats_us, self._round
        for _ in range(min(_LOOKED_AT, len(waiting))):
            bucket = waiting.popleft()
            if tats_us[bucket] <= now_us:
                del tats_us[bucket]
            else:
                waiting.append(bucket)
        if len(waiting) >= self._max_buckets:
            candidates = [waiting.popleft() for _ in range(min(_CANDIDATES, len(waiting)))]
            nearest = min(candidates, key=tats_us.__getitem__)
            candidates.remove(nearest)
            waiting.extend(candidates)
            del tats_us[nearest]
            self._forgotten += 1
