"""What outlives a configuration, and what workers and machines share: Redis, the counts of the limits, the budgets.

A reload changes what is asked of these, never these themselves; where they are is a setting that needs a restart.
"""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial

import trio

from securellm.accounts.snapshot import Accounts
from securellm.accounts.spending import SpendingDatabase
from securellm.cache.answers import Answers
from securellm.cache.opening import choose_cache
from securellm.config import Config
from securellm.config.tree import RateLimit
from securellm.limits.budgets import Budgets
from securellm.limits.leased import LeasedStore
from securellm.limits.limiter import Limiter, Refusal
from securellm.limits.process import ProcessStore
from securellm.limits.quota import Store as LimitsStore
from securellm.limits.shared import open_shared_store
from securellm.redis_link.link import RedisLink, open_redis
from securellm.telemetry.metrics import Metrics
from securellm.telemetry.shadow import ShadowLog
from securellm.workers.place import Place

LIMITS_FILE = "limits"  # in the directory that workers share


class Commons:
    """See the module. Made by `open_commons`."""

    def __init__(
        self,
        link: RedisLink | None,
        limits: LimitsStore,
        budgets: Budgets,
        answers: Answers | None,
        accounts: Accounts,
        metrics: Metrics,
    ) -> None:
        self.link = link
        self.limits = limits
        self.budgets = budgets
        self.answers = answers
        self._accounts = accounts
        self._report = partial(_report_refusal, metrics, ShadowLog())

    async def keep(self) -> None:
        """Do what has to be done while nobody asks, until cancelled: leases on limits and on budgets."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.budgets.keep)
            if isinstance(self.limits, LeasedStore):
                nursery.start_soon(self.limits.keep)

    def follow(self, config: Config) -> None:
        """Go by another configuration: what is asked for in it from now on of what goes on."""
        if isinstance(self.limits, LeasedStore):
            self.limits.follow(config.rate_limit)
        if self.answers is not None:
            self.answers.follow(config.cache, config.redis.ttl_secs)
        self.budgets.follow(config.timeouts)

    def limiter(self, settings: RateLimit) -> Limiter:
        """The limits as a configuration sets them, on the counts that go on."""
        return Limiter(settings, self.limits, self._accounts.rates, _monotonic_us, self._report)


@asynccontextmanager
async def open_commons(config: Config, place: Place, accounts: Accounts, metrics: Metrics) -> AsyncIterator[Commons]:
    """Open what the configuration names; nothing here is waited for. Raises ConfigError."""
    async with AsyncExitStack() as opened:
        link = await opened.enter_async_context(open_redis(config.redis))
        limits = opened.enter_context(_open_limits(config.rate_limit, place, link))
        spending = SpendingDatabase(config)
        opened.callback(spending.close)
        budgets = Budgets(spending, accounts.budgets)
        budgets.follow(config.timeouts)
        cache = choose_cache(config.cache, link, time.monotonic)
        answers = Answers(config.cache, config.redis.ttl_secs, cache) if cache is not None else None
        yield Commons(link, limits, budgets, answers, accounts, metrics)


@contextmanager
def _open_limits(settings: RateLimit, place: Place, link: RedisLink | None) -> Iterator[LimitsStore]:
    """Where the counts are, as `rate_limit.store` says."""
    if link is not None and settings.store in ("auto", "redis"):
        yield LeasedStore(link, settings, _monotonic_us, processes=place.workers)
    elif place.run_dir is not None and settings.store in ("auto", "shared"):
        with open_shared_store(place.run_dir / LIMITS_FILE, place.slot, place.workers) as store:
            yield store
    else:
        yield ProcessStore()


def _monotonic_us() -> int:
    """The time for limits, the same in every process of the machine: a clock that is set back would lock buckets."""
    return time.monotonic_ns() // 1000


def _report_refusal(metrics: Metrics, shadow: ShadowLog, refusal: Refusal) -> None:
    metrics.count("securellm_rate_limited", refusal.scope, refusal.measure, "yes" if refusal.shadow else "no")
    if refusal.shadow:
        shadow.tell(refusal.scope, refusal.subject, refusal.measure)
