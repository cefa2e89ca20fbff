"""The store that leases from Redis as one that never waits, for the suite of all stores: Trio runs in a thread.

Redis is told the time by the test, as the other stores are.
"""

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import trio

from rig.redis_server import open_redis_server
from rig.waiting import until_true
from securellm.config.secrets import Secret
from securellm.config.tree import RateLimit, Redis
from securellm.errors import LimitsUnavailable
from securellm.limits.leased import LeasedStore
from securellm.limits.leased_scripts import scripts
from securellm.limits.quota import Demands, Denied, Levels, Never, Short, Store, StoreStatistics
from securellm.redis_link.link import RedisLink, open_redis

TOLD_TIME = "local now = tonumber(redis.call('GET', 'clock'))\n"
T = TypeVar("T")


class _InThread:
    """A leased store whose takes wait for their slices."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._now_us = 0
        self._token: trio.lowlevel.TrioToken
        self._link: RedisLink
        self._store: LeasedStore
        self._end: trio.Event

    def __repr__(self) -> str:
        return repr(self._store)

    def take(self, demands: Demands, tokens: int, now_us: int) -> Levels | Denied | Never | Short:
        async def take() -> Levels | Denied | Never | Short:
            self._tell(now_us)
            with trio.fail_after(20):
                while isinstance(answer := self._store.take(demands, tokens, now_us), Short):
                    try:
                        await self._store.refill(answer)
                    except LimitsUnavailable:  # this machine is busy: the suite is about what is counted
                        await trio.sleep(0.01)
            return answer

        return self._run(take)

    def would_allow(self, demands: Demands, tokens: int, now_us: int) -> Denied | Never | Short | None:
        async def look() -> Denied | Never | Short | None:
            self._tell(now_us)
            answer = self._store.would_allow(demands, tokens, now_us)
            return None if isinstance(answer, Short) else answer

        return self._run(look)

    def give_back(self, demands: Demands, levels: Levels, tokens: int, now_us: int, *, requests: bool = False) -> None:
        async def give_back() -> None:
            self._store.give_back(demands, levels, tokens, now_us, requests=requests)

        self._run(give_back)

    async def refill(self, short: Short) -> None:
        await self._store.refill(short)

    def statistics(self) -> StoreStatistics:
        return self._store.statistics()

    def serve(self, url: str) -> None:
        trio.run(self._serve, url)

    def wait_until_ready(self) -> None:
        assert self._ready.wait(30)

    def end(self) -> None:
        self._token.run_sync_soon(self._end.set)

    async def _serve(self, url: str) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        async with open_redis(Redis(url=Secret(url))) as link:
            assert link is not None
            self._link = link
            with trio.fail_after(20):
                await until_true(lambda: link.statistics().status == "healthy")
            self._store = LeasedStore(
                link, RateLimit(when_unreachable="refuse"), lambda: self._now_us, lua=scripts(TOLD_TIME)
            )
            self._ready.set()
            await self._end.wait()

    def _tell(self, now_us: int) -> None:
        if now_us != self._now_us:
            self._now_us = now_us
            self._link.send_nowait("SET", "clock", now_us)

    def _run(self, step: Callable[[], Awaitable[T]]) -> T:
        return trio.from_thread.run(step, trio_token=self._token)


@contextmanager
def leased_store(folder: Path) -> Iterator[Store]:
    """The store on a Redis of its own."""
    with open_redis_server(folder) as server:
        store = _InThread()
        thread = threading.Thread(target=store.serve, args=(server.url,))
        thread.start()
        try:
            store.wait_until_ready()
            yield store
        finally:
            store.end()
            thread.join(10)
