"""The cache service: one contract for memory and Redis, and what each promises beside it."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from rig.redis_server import open_redis_server
from rig.waiting import until_true
from securellm.cache.memory import ENTRY_BYTES, MemoryCache
from securellm.cache.opening import choose_cache
from securellm.cache.redis import RedisCache
from securellm.cache.service import Cache
from securellm.config.secrets import Secret
from securellm.config.tree import Cache as Settings
from securellm.config.tree import Redis
from securellm.redis_link.link import RedisLink, open_redis

Opened = contextlib.AbstractAsyncContextManager[Cache]


@contextlib.asynccontextmanager
async def in_memory(folder: Path) -> AsyncIterator[Cache]:
    yield MemoryCache(1_000_000, time.monotonic)


@contextlib.asynccontextmanager
async def linked(url: str) -> AsyncIterator[RedisLink]:
    async with open_redis(Redis(url=Secret(url))) as link:
        assert link is not None
        with trio.fail_after(20):
            await until_true(lambda: link.statistics().status == "healthy")
        yield link


@contextlib.asynccontextmanager
async def on_redis(folder: Path) -> AsyncIterator[Cache]:
    with open_redis_server(folder) as server:
        async with linked(server.url) as link:
            yield RedisCache(link)


@pytest.fixture(params=[in_memory, pytest.param(on_redis, marks=pytest.mark.tool("redis-server"))])
async def cache(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cache]:
    opened: Callable[[Path], Opened] = request.param
    async with opened(tmp_path) as cache:
        yield cache


async def test_what_was_set_is_there(cache: Cache) -> None:
    """Any bytes under any bytes, the last value set, and nothing under another key."""
    with trio.fail_after(10):
        await cache.set(b"\x00\xff key", b"\x00\r\n\xff", 60.0)
        assert await cache.get(b"\x00\xff key") == b"\x00\r\n\xff"
        await cache.set(b"\x00\xff key", b"", 60.0)
        assert await cache.get(b"\x00\xff key") == b""
        assert await cache.get(b"\x00\xff ke") is None
        assert (cache.statistics().hits, cache.statistics().misses) == (2, 1)


async def test_what_was_deleted_is_gone(cache: Cache) -> None:
    """Deleting says that it is done, also where there was nothing."""
    with trio.fail_after(10):
        await cache.set(b"key", b"value", 60.0)
        assert await cache.delete(b"key")
        assert await cache.get(b"key") is None
        assert await cache.delete(b"key")


async def test_what_ran_out_is_gone(cache: Cache) -> None:
    """After its time an entry is a miss; a new one may take its place; no time at all keeps nothing."""
    with trio.fail_after(10):
        await cache.set(b"key", b"value", 0.15)
        assert await cache.get(b"key") == b"value"
        await trio.sleep(0.3)
        assert await cache.get(b"key") is None
        await cache.set(b"key", b"new", 60.0)
        await cache.set(b"key", b"newer", 0.0)
        assert await cache.get(b"key") is None


async def test_memory_forgets_what_was_used_longest_ago() -> None:
    """The bound holds in bytes; getting counts as use; what does not fit at all pushes nothing out."""
    cache = MemoryCache(3 * (ENTRY_BYTES + 101), lambda: 0.0)
    for name in (b"a", b"b", b"c"):
        await cache.set(name, b"x" * 100, 1.0)
    assert await cache.get(b"a") is not None
    await cache.set(b"d", b"x" * 100, 1.0)
    assert await cache.get(b"b") is None
    await cache.set(b"huge", b"x" * 10_000, 1.0)
    assert [await cache.get(name) is not None for name in (b"a", b"c", b"d", b"huge")] == [True, True, True, False]
    assert cache.statistics().evicted == 1


async def test_memory_takes_the_time_from_its_clock() -> None:
    """An entry is there until its time has come, and its bytes are free after it was asked for."""
    now_s = 10.0
    cache = MemoryCache(10_000, lambda: now_s)
    await cache.set(b"key", b"value", 5.0)
    now_s = 14.999
    assert await cache.get(b"key") == b"value"
    now_s = 15.0
    assert await cache.get(b"key") is None
    assert cache.statistics().bytes == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["set", "get", "delete", "wait"]), st.integers(0, 5), st.integers(0, 400)),
        max_size=60,
    )
)
def test_memory_agrees_with_a_model(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is done: never over the bound, the bytes add up, and what is found is what was set last and in time."""

    async def run() -> None:
        now_s = 0.0
        cache = MemoryCache(2_000, lambda: now_s)
        model: dict[bytes, tuple[bytes, float]] = {}
        for what, number, amount in steps:
            key = bytes([number])
            if what == "set":
                await cache.set(key, b"x" * amount, amount / 10)
                model[key] = (b"x" * amount, now_s + amount / 10)
            elif what == "delete":
                await cache.delete(key)
                model.pop(key, None)
            elif what == "wait":
                now_s += amount / 20
            elif (found := await cache.get(key)) is not None:
                value, until_s = model[key]
                assert found == value
                assert now_s < until_s
            figures = cache.statistics()
            assert 0 <= figures.bytes <= 2_000
            assert (figures.entries == 0) == (figures.bytes == 0)

    trio.run(run)


@pytest.mark.tool("redis-server")
async def test_without_redis_everything_is_a_miss(tmp_path: Path) -> None:
    """A server that hangs, then is gone: no error, no answer, and the figures say that it could not be asked."""
    with open_redis_server(tmp_path) as server:
        async with linked(server.url) as link:
            cache = RedisCache(link)
            with trio.fail_after(20):
                await cache.set(b"key", b"value", 60.0)
                assert await cache.get(b"key") == b"value"
                server.hang()
                assert await cache.get(b"key") is None
                server.kill()
                await cache.set(b"key", b"value", 60.0)
                assert await cache.get(b"key") is None
                assert not await cache.delete(b"key")
            assert cache.statistics().unavailable == 4


@pytest.mark.tool("redis-server")
async def test_entries_of_one_process_are_found_by_another(tmp_path: Path) -> None:
    """Two links on one Redis see the same entries, and nothing outlives its time there."""
    with open_redis_server(tmp_path) as server:
        async with linked(server.url) as one, linked(server.url) as two:
            with trio.fail_after(10):
                await RedisCache(one).set(b"key", b"value", 60.0)
                assert await RedisCache(one).get(b"key") == b"value"
                assert await RedisCache(two).get(b"key") == b"value"
        assert 0 < int(server.command("PTTL", f"securellm:cache:{b'key'.hex()}")) <= 60_000


async def test_the_settings_choose() -> None:
    """Off is no cache; without a link there is memory."""
    assert choose_cache(Settings(), None, time.monotonic) is None
    assert isinstance(choose_cache(Settings(enabled=True), None, time.monotonic), MemoryCache)
