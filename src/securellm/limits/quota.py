"""What may be taken of what, and how a store answers. Pure.

A request meets a tuple of demands, each one bucket with its quota: of REQUESTS and CONCURRENT it takes one, of TOKENS
as many as it may use. A store grants all of them or none.

Requests and tokens are GCRA buckets (`_fast/gcra_py.py`), counted in microseconds. A quota of requests is rounded once,
when it is made: its interval is a whole number of microseconds, rounded up, so that exactly `burst` requests fit at
once and never more than the limit follow. Tokens are many and their interval is short, so each taking is rounded up by
less than a microsecond, and each giving back down.
"""

import enum
import hashlib
from typing import NamedTuple, Protocol

import msgspec

from securellm._fast import gcra
from securellm.config.tree import Rates

MINUTE_US = 60_000_000
LONGEST_US = 2**51  # 71 years: what the largest burst takes to come back, so that every sum stays in gcra's range
CONCURRENT_RETRY_US = 1_000_000  # nobody knows when a request that is being served will end
_BUCKET_BYTES = 16  # no two buckets ever share such a hash


class Measure(enum.IntEnum):
    """What is counted."""

    REQUESTS = gcra.REQUESTS
    TOKENS = gcra.TOKENS
    CONCURRENT = gcra.CONCURRENT


class Scope(enum.Enum):
    """Whose limit it is; as metrics and messages say it."""

    PROVIDER = "provider"
    KEY = "key"
    USER = "user"
    TEAM = "team"
    MODEL = "model"


class Quota(msgspec.Struct, frozen=True):
    """`limit` in `period_us`, and `burst` at once after a quiet time. Of CONCURRENT: `burst` at a time, no period."""

    limit: int
    period_us: int
    burst: int

    def cost_us(self, amount: int) -> int:
        """How much of the bucket `amount` takes, rounded up."""
        return gcra.cost_of(amount, self.limit, self.period_us)

    def returned_us(self, amount: int) -> int:
        """How much of the bucket `amount` gives back, rounded down."""
        return gcra.returned_of(amount, self.limit, self.period_us)

    @property
    def capacity_us(self) -> int:
        """How much the full bucket holds."""
        return self.cost_us(self.burst)

    def remaining(self, level: int, now_us: int) -> int:
        """How many would be granted now of a bucket at `level`."""
        if self.period_us == 0:
            return max(self.burst - level, 0)
        room_us = gcra.cost_of(self.burst, self.limit, self.period_us)
        if level > now_us:
            room_us -= level - now_us
        return min(room_us * self.limit // self.period_us, self.burst) if room_us > 0 else 0

    def reset_us(self, level: int, now_us: int) -> int:
        """How long until a bucket at `level` is full."""
        return level - now_us if self.period_us and level > now_us else 0


class Demand(NamedTuple):
    """One bucket that a request takes from. `demand_of` makes it. The first six are a `gcra.Cell`, in its order."""

    measure: Measure
    bucket: bytes  # its name in a store, the same in every process
    capacity: int  # of the full bucket in microseconds, or the highest count
    cost_us: int  # of one request; 0 for the other measures
    limit: int
    period_us: int
    quota: Quota
    scope: Scope
    subject: str  # whose: a key's id, a provider's name …


class Denied(msgspec.Struct, frozen=True):
    """It does not fit now. `demand` is the one to wait longest for; waiting that long is enough for all of them."""

    demand: Demand
    retry_after_us: int
    remaining: int  # what would still be granted of that bucket now
    reset_us: int  # until it is full


class Never(msgspec.Struct, frozen=True):
    """It is more than the bucket ever holds: waiting would not help."""

    demand: Demand


class Short(msgspec.Struct, frozen=True):
    """A store that leases its shares has none here at hand; `refill` waits for one."""

    demands: tuple[Demand, ...]


Demands = tuple[Demand, ...]
Levels = tuple[int, ...]  # for each demand what the bucket is at afterwards: its TAT, or the count of CONCURRENT


class StoreStatistics(msgspec.Struct, frozen=True):
    """Buckets that are not full, their bound, and how many had to be forgotten before they were full again."""

    kind: str
    buckets: int
    max_buckets: int
    forgotten: int


class Store(Protocol):
    """Where the counts are. `now_us` never comes from the store; `tokens` is what each TOKENS demand takes."""

    def take(self, demands: Demands, tokens: int, now_us: int) -> Levels | Denied | Never | Short:
        """Take from all buckets or from none. Never waits."""

    def would_allow(self, demands: Demands, tokens: int, now_us: int) -> Denied | Never | Short | None:
        """What `take` would answer, None for a grant; changes nothing."""

    def give_back(self, demands: Demands, levels: Levels, tokens: int, now_us: int, *, requests: bool = False) -> None:
        """Give back `tokens` and the places of a take that left the buckets at `levels`; the requests only if told.

        A negative number of tokens takes more, which is never refused: the bucket goes into debt, of sixty times its
        limit at most. Never waits, never raises.
        """

    async def refill(self, short: Short) -> None:
        """Wait, at most 50 ms, until there may be a share. Raises LimitsUnavailable when there is none by policy."""

    def statistics(self) -> StoreStatistics:
        """The figures now."""


def refuse(demands: Demands, tokens: int, now_us: int, levels: list[int]) -> Denied | Never:
    """As `find_refusal`, of buckets that are known not to grant all."""
    refusal = find_refusal(demands, tokens, now_us, levels)
    assert refusal is not None, "at least one demand was refused"
    return refusal


def find_refusal(demands: Demands, tokens: int, now_us: int, levels: list[int]) -> Denied | Never | None:
    """What buckets at `levels` do not grant: what can never be met, else what to wait longest for, else None."""
    worst: Denied | None = None
    for demand, level in zip(demands, levels, strict=True):
        if demand.measure is Measure.CONCURRENT:
            wait_us = CONCURRENT_RETRY_US if level >= demand.quota.burst else 0
        else:
            if demand.measure is Measure.TOKENS and tokens > demand.quota.burst:
                return Never(demand)
            cost_us = demand.cost_us or demand.quota.cost_us(tokens)
            wait_us = -gcra.take(level, now_us, cost_us, demand.capacity)
        if wait_us > 0 and (worst is None or wait_us > worst.retry_after_us):
            quota = demand.quota
            worst = Denied(demand, wait_us, quota.remaining(level, now_us), quota.reset_us(level, now_us))
    return worst


def demand_of(scope: Scope, subject: str, measure: Measure, quota: Quota) -> Demand:
    """The demand on one bucket."""
    name = f"{scope.value}\0{measure.value}\0{subject}".encode("utf-8", "surrogatepass")
    bucket = hashlib.blake2b(name, digest_size=_BUCKET_BYTES).digest()
    cost_us = quota.cost_us(1) if measure is Measure.REQUESTS else 0
    capacity = quota.burst if measure is Measure.CONCURRENT else quota.capacity_us
    return Demand(measure, bucket, capacity, cost_us, quota.limit, quota.period_us, quota, scope, subject)


def demands_of(scope: Scope, subject: str, rates: Rates) -> Demands:
    """The demands that a subject's rates make; None and 0 make none.

    Tokens have a minute's worth as their burst: a request asks for thousands at once, before anything is known of it,
    and providers count them by the minute; with less, one long prompt would never fit.
    """
    found = []
    if rates.rpm:
        interval_us = -(-MINUTE_US // rates.rpm)
        burst = min(rates.burst or -(-rates.rpm // 60), LONGEST_US // interval_us)
        found.append((Measure.REQUESTS, Quota(rates.rpm, interval_us * rates.rpm, burst)))
    if rates.tpm:
        found.append((Measure.TOKENS, Quota(rates.tpm, MINUTE_US, rates.tpm)))
    if rates.concurrent:
        found.append((Measure.CONCURRENT, Quota(rates.concurrent, 0, rates.concurrent)))
    return tuple(demand_of(scope, subject, measure, quota) for measure, quota in found)
