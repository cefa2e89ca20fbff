"""Limits counted across machines: slices of the buckets are leased from Redis ahead of need.

A request takes from what this process holds, in memory. Only one that finds nothing there waits, 50 ms at most, for
Redis; then the policy decides: `degrade` lets through this process's part of the limit, counted here (`share.py`), and
`refuse` answers 503. Where Redis is known to be away nobody waits at all. With Redis the sum over all processes is
never over a limit in any window, as counted when Redis granted it; `leased_scripts.py` says why.

`keep` is a long-lived task: it returns what was not used, renews places and tells who is there. Without it everything
runs out by itself.
"""

import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import trio

from securellm._fast import gcra
from securellm.config.tree import RateLimit
from securellm.errors import LimitsUnavailable
from securellm.limits.leased_scripts import Scripts, scripts
from securellm.limits.places import LIVES_US, Places
from securellm.limits.quota import (
    CONCURRENT_RETRY_US,
    Demand,
    Demands,
    Denied,
    Levels,
    Measure,
    Never,
    Short,
    StoreStatistics,
)
from securellm.limits.share import LocalShare, ShareLevel
from securellm.limits.slices import FINAL_US, Ask, Slices
from securellm.redis_link.commands import RedisUnavailable
from securellm.redis_link.link import RedisLink

WAIT_S = 0.05
TEND_S = 0.05  # how often is looked for what has to be told to Redis
MEMBER_EVERY_US = 2_000_000
MEMBER_LIVES_US = 10_000_000
SWEPT = 200  # idle buckets looked for at a time
IDLE_US = 10_000_000  # a bucket that was not used for so long is forgotten here
MAX_BUCKETS = 200_000
_PREFIX = b"securellm:limits:"
_ROOM, _SHARE = "room", "share"  # where something is taken from


class LeasedShort(Short, frozen=True):
    """As Short, with what has to be there before it is worth trying again."""

    tokens: int


class LeasedStore:
    """See the module. `processes` serve on this machine; that counts until Redis says how many there are in all."""

    def __init__(
        self,
        link: RedisLink,
        settings: RateLimit,
        now_us: Callable[[], int],
        *,
        processes: int = 1,
        lua: Scripts | None = None,
    ) -> None:
        self._link = link
        self._scripts = lua or scripts()
        self._refuses = False
        self.follow(settings)
        self._now_us = now_us
        self._member = secrets.token_hex(8)
        self._parts = 2 * processes  # another machine is there, or nobody would have set Redis up
        self._slices: dict[bytes, Slices] = {}
        self._places: dict[bytes, Places] = {}
        self._share = LocalShare()
        self._waiting: dict[bytes, set[trio.Event]] = {}  # by the bucket that is asked for
        self._busy: dict[bytes, None] = {}  # buckets of which something is held or owed
        self._round: deque[bytes] = deque()  # all buckets, in the order in which they are looked at
        self._clock_us: int | None = None  # Redis's clock minus ours
        self._announced_us = -MEMBER_EVERY_US
        self._cut_off_until_us = 0  # Redis is there and did not answer just now
        self._forgotten = 0

    def follow(self, settings: RateLimit) -> None:
        """Go by this policy for when Redis is away."""
        self._refuses = settings.when_unreachable == "refuse"

    @property
    def degraded(self) -> bool:
        """What is let through is counted here alone."""
        return not self._link.available

    def __repr__(self) -> str:
        """What an operator may see."""
        return f"<LeasedStore {self.statistics()} parts={self._parts}>"

    def take(self, demands: Demands, tokens: int, now_us: int) -> Levels | Denied | Never | Short:
        """See Store."""
        plan = self._plan(demands, tokens, now_us)
        if not isinstance(plan, list):
            return plan
        return tuple(self._spend(demand, source, tokens, now_us) for demand, source in zip(demands, plan, strict=True))

    def would_allow(self, demands: Demands, tokens: int, now_us: int) -> Denied | Never | Short | None:
        """See Store."""
        plan = self._plan(demands, tokens, now_us)
        return None if isinstance(plan, list) else plan

    def give_back(self, demands: Demands, levels: Levels, tokens: int, now_us: int, *, requests: bool = False) -> None:
        """See Store. It is told to Redis within 50 ms; more that is taken, too."""
        for demand, level in zip(demands, levels, strict=True):
            if amount := gcra.amount_back(demand, tokens, requests):
                self._give_back(demand, amount, now_us, level)

    async def refill(self, short: Short) -> None:
        """See Store."""
        assert isinstance(short, LeasedShort), "what this store's take returned"
        began_s, began_us = time.monotonic(), self._now_us()
        self._count_waiting(short, 1)
        try:
            with trio.move_on_after(WAIT_S):
                await trio.lowlevel.checkpoint()  # whoever else comes in this moment is asked for together with us
                while not self._is_decided(short) and self._link.available:
                    await self._ask_and_wait(short.demands)
            if not self._is_decided(short):
                await trio.lowlevel.checkpoint()  # where this thread was busy all the time the answer may be waiting
        finally:
            self._count_waiting(short, -1)
        buckets = [self._bucket_of(demand) for demand in short.demands]
        for bucket in buckets:
            if bucket.refused_since(began_us):
                bucket.be_final(self._now_us())  # the answer came; this thread had too much to do to look in time
        if self._is_decided(short):
            return
        if self._link.available and any(bucket.asking for bucket in buckets):
            self._link.waited_in_vain(began_s)
        if self._refuses:
            raise LimitsUnavailable("the limits' shared counts cannot be reached", retry_after_s=1.0)
        self._cut_off_until_us = self._now_us() + FINAL_US

    async def keep(self) -> None:
        """Run until cancelled; then everything that is held goes back, as far as Redis can be told."""
        try:
            while True:
                self._tend(self._now_us())
                await trio.sleep(TEND_S)
        finally:
            self._drop()

    def statistics(self) -> StoreStatistics:
        """See Store."""
        kind = "redis (cut off: a local share)" if self.degraded else "redis"
        buckets = len(self._slices) + len(self._places) + len(self._share)
        return StoreStatistics(kind, buckets, MAX_BUCKETS, self._forgotten)

    def _plan(self, demands: Demands, tokens: int, now_us: int) -> list[str] | Denied | Never | Short:
        """Where each demand is met from; or why not all of them are."""
        plan: list[str] = []
        short: list[Demand] = []
        worst: Denied | None = None
        for demand in demands:
            answer = self._look(demand, tokens, now_us)
            if isinstance(answer, str):
                plan.append(answer)
            elif answer is None:
                short.append(demand)
            elif isinstance(answer, Never):
                return answer
            elif worst is None or answer.retry_after_us > worst.retry_after_us:
                worst = answer
        if worst is not None:
            return worst
        return LeasedShort(tuple(short), tokens) if short else plan

    def _look(self, demand: Demand, tokens: int, now_us: int) -> str | Denied | Never | None:
        """Where it is met from, a refusal, or None: Redis has to be asked."""
        if demand.measure is Measure.CONCURRENT:
            return self._look_for_place(demand, now_us)
        if demand.measure is Measure.TOKENS and tokens > demand.quota.burst:
            return Never(demand)
        cost_us = _cost_us(demand, tokens)
        slices = self._slices.get(demand.bucket)
        if cost_us == 0 or (slices is not None and slices.room_us(now_us) >= cost_us):
            return _ROOM
        if self._is_cut_off(now_us):
            if self._refuses:
                return None
            level_us = slices.level_us(now_us) if slices is not None else 0
            missing_us = self._share.missing_us(demand, cost_us, self._parts, level_us, now_us)
            if missing_us == 0:
                return _SHARE
            return _denied(demand, missing_us, self._share.level_us(demand, self._parts, now_us), now_us)
        if slices is not None and slices.refuses(cost_us, now_us):
            return _denied(demand, slices.retry_after_us(cost_us, now_us), slices.level_us(now_us), now_us)
        return None

    def _look_for_place(self, demand: Demand, now_us: int) -> str | Denied | None:
        places = self._places.get(demand.bucket)
        if places is not None and places.has_room():
            return _ROOM
        if self._is_cut_off(now_us):
            if self._refuses:
                return None
            used = places.used if places is not None else 0
            if used < max(demand.capacity // self._parts, 1):
                return _SHARE
            return _denied(demand, CONCURRENT_RETRY_US, demand.capacity, now_us)
        if places is not None and places.refuses(now_us):
            return _denied(demand, CONCURRENT_RETRY_US, max(places.level, demand.capacity), now_us)
        return None

    def _is_cut_off(self, now_us: int) -> bool:
        return not self._link.available or 0 < self._cut_off_until_us - now_us <= FINAL_US

    def _spend(self, demand: Demand, source: str, tokens: int, now_us: int) -> int:
        """Take what is known to be there; the level afterwards."""
        if demand.measure is Measure.CONCURRENT:
            places = self._places_of(demand)
            places.used += 1
            if places.wants_ahead():
                self._ask(demand)
            return places.level
        cost_us = _cost_us(demand, tokens)
        slices = self._slices_of(demand)
        if source is _SHARE:
            return self._share.spend(demand, cost_us, self._parts, slices.level_us(now_us), now_us)
        slices.spend(cost_us, now_us)
        if slices.wants_ahead(now_us):
            self._ask(demand)
        return slices.level_us(now_us)

    def _give_back(self, demand: Demand, amount: int, now_us: int, level: int) -> None:
        if demand.measure is Measure.CONCURRENT:
            self._places_of(demand).release(now_us)
            return
        if amount < 0:
            us = -demand.quota.cost_us(-amount)
        else:
            us = min(demand.quota.returned_us(amount), max(level - now_us, 0))
        if isinstance(level, ShareLevel):
            self._share.adjust(demand, us, self._parts, now_us)
        elif us < 0:
            self._slices_of(demand).charge(-us)
        elif us > 0:
            self._slices_of(demand).give_back(us, level)

    def _is_decided(self, short: LeasedShort) -> bool:
        """Trying again would not be told to wait."""
        now_us = self._now_us()
        answers = [self._look(demand, short.tokens, now_us) for demand in short.demands]
        for demand, answer in zip(short.demands, answers, strict=True):
            if isinstance(answer, Denied):
                self._bucket_of(demand).be_final(now_us)
        return None not in answers or any(isinstance(answer, Denied) for answer in answers)

    def _count_waiting(self, short: LeasedShort, sign: int) -> None:
        for demand in short.demands:
            if demand.measure is Measure.CONCURRENT:
                self._places_of(demand).waiting += sign
            else:
                self._slices_of(demand).waiting_us += sign * _cost_us(demand, short.tokens)

    async def _ask_and_wait(self, demands: Demands) -> None:
        """Ask for what is short, and return when one answer has come."""
        changed = trio.Event()
        for demand in demands:
            self._waiting.setdefault(demand.bucket, set()).add(changed)
        try:
            for demand in demands:
                self._ask(demand)
            await changed.wait()
        finally:
            for demand in demands:
                waiting = self._waiting[demand.bucket]
                waiting.discard(changed)
                if not waiting:
                    del self._waiting[demand.bucket]

    def _ask(self, demand: Demand) -> None:
        """Ask Redis for what the bucket lacks and tell it what it is owed, unless that is under way. Never waits."""
        if demand.measure is Measure.CONCURRENT:
            self._ask_for_places(self._places_of(demand))
        else:
            self._ask_for_slice(self._slices_of(demand))

    def _ask_for_slice(self, slices: Slices) -> None:
        if slices.asking:
            return
        now_us = self._now_us()
        slices.charge(self._share.pay(slices.demand, now_us))
        ask = slices.ask(now_us)
        slices.asking = True
        try:
            self._link.post(
                self._scripts.lease,
                [_name(slices.demand)],
                [*ask, self._asked_us(now_us)],
                lambda reply: self._slice_came(slices, ask, now_us, reply),
            )
        except RedisUnavailable as exc:
            self._slice_came(slices, ask, now_us, exc)

    def _slice_came(self, slices: Slices, ask: Ask, sent_us: int, reply: Any) -> None:
        slices.asking = False
        if isinstance(reply, RedisUnavailable):
            slices.unpaid(ask)
        else:
            granted_us, leased_us, tat_us, redis_us = reply
            now_us = self._now_us()
            self._compare_clocks(redis_us, now_us)
            tat_us += now_us - redis_us
            slices.answered(ask, granted_us, leased_us, tat_us, sent_us=sent_us, now_us=now_us)
            if granted_us or leased_us:
                self._busy[slices.demand.bucket] = None
        self._wake(slices.demand)

    def _ask_for_places(self, places: Places) -> None:
        if places.asking:
            return
        now_us = self._now_us()
        used, wanted = places.ask(now_us)
        places.asking = True
        try:
            self._link.post(
                self._scripts.places,
                [_name(places.demand)],
                [self._member, used, wanted, places.demand.capacity, LIVES_US, self._asked_us(now_us)],
                lambda reply: self._places_came(places, wanted, reply),
            )
        except RedisUnavailable as exc:
            self._places_came(places, wanted, exc)

    def _places_came(self, places: Places, wanted: int, reply: Any) -> None:
        places.asking = False
        if not isinstance(reply, RedisUnavailable):
            held, others, redis_us = reply
            now_us = self._now_us()
            self._compare_clocks(redis_us, now_us)
            places.answered(wanted, held, others, now_us)
        self._wake(places.demand)

    def _wake(self, demand: Demand) -> None:
        for changed in self._waiting.get(demand.bucket, ()):
            changed.set()

    def _compare_clocks(self, redis_us: int, now_us: int) -> None:
        """Redis read its clock before we read ours, so the largest difference that was seen is the nearest."""
        clock_us = redis_us - now_us
        self._clock_us = clock_us if self._clock_us is None else max(clock_us, self._clock_us)

    def _asked_us(self, now_us: int) -> int:
        """The time of Redis as far as is known, rather later than earlier."""
        return max(now_us + self._clock_us, 0) if self._clock_us is not None else 0

    def _tend(self, now_us: int) -> None:
        """Return what is held in vain, renew what is in use, forget what is idle."""
        for bucket in list(self._busy):
            slices = self._slices.get(bucket)
            if slices is None or (slices.room_us(now_us) == 0 and not slices.is_owing()):
                del self._busy[bucket]
            elif slices.is_owing() and self._link.available:
                self._ask_for_slice(slices)
        for bucket, places in list(self._places.items()):
            places.lost(now_us)
            if places.is_due(now_us) and self._link.available:
                self._ask_for_places(places)
            elif places.is_idle():
                del self._places[bucket]
        for _ in range(min(SWEPT, len(self._round))):
            self._sweep(now_us, IDLE_US)
        if abs(now_us - self._announced_us) > MEMBER_EVERY_US:
            self._announced_us = now_us
            self._announce(MEMBER_LIVES_US)

    def _sweep(self, now_us: int, after_us: int) -> None:
        bucket = self._round.popleft()
        if self._slices[bucket].is_idle(now_us, after_us):
            del self._slices[bucket]
        else:
            self._round.append(bucket)

    def _announce(self, lives_us: int) -> None:
        """Tell that this process is there, and learn how many are."""

        def learn(reply: Any) -> None:
            if not isinstance(reply, RedisUnavailable):
                self._parts = max(reply, 1)

        try:
            self._link.post(self._scripts.members, [_PREFIX + b"members"], [self._member, lives_us], learn)
        except RedisUnavailable:
            self._announced_us = 0  # with the next look

    def _drop(self) -> None:
        """Everything that is held goes back; at the end."""
        for slices in self._slices.values():
            slices.drop()
            if slices.is_owing():
                self._ask_for_slice(slices)
        for places in self._places.values():
            places.used = 0
            places.asking = False
            self._ask_for_places(places)
        self._announce(-1)

    def _bucket_of(self, demand: Demand) -> Places | Slices:
        return self._places_of(demand) if demand.measure is Measure.CONCURRENT else self._slices_of(demand)

    def _slices_of(self, demand: Demand) -> Slices:
        slices = self._slices.get(demand.bucket)
        if slices is None:
            if len(self._slices) >= MAX_BUCKETS:
                self._sweep(self._now_us(), 0)
                self._forgotten += 1
            slices = self._slices[demand.bucket] = Slices(demand)
            self._round.append(demand.bucket)
        self._busy[demand.bucket] = None
        slices.touch(demand, self._now_us())
        return slices

    def _places_of(self, demand: Demand) -> Places:
        places = self._places.get(demand.bucket)
        if places is None:
            places = self._places[demand.bucket] = Places(demand)
        places.demand = demand
        return places


def _cost_us(demand: Demand, tokens: int) -> int:
    return demand.cost_us if demand.measure is Measure.REQUESTS else demand.quota.cost_us(tokens)


def _denied(demand: Demand, retry_after_us: int, level: int, now_us: int) -> Denied:
    quota = demand.quota
    return Denied(demand, retry_after_us, quota.remaining(level, now_us), quota.reset_us(level, now_us))


def _name(demand: Demand) -> bytes:
    return _PREFIX + demand.bucket.hex().encode()
