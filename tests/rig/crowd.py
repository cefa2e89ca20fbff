"""Callers of a whole gateway, at one or at several: what each was answered, when it asked and when it knew."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

import trio

from rig.doors import CHAT
from rig.raw_client import BodyCut, RawClient, open_client

OpenClient = Callable[[], AbstractAsyncContextManager[RawClient]]
CUT = 0  # the status of a call whose connection broke


class Asked(NamedTuple):
    """One call, in trio's seconds."""

    asked_s: float
    answered_s: float
    status: int
    code: str | None
    name: str | None  # x-request-id
    retry_after: str | None = None

    @property
    def took_s(self) -> float:
        """From the first byte sent to the last one received."""
        return self.answered_s - self.asked_s


class Crowd:
    """Callers with one key and one body."""

    def __init__(self, key: str, body: bytes = CHAT.body("openai/m1", max_tokens=1000)) -> None:
        self.key = key
        self.body = body
        self.calls: list[Asked] = []
        self.stopping = False

    async def ask(self, at: OpenClient) -> Asked:
        """One call on a connection of its own."""
        asked_s = trio.current_time()
        call = Asked(asked_s, asked_s, CUT, None, None)
        with contextlib.suppress(OSError, BodyCut, trio.BrokenResourceError):
            async with at() as client:
                call = await self._ask_on(client, asked_s)
        self.calls.append(call._replace(answered_s=trio.current_time()))
        return self.calls[-1]

    async def ask_all_at_once(self, at: Sequence[OpenClient], count: int) -> None:
        """So many calls, spread over the gateways, none of which waits for another."""
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(self.ask, at[number % len(at)])

    async def keep_asking(self, at: OpenClient, every_s: float = 0.0) -> None:
        """One after the other until `stopping`; a connection that broke is made again."""
        while not self.stopping:
            asked_s = trio.current_time()
            try:
                async with at() as client:
                    while not self.stopping:
                        asked_s = trio.current_time()
                        call = await self._ask_on(client, asked_s)
                        self.calls.append(call)
                        await trio.sleep(every_s)
            except (OSError, BodyCut, trio.BrokenResourceError):
                self.calls.append(Asked(asked_s, trio.current_time(), CUT, None, None))

    def statuses(self) -> Counter[int]:
        """How many of each."""
        return Counter(call.status for call in self.calls)

    def answered(self, status: int = 200) -> list[Asked]:
        """The calls that were, in the order in which they were asked."""
        return sorted(call for call in self.calls if call.status == status)

    async def _ask_on(self, client: RawClient, asked_s: float) -> Asked:
        await client.request("POST", CHAT.path, self.body, CHAT.auth(self.key))
        response = await client.read_response()
        if response.cut is not None:
            raise BodyCut(response.body, response.cut)
        code = None if response.status == 200 else response.json()["error"]["code"]
        name, after = response.header("x-request-id"), response.header("retry-after")
        return Asked(asked_s, trio.current_time(), response.status, code, name, after)


async def until_so(condition: Callable[[], Awaitable[bool]], *, look_every_s: float = 0.02) -> float:
    """Return when the condition holds: how long it took. Whoever calls sets the deadline."""
    began_s = trio.current_time()
    while not await condition():  # noqa: ASYNC110 - what is looked at belongs to other processes
        await trio.sleep(look_every_s)
    return trio.current_time() - began_s


def by_loopback(base_url: str) -> OpenClient:
    """Clients of a gateway of this machine."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[RawClient]:
        async with open_client(base_url) as client:
            yield client

    return opened


def most_over(calls: Sequence[Asked], rate_per_s: float, burst: int) -> float:
    """How far the busiest stretch of time went over a limit; at most 0 when none did.

    Each call was let in at some moment between its asking and its answer, so that a stretch is taken from the asking
    of its first call to the answer of its last: longer than it was, never shorter.
    """
    worst = float("-inf")
    ordered = sorted(calls, key=lambda call: call.asked_s)
    for first, call in enumerate(ordered):
        ends = sorted(later.answered_s for later in ordered[first:])
        for count, end_s in enumerate(ends, 1):
            worst = max(worst, count - burst - rate_per_s * (end_s - call.asked_s))
    return worst


def percentiles(calls: Sequence[Asked]) -> str:
    """Median, 99th percentile and the slowest, for people."""
    times = sorted(call.took_s * 1000 for call in calls)
    if not times:
        return "no calls"
    return (
        f"{len(times)} calls, median {times[len(times) // 2]:.1f} ms,"
        f" 99 % under {times[len(times) * 99 // 100]:.1f} ms, slowest {times[-1]:.1f} ms"
    )
