"""One machine of several that share limits by Redis: takes as often as it may, and tells when it was granted.

    python -m rig.leased_process URL SECONDS CALLERS RPM BURST

Prints a line for each grant: the monotonic clock, in microseconds, which all processes of a machine share. A line on
stdin begins it.
"""

import sys
import time

import trio

from rig.limit_stores import demands
from securellm.config.secrets import Secret
from securellm.config.tree import RateLimit, Redis
from securellm.errors import LimitsUnavailable
from securellm.limits.leased import LeasedStore
from securellm.limits.quota import Demands, Denied, Short
from securellm.redis_link.link import open_redis


def now_us() -> int:
    return time.monotonic_ns() // 1000


async def _call(store: LeasedStore, asked: Demands, until_us: int, granted: list[int]) -> None:
    while now_us() < until_us:
        at_us = now_us()
        answer = store.take(asked, 0, at_us)
        if isinstance(answer, Short):
            try:
                await store.refill(answer)
            except LimitsUnavailable:
                await trio.sleep(0.02)
                continue
            at_us = now_us()
            answer = store.take(asked, 0, at_us)
            if isinstance(answer, Short):  # this process was too slow to use what it got
                continue
        if isinstance(answer, Denied):
            await trio.sleep(min(answer.retry_after_us, 20_000) / 1_000_000)
        else:
            granted.append(at_us)
            await trio.sleep(0.001)


async def main(url: str, seconds: str, callers: str, rpm: str, burst: str) -> None:
    async with open_redis(Redis(url=Secret(url))) as link:
        assert link is not None
        store = LeasedStore(link, RateLimit(when_unreachable="refuse"), now_us)
        while link.statistics().status != "healthy":  # noqa: ASYNC110 - it announces nothing
            await trio.sleep(0.01)
        print("ready", flush=True)
        sys.stdin.readline()
        asked = demands(rpm=int(rpm), burst=int(burst))
        granted: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.keep)
            async with trio.open_nursery() as callers_nursery:
                for _ in range(int(callers)):
                    callers_nursery.start_soon(_call, store, asked, now_us() + int(float(seconds) * 1e6), granted)
            nursery.cancel_scope.cancel()
        for at_us in granted:
            print(at_us)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
