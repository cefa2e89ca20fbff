"""Limits between machines: never over, given back when unused or dead, and a stated policy without Redis."""

import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from rig.limit_stores import demands
from rig.redis_server import RedisServer, open_redis_server
from rig.slow_tcp import SlowProxy
from rig.waiting import until_true
from securellm._fast import gcra_py
from securellm.config.secrets import Secret
from securellm.config.tree import RateLimit, Redis
from securellm.errors import LimitsUnavailable
from securellm.limits.leased import LeasedStore
from securellm.limits.leased_scripts import STEP
from securellm.limits.places import KEPT_US
from securellm.limits.quota import Demands, Denied, Levels, Never, Scope, Short
from securellm.redis_link.commands import Script
from securellm.redis_link.link import RedisLink, open_redis

pytestmark = pytest.mark.tool("redis-server")

DEGRADE, REFUSE = RateLimit(), RateLimit(when_unreachable="refuse")
WAITED_US = 50_000  # an answer of Redis may be used so long after Redis granted it


def now_us() -> int:
    return time.monotonic_ns() // 1000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with open_redis_server(tmp_path) as server:
        yield server


@contextlib.asynccontextmanager
async def linked(url: str, *, ready: bool = True) -> AsyncIterator[RedisLink]:
    async with open_redis(Redis(url=Secret(url))) as link:
        assert link is not None
        with trio.fail_after(20):
            if ready:
                await until_true(lambda: link.statistics().status == "healthy")
        yield link


async def take(store: LeasedStore, asked: Demands, tokens: int = 0) -> Levels | Denied | Never:
    """As the limiter does it: at most one wait."""
    answer = store.take(asked, tokens, now_us())
    if isinstance(answer, Short):
        await store.refill(answer)
        answer = store.take(asked, tokens, now_us())
    assert not isinstance(answer, Short)
    return answer


async def granted(store: LeasedStore, asked: Demands, times: int) -> int:
    return sum([isinstance(await take(store, asked), tuple) for _ in range(times)])


# Around what doubles can and cannot hold, and in between.
number = st.one_of(
    st.integers(0, gcra_py.MAX_US),
    st.integers(0, 10_000_000),
    st.integers(gcra_py.MAX_US - 1000, gcra_py.MAX_US),
    st.integers(1_700_000_000_000_000, 1_900_000_000_000_000),
)


@pytest.fixture(scope="module")
def lua(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Lua"]:
    with open_redis_server(tmp_path_factory.mktemp("lua")) as server:
        yield Lua(server)


class Lua:
    """The arithmetic of the script, run by a real Redis."""

    def __init__(self, server: RedisServer) -> None:
        import redis

        script = Script.of(
            STEP
            + """
            local n = {}
            for place, text in ipairs(ARGV) do n[place] = tonumber(text) end
            local granted, leased, tat = step(unpack(n))
            return {string.format('%.0f', granted), string.format('%.0f', leased), string.format('%.0f', tat)}
            """
        )
        self._step = redis.Redis(port=server.port).register_script(script.source)

    def step(self, *numbers: int) -> tuple[int, int, int]:
        granted, leased, tat = (int(text) for text in self._step(args=numbers))
        return granted, leased, tat


@settings(max_examples=200, deadline=None)
@given(tat=number, now=number, cost=number, capacity=number)
def test_lua_takes_as_python_does(lua: Lua, tat: int, now: int, cost: int, capacity: int) -> None:
    """A cost that is taken whole or not at all leaves the TAT that the pure twin leaves, to the last bit."""
    if cost == 0:
        return
    expected = gcra_py.take(tat, now, cost, capacity)
    if expected < 0:
        assert lua.step(tat, now, capacity, cost, cost, 0, 0, 0, 0) == (0, 0, tat)
    else:
        assert lua.step(tat, now, capacity, cost, cost, 0, 0, 0, 0) == (cost, 0, expected)


@settings(max_examples=100, deadline=None)
@given(tat=number, now=number, cost=number)
def test_lua_charges_as_python_does(lua: Lua, tat: int, now: int, cost: int) -> None:
    """A debt is the pure twin's."""
    if cost:
        assert lua.step(tat, now, 1, 1, 0, 0, 0, cost, 0)[2] == gcra_py.charge(tat, now, cost)


@settings(max_examples=200, deadline=None)
@given(tat=number, now=number, capacity=number, unit=st.integers(1, 10_000_000), need=number, ahead=number)
def test_lua_leases_whole_units_within_the_bucket(
    lua: Lua, tat: int, now: int, capacity: int, unit: int, need: int, ahead: int
) -> None:
    """Parts are granted in whole units, never more than asked or than there is, and booked as they are granted."""
    hold = 400_000
    need -= need % unit
    got, leased, after = lua.step(tat, now, capacity, unit, need, ahead, hold, 0, 0)
    expected, base = _fit(max(tat, now), now, capacity, unit, need), tat
    assert got == expected
    if expected:
        base = max(tat, now) + expected
    if expected == need and ahead:
        later = max(base, min(now + hold, gcra_py.MAX_US))
        assert leased == _fit(later, now, capacity, unit, ahead)
        if leased:
            base = later + leased
    else:
        assert leased == 0
    assert after == base


def _fit(base: int, now: int, capacity: int, unit: int, wanted: int) -> int:
    room = min(capacity - (base - now), gcra_py.MAX_US - base, wanted)
    return room - room % unit if room >= unit else 0


@settings(max_examples=100, deadline=None)
@given(tat=number, now=number, returned=number)
def test_lua_gives_back(lua: Lua, tat: int, now: int, returned: int) -> None:
    """What comes back is taken off, down to nothing."""
    assert lua.step(tat, now, 1, 1, 0, 0, 0, 0, returned)[2] == max(tat - returned, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("rpm", "burst"), [(3000, 100), (600, 5)])
def test_processes_together_keep_to_the_limit(server: RedisServer, rpm: int, burst: int) -> None:
    """Two processes with eager callers: no window of any length has more than the limit, and little is left unused."""
    seconds, callers = 4.0, 20
    command = [sys.executable, "-m", "rig.leased_process", server.url, str(seconds), str(callers), str(rpm), str(burst)]
    folder = Path(__file__).parents[1]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder, env=_paths())
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        outputs = []
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            outputs.append(process.communicate(timeout=60)[0])
    finally:
        for process in processes:
            process.kill()
    each = [[int(line) for line in output.split()] for output in outputs]
    merged = sorted(each[0] + each[1])
    interval_us = -(-60_000_000 // rpm)
    over_us = _worst_window_us(merged, interval_us) - burst * interval_us
    bound = burst + seconds * rpm / 60
    print(
        f"{len(each[0])} and {len(each[1])} granted of at most {bound:.0f}; worst window {over_us / 1000:.1f} ms over,"
        f" {WAITED_US / 1000:.0f} ms are allowed; {server.command('INFO', 'commandstats').count('calls')} kinds of call"
    )
    assert over_us <= WAITED_US
    assert len(merged) >= bound * 0.5  # nearly all of it, unless the machine is so busy that answers come too late
    assert min(map(len, each)) > 0


def _paths() -> dict[str, str]:
    import os

    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": f"{root / 'src'}:{root / 'tests'}"}


def _worst_window_us(times: list[int], interval_us: int) -> int:
    """The most that any window holds beyond what comes in during it: of a bucket at most its capacity."""
    level_us = worst_us = 0
    last_us = times[0]
    for at_us in times:
        level_us = max(level_us - (at_us - last_us), 0) + interval_us
        last_us = at_us
        worst_us = max(worst_us, level_us)
    return worst_us


async def test_two_stores_share_one_burst(server: RedisServer) -> None:
    """Whoever asks, one bucket grants its burst once; the other machine is told how long to wait."""
    asked = demands(rpm=60, burst=5)
    async with linked(server.url) as one, linked(server.url) as two:
        with trio.fail_after(20):
            first, second = LeasedStore(one, DEGRADE, now_us), LeasedStore(two, DEGRADE, now_us)
            assert await granted(first, asked, 3) == 3
            assert await granted(second, asked, 10) == 2
            answer = await take(first, asked)
            assert isinstance(answer, Denied)
            assert 0 < answer.retry_after_us <= 1_000_000


async def test_whoever_waits_is_granted(server: RedisServer) -> None:
    """A sole caller that waits as long as it is told is granted, again and again, for short and for long waits."""
    async with linked(server.url) as link:
        store = LeasedStore(link, DEGRADE, now_us)
        with trio.fail_after(30):
            for rpm in (3000, 600):
                asked = demands(f"at {rpm}", rpm=rpm, burst=2)
                for _ in range(10):
                    answer = await take(store, asked)
                    if isinstance(answer, Denied):
                        await trio.sleep(answer.retry_after_us / 1_000_000)
                        assert isinstance(await take(store, asked), tuple)


async def test_in_steady_state_nobody_waits(server: RedisServer) -> None:
    """A caller at half of its limit finds its next slice there: after the first second no request waits for Redis."""
    asked = demands(rpm=12_000, burst=400) + demands("u", Scope.USER, rpm=24_000, burst=800, tpm=10_000_000)
    async with linked(server.url) as link, trio.open_nursery() as nursery:
        store = LeasedStore(link, DEGRADE, now_us)
        nursery.start_soon(store.keep)
        waited = []
        with trio.fail_after(60):
            for place in range(200):
                answer = store.take(asked, 100, now_us())
                if isinstance(answer, Short):
                    waited.append(place)
                    await store.refill(answer)
                    answer = store.take(asked, 100, now_us())
                assert isinstance(answer, tuple)
                await trio.sleep(0.01)
        calls = server.command("INFO", "commandstats").partition("cmdstat_evalsha:calls=")[2].partition(",")[0]
        print(f"{len(waited)} of 200 requests waited ({waited}), {calls} scripts for 600 takes")
        assert max(waited) < 100
        nursery.cancel_scope.cancel()


async def test_what_is_not_used_is_given_back(server: RedisServer) -> None:
    """Slices that one machine leased ahead and does not need are there for the other soon after."""
    asked = demands(rpm=60, burst=40)
    async with linked(server.url) as one, linked(server.url) as two, trio.open_nursery() as nursery:
        first, second = LeasedStore(one, DEGRADE, now_us), LeasedStore(two, DEGRADE, now_us)
        with trio.fail_after(20):
            nursery.start_soon(first.keep)
            used = await granted(first, asked, 12)
            await trio.sleep(1.0)
            more = await granted(second, asked, 60)
            assert 38 <= used + more <= 42  # a second or two have passed, at one a second
        nursery.cancel_scope.cancel()


async def test_tokens_are_trued_up_across_machines(server: RedisServer) -> None:
    """Unused tokens come back for the other machine, and tokens over the reservation are its debt, too."""
    asked = demands(tpm=6000)
    async with linked(server.url) as one, linked(server.url) as two, trio.open_nursery() as nursery:
        first, second = LeasedStore(one, DEGRADE, now_us), LeasedStore(two, DEGRADE, now_us)
        with trio.fail_after(20):
            nursery.start_soon(first.keep)
            levels = await take(first, asked, 6000)
            assert isinstance(levels, tuple)
            assert isinstance(await take(second, asked, 1000), Denied)
            first.give_back(asked, levels, 5000, now_us())
            await trio.sleep(0.3)
            levels = await take(second, asked, 4000)
            assert isinstance(levels, tuple)
            first.give_back(asked, levels, -30_000, now_us())
            await trio.sleep(0.3)
            answer = await take(second, asked, 100)
            assert isinstance(answer, Denied)
            assert answer.retry_after_us > 200_000_000
        nursery.cancel_scope.cancel()


async def test_places_are_counted_across_machines(server: RedisServer) -> None:
    """At one time exactly the limit, however it is spread; a place that is free is there for the other machine."""
    asked = demands(concurrent=10)
    async with linked(server.url) as one, linked(server.url) as two, trio.open_nursery() as nursery:
        first, second = LeasedStore(one, DEGRADE, now_us), LeasedStore(two, DEGRADE, now_us)
        with trio.fail_after(20):
            nursery.start_soon(first.keep)
            nursery.start_soon(second.keep)
            held = await granted(first, asked, 4)
            assert held == 4
            assert await granted(second, asked, 50) == 6
            assert isinstance(await take(first, asked), Denied)
            for _ in range(3):
                first.give_back(asked, (0,), 0, now_us())
            await trio.sleep(KEPT_US / 1_000_000 + 0.3)
            assert await granted(second, asked, 50) == 3
        nursery.cancel_scope.cancel()


async def test_a_burst_of_callers_at_one_time(server: RedisServer) -> None:
    """Three hundred callers of two machines at once: exactly as many as there are places get one."""
    asked = demands(concurrent=40)
    async with linked(server.url) as one, linked(server.url) as two:
        stores = [LeasedStore(one, REFUSE, now_us), LeasedStore(two, REFUSE, now_us)]
        for store in stores:
            await take(store, demands("warm", concurrent=1))
        got: list[bool] = []
        waited_s: list[float] = []

        async def call(store: LeasedStore) -> None:
            began_s = time.monotonic()
            with contextlib.suppress(LimitsUnavailable):  # these cores may need longer than 50 ms for so many
                got.append(isinstance(await take(store, asked), tuple))
            waited_s.append(time.monotonic() - began_s)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for place in range(300):
                    nursery.start_soon(call, stores[place % 2])
        print(f"{sum(got)} of {len(got)} decided, the slowest after {max(waited_s) * 1000:.0f} ms")
        assert sum(got) <= 40
        if len(got) == 300 and max(waited_s) < 0.2:  # else these cores had too much to do for answers to be in time
            assert sum(got) == 40


async def test_the_places_of_a_dead_machine_end(server: RedisServer) -> None:
    """One that says nothing more loses its places when their time is over, which Redis is told here to be soon."""
    asked = demands(concurrent=5)
    async with linked(server.url) as one, linked(server.url) as two:
        dead, alive = LeasedStore(one, DEGRADE, now_us), LeasedStore(two, DEGRADE, now_us)
        with trio.fail_after(20):
            assert await granted(dead, asked, 5) == 5
            assert await granted(alive, asked, 5) == 0
            key = f"securellm:limits:{asked[0].bucket.hex()}"
            member, held = server.command("HGETALL", key).split("\n")[:2]
            assert 0 < int(server.command("PTTL", key)) <= 10_001
            server.command("HSET", key, member, f"{held.split()[0]} 1")
            await trio.sleep(0.1)
            assert await granted(alive, asked, 50) == 5


async def test_degrade_lets_a_share_through(server: RedisServer) -> None:
    """Cut off, half of the burst where two machines are known; nobody waits; with Redis back the whole is shared."""
    asked = demands(rpm=60, burst=20) + demands("u", Scope.USER, concurrent=10)
    async with linked(server.url) as one, linked(server.url) as two, trio.open_nursery() as nursery:
        first, second = LeasedStore(one, DEGRADE, now_us), LeasedStore(two, DEGRADE, now_us)
        nursery.start_soon(first.keep)
        nursery.start_soon(second.keep)
        with trio.fail_after(30):
            await until_true(lambda: "parts=2" in repr(first))
            server.hang()
            await take(first, asked)
            await until_true(lambda: not one.available)
            began_s = time.monotonic()
            rate = await granted(first, asked[:1], 30)
            places = await granted(first, asked[1:], 30)
            took_s = time.monotonic() - began_s
            assert 9 <= rate + 1 <= 11
            assert places + 1 == 5
            assert took_s < 0.5
            assert "local share" in first.statistics().kind
            server.resume()
            await until_true(lambda: one.available and two.available)
            assert first.statistics().kind == "redis"
            assert await granted(second, asked[:1], 30) >= 18
        nursery.cancel_scope.cancel()


async def test_refuse_answers_that_it_cannot_tell(server: RedisServer) -> None:
    """Cut off with that policy a request waits 50 ms once, then none; all are refused as limits_unavailable."""
    asked = demands(rpm=60, burst=20)
    async with linked(server.url) as link:
        store = LeasedStore(link, REFUSE, now_us)
        with trio.fail_after(30):
            server.hang()
            waits = []
            for _ in range(5):
                began_s = time.monotonic()
                with pytest.raises(LimitsUnavailable) as caught:
                    await take(store, asked)
                waits.append(time.monotonic() - began_s)
                assert caught.value.retry_after_s == 1.0
            print(f"waits: {', '.join(f'{wait_s * 1000:.1f}' for wait_s in waits)} ms")
            assert max(waits) < 1.0
            assert sum(wait_s > 0.025 for wait_s in waits) <= 2
            server.resume()
            await until_true(lambda: link.available)
            assert await granted(store, asked, 30) in (19, 20)  # one may be held by the question that hung


async def test_one_that_is_cut_off_keeps_to_its_policy(server: RedisServer) -> None:
    """Of two machines one loses Redis: it lets its part through, the other goes on with the shared bucket."""
    proxy = SlowProxy(server.port, 0.0)
    asked = demands(rpm=60, burst=20)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.serve)
        async with linked(f"redis://127.0.0.1:{proxy.port}") as one, linked(server.url) as two:
            cut_off, connected = LeasedStore(one, DEGRADE, now_us), LeasedStore(two, DEGRADE, now_us)
            nursery.start_soon(cut_off.keep)
            nursery.start_soon(connected.keep)
            with trio.fail_after(30):
                await until_true(lambda: "parts=2" in repr(cut_off))
                proxy.delay_s = 30.0
                await take(cut_off, asked)
                await until_true(lambda: not one.available)
                assert await granted(connected, asked, 40) in (20, 21)
                assert await granted(cut_off, asked, 40) in (9, 10, 11)
            nursery.cancel_scope.cancel()
