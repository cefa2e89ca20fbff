"""The link to Redis as the rest of the gateway sees it, in Trio's thread: ask, wait 50 ms at most, or be told no.

A command goes to the worker's thread and goes on there, whatever becomes of whoever asked: the wait is cancelled, never
the command (a connection on which a command was cancelled has an answer under way that belongs to nobody).
"""

import contextlib
import importlib.util
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
import trio

from securellm.config.tree import Redis
from securellm.errors import ConfigError
from securellm.redis_link.breaker import BreakerState
from securellm.redis_link.commands import PENDING, Asked, RedisUnavailable, Reply, Script, Word
from securellm.redis_link.servers import Connection
from securellm.redis_link.url import Place, parse_place
from securellm.redis_link.worker import CALL_S, Worker, clock_s

CLOSE_S = 0.5  # for what is queued at the end


class RedisStatistics(msgspec.Struct, frozen=True):
    """For health and metrics. `status` is healthy, degraded (no answer yet, or commands are refused) or unhealthy."""

    status: str
    latency_ms: float | None
    error: str | None
    breaker: BreakerState
    failures: int
    opened: int
    queued: int
    queued_bytes: int


class RedisLink:
    """Made by `open_redis`. Every method is for Trio's thread."""

    def __init__(self, place: Place, *, connect_timeout_s: float) -> None:
        self._place = place
        self._token = trio.lowlevel.current_trio_token()
        self._ended = trio.Event()
        self._worker = Worker(
            lambda: Connection(place, connect_timeout_s=connect_timeout_s),
            self._deliver_soon,
            lambda: self._soon(self._ended.set),
        )

    @property
    def available(self) -> bool:
        """Redis may be asked now; a call may fail all the same."""
        return self._worker.available

    async def call(self, *words: Word) -> Reply:
        """One command and its answer, within 50 ms. Raises RedisUnavailable, at once where it is known."""
        return await self._wait(words, None)

    async def script(self, script: Script, keys: Sequence[Word], arguments: Sequence[Word]) -> Reply:
        """A Lua script and its answer, as `call`. On a cluster all keys lie in one slot."""
        return await self._wait((len(keys), *keys, *arguments), script)

    def send_nowait(self, *words: Word) -> bool:
        """A command whose answer nobody needs; whether it was queued. Never waits."""
        try:
            self._worker.submit(Asked(words, queued_s=clock_s()))
        except RedisUnavailable:
            return False
        return True

    def post(
        self,
        script: Script,
        keys: Sequence[Word],
        arguments: Sequence[Word],
        then: Callable[[Reply | RedisUnavailable], None],
    ) -> None:
        """A Lua script whose answer is wanted however late it comes; `then` gets it, once. Never waits.

        Raises RedisUnavailable, and then `then` is not called.
        """
        words = (len(keys), *keys, *arguments)
        self._worker.submit(Asked(words, queued_s=clock_s(), script=script, then=then))

    def waited_in_vain(self, since_s: float) -> None:
        """Whoever posts and waits for the answer says so when 50 ms have passed; `since_s` is `time.monotonic`'s."""
        self._deliver(self._worker.late(since_s))

    def statistics(self) -> RedisStatistics:
        """The figures now."""
        worker, figures = self._worker, self._worker.statistics()
        status, error = "healthy", None
        if figures.state is not BreakerState.CLOSED:
            status, error = "unhealthy", figures.error
        elif not worker.connected:
            status, error = "degraded", "it has not answered yet"
        elif worker.refusal is not None:
            status, error = "degraded", worker.refusal
        return RedisStatistics(
            status, worker.latency_ms, error, figures.state, figures.failures, figures.opened, *worker.queued
        )

    def __repr__(self) -> str:
        figures = self.statistics()
        return f"<RedisLink {self._place} {figures.status} queued={figures.queued}>"

    async def _wait(self, words: Sequence[Word], script: Script | None) -> Reply:
        done = trio.Event()
        asked = Asked(words, queued_s=clock_s(), script=script, then=lambda _: done.set())
        self._worker.submit(asked)
        try:
            with trio.move_on_after(CALL_S):
                await done.wait()
        finally:
            asked.given_up = True
        outcome = asked.outcome  # it may be there although this thread was too busy to be told in time
        if outcome is PENDING:
            self.waited_in_vain(asked.queued_s)
            raise RedisUnavailable(f"no answer within {CALL_S * 1000:.0f} ms")
        if isinstance(outcome, RedisUnavailable):
            raise RedisUnavailable(*outcome.args)
        return outcome

    def _deliver(self, answered: list[Asked]) -> None:
        for asked in answered:
            if asked.then is not None:
                asked.then(asked.outcome)

    def _deliver_soon(self, answered: list[Asked]) -> None:
        self._soon(lambda: self._deliver(answered))

    def _soon(self, step: Callable[[], object]) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # the thread may outlive Trio by one answer
            self._token.run_sync_soon(step)

    async def _close(self) -> None:
        self._worker.stop()
        with trio.move_on_after(CLOSE_S, shield=True):
            await self._ended.wait()


@contextlib.asynccontextmanager
async def open_redis(settings: Redis) -> AsyncIterator[RedisLink | None]:
    """The link that the settings ask for, None without a URL. Does not wait for Redis, neither now nor at the end.

    Raises ConfigError when the URL cannot be read or the libraries are not installed.
    """
    if settings.url is None:
        yield None
        return
    if not all(importlib.util.find_spec(name) for name in ("redis", "hiredis")):
        raise ConfigError("redis.url is set, but redis-py is not installed: pip install 'securellm-bridge[redis]'")
    link = RedisLink(parse_place(settings.url.reveal()), connect_timeout_s=settings.connect_timeout_secs)
    link._worker.start()
    try:
        yield link
    finally:
        await link._close()
