"""Limits counted in this process alone. Pure.

A bucket that is full again is as good as one that never was, so it is forgotten: for each new one, some at a time, two
old ones are looked at. Names of buckets come from keys, users and models, so their number is bounded all the same; past
the bound the bucket that is nearest to full, of a few, is forgotten early, which the statistics count.
"""

from collections import deque
from collections.abc import Callable
from itertools import islice
from types import ModuleType

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
    find_refusal,
    refuse,
)

MAX_BUCKETS = 200_000  # about 40 MB; far more than the keys of a company
_LOOKED_AT = 2  # for each new bucket, so that the sweep goes round faster than buckets are made
_MADE = 16  # new ones at once, so that the buckets of a few busy keys are not forgotten and made for each request
_CANDIDATES = 8  # of which one is forgotten when there are too many


class ProcessStore:
    """One process's buckets. `twin` is the arithmetic's, `_fast.gcra` but in a comparison."""

    def __init__(self, max_buckets: int = MAX_BUCKETS, twin: ModuleType = gcra) -> None:
        self._max_buckets = max_buckets
        self._made = max(1, min(_MADE, max_buckets // 64))
        self._tats_us: dict[bytes, int] = {}
        self._counts: dict[bytes, int] = {}  # of CONCURRENT; bounded by the requests that are being served
        self._round: deque[bytes] = deque()  # the buckets in the order in which they are looked at
        self._forgotten = 0
        self._take_all: Callable[[dict[bytes, int], dict[bytes, int], Demands, int, int], Levels | None]
        self._take_all = twin.take_all
        self._give_back_all: Callable[[dict[bytes, int], dict[bytes, int], Demands, Levels, int, int, bool], None]
        self._give_back_all = twin.give_back_all

    def __repr__(self) -> str:
        """What an operator may see."""
        return f"<ProcessStore {self.statistics()}>"

    def take(self, demands: Demands, tokens: int, now_us: int) -> Levels | Denied | Never | Short:
        """See Store."""
        tats_us = self._tats_us
        levels = self._take_all(tats_us, self._counts, demands, tokens, now_us)
        if levels is None:
            return refuse(demands, tokens, now_us, [self._level(demand) for demand in demands])
        if len(tats_us) - len(self._round) >= self._made:
            self._sweep(now_us)
        return levels

    def would_allow(self, demands: Demands, tokens: int, now_us: int) -> Denied | Never | Short | None:
        """See Store."""
        return find_refusal(demands, tokens, now_us, [self._level(demand) for demand in demands])

    def give_back(self, demands: Demands, levels: Levels, tokens: int, now_us: int, *, requests: bool = False) -> None:
        """See Store."""
        tats_us = self._tats_us
        self._give_back_all(tats_us, self._counts, demands, levels, tokens, now_us, requests)
        if tokens < 0 and len(tats_us) - len(self._round) >= self._made:  # else no bucket is made
            self._sweep(now_us)

    async def refill(self, short: Short) -> None:
        """See Store: here everything is always at hand."""

    def statistics(self) -> StoreStatistics:
        """See Store."""
        return StoreStatistics("process", len(self._tats_us) + len(self._counts), self._max_buckets, self._forgotten)

    def _level(self, demand: Demand) -> int:
        kept = self._counts if demand.measure is Measure.CONCURRENT else self._tats_us
        return kept.get(demand.bucket, 0)

    def _sweep(self, now_us: int) -> None:
        """For each of the buckets made since the last time look at two old ones."""
        tats_us, waiting = self._tats_us, self._round
        for new in tuple(islice(reversed(tats_us), len(tats_us) - len(waiting))):
            for _ in range(_LOOKED_AT):
                if not waiting:
                    break
                old = waiting.popleft()
                if tats_us[old] <= now_us:
                    del tats_us[old]
                else:
                    waiting.append(old)
            waiting.append(new)
            if len(waiting) > self._max_buckets:
                self._forget_one()

    def _forget_one(self) -> None:
        """Of the oldest few the one that is nearest to full."""
        candidates = [self._round.popleft() for _ in range(min(_CANDIDATES, len(self._round)))]
        nearest = min(candidates, key=self._tats_us.__getitem__)
        candidates.remove(nearest)
        self._round.extend(candidates)
        del self._tats_us[nearest]
        self._forgotten += 1
