"""Redis that hangs, dies, is slow, refuses or is not there: nobody waits, and it comes back by itself."""

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from rig.redis_server import RedisServer, free_port, open_redis_server
from rig.slow_tcp import SlowProxy
from rig.waiting import until_true
from securellm.config.secrets import Secret
from securellm.config.tree import Redis
from securellm.errors import ConfigError
from securellm.redis_link.commands import RedisUnavailable, Script
from securellm.redis_link.link import RedisLink, open_redis
from securellm.redis_link.worker import CALL_S, MAX_QUEUED_BYTES

pytestmark = pytest.mark.tool("redis-server")

ADD = Script.of("return redis.call('INCRBY', KEYS[1], ARGV[1])")
RECOVERS_S = 5.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with open_redis_server(tmp_path) as server:
        yield server


@contextlib.asynccontextmanager
async def linked(url: str, *, ready: bool = True, connect_timeout_s: float = 1.0) -> AsyncIterator[RedisLink]:
    async with open_redis(Redis(url=Secret(url), connect_timeout_secs=connect_timeout_s)) as link:
        assert link is not None
        if ready:
            with trio.fail_after(20):
                await until_true(lambda: link.statistics().status == "healthy")
        yield link


async def answered(link: RedisLink, within_s: float = RECOVERS_S) -> float:
    """Wait until a call succeeds again; how long that took."""
    began_s = time.monotonic()
    with trio.fail_after(within_s * 2):
        while True:
            try:
                await link.call("SET", "sign", "of life")
            except RedisUnavailable:
                await trio.sleep(0.005)
            else:
                return time.monotonic() - began_s


async def refused(link: RedisLink) -> tuple[str, float]:
    """A call that fails: what was said, and after which time."""
    began_s = time.monotonic()
    with pytest.raises(RedisUnavailable) as caught:
        await link.call("GET", "x")
    return str(caught.value), time.monotonic() - began_s


async def test_without_a_url_there_is_no_link() -> None:
    """Redis is not used, and nothing is started."""
    async with open_redis(Redis()) as link:
        assert link is None


async def test_commands_and_scripts(server: RedisServer) -> None:
    """A command and a script are answered; the server that lost its scripts is sent the script again."""
    async with linked(server.url) as link:
        with trio.fail_after(10):
            assert await link.call("SET", b"\xff", b"\x00bytes", "PX", 60_000)
            assert await link.call("GET", b"\xff") == b"\x00bytes"
            assert await link.script(ADD, ["n"], [5]) == 5
            server.command("SCRIPT", "FLUSH")
            assert await link.script(ADD, ["n"], [5]) == 10
            assert link.send_nowait("SET", "told", "yes")
            assert await link.call("GET", "told") == b"yes"
    assert str(link).startswith(f"<RedisLink redis://127.0.0.1:{server.port} ")


async def test_a_refused_command_fails_alone(server: RedisServer) -> None:
    """It says the code of Redis and nothing of the command; its neighbours in the pipeline are answered."""
    async with linked(server.url) as link:
        with trio.fail_after(10):
            await link.call("SET", "text", "a secret word")
            outcomes: list[object] = []

            async def ask(*words: str) -> None:
                try:
                    outcomes.append(await link.call(*words))
                except RedisUnavailable as exc:
                    outcomes.append(str(exc))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, "LPUSH", "text", "another secret word")
                nursery.start_soon(ask, "GET", "text")
            assert sorted(map(str, outcomes)) == ["b'a secret word'", "it refuses (WRONGTYPE)"]
            assert link.available
            server.command("CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(RedisUnavailable, match="refuses"):
                await link.call("SET", "more", "x" * 1000)
            assert link.statistics().status == "degraded"


async def test_a_server_that_hangs_under_load(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits much over 50 ms, then nobody waits; it is used again within 5 s; the log has a line a second."""
    caplog.set_level(logging.INFO, "securellm.redis_link")
    slowest_s = 0.0
    waited = 0
    hung = True

    async def load(link: RedisLink) -> None:
        nonlocal slowest_s, waited
        while hung:
            began_s = time.monotonic()
            try:
                await link.call("GET", "x")
            except RedisUnavailable:
                took_s = time.monotonic() - began_s
                slowest_s = max(slowest_s, took_s)
                waited += took_s > CALL_S / 2
            await trio.sleep(0.01)

    async with linked(server.url) as link, trio.open_nursery() as nursery:
        with trio.fail_after(30):
            for _ in range(20):
                nursery.start_soon(load, link)
            await trio.sleep(0.2)
            server.hang()
            await until_true(lambda: not link.available)
            await trio.sleep(1.5)
            figures = link.statistics()
            assert figures.status == "unhealthy"
            assert figures.error
            server.resume()
            recovered_s = await answered(link)
            hung = False
    lines = [record for record in caplog.records if "redis" in record.getMessage()]
    print(f"slowest call {slowest_s * 1000:.1f} ms, {waited} calls waited, used again after {recovered_s:.2f} s")
    assert slowest_s < 1.0
    assert waited <= 40  # those under way, not those of the seconds after
    assert recovered_s < RECOVERS_S
    assert len(lines) <= 4


async def test_a_server_that_is_killed_and_started_again(server: RedisServer) -> None:
    """While it is gone calls fail at once; once it is there again it is used, without a restart of ours."""
    async with linked(server.url) as link:
        with trio.fail_after(30):
            server.kill()
            await refused(link)
            await until_true(lambda: "ConnectionRefusedError" in (link.statistics().error or ""))
            reason, took_s = await refused(link)
            assert reason == "no connection (ConnectionRefusedError)"
            assert took_s < 0.03
            await trio.sleep(0.3)
            server.start()
            assert await answered(link) < RECOVERS_S


async def test_a_restart_while_idle_costs_nothing(server: RedisServer) -> None:
    """Between two calls the server is killed and started again: the second one is answered all the same."""
    async with linked(server.url) as link:
        with trio.fail_after(20):
            await link.call("SET", "x", 1)
            server.kill()
            server.start()
            assert await link.call("GET", "x") is None


async def test_an_idle_link_notices_an_outage_by_itself(server: RedisServer) -> None:
    """The sign of life of every second finds it before anybody needs an answer."""
    async with linked(server.url) as link:
        with trio.fail_after(20):
            server.kill()
            await until_true(lambda: not link.available)
            server.start()
            await until_true(lambda: link.available)


async def test_absent_at_the_start(tmp_path: Path) -> None:
    """Opening does not wait, calls fail, closing does not wait; once there is a server it is used."""
    port = free_port()
    began_s = time.monotonic()
    async with linked(f"redis://127.0.0.1:{port}", ready=False) as link:
        assert time.monotonic() - began_s < 0.5
        with trio.fail_after(30):
            await refused(link)
            await until_true(lambda: link.statistics().error == "no connection (ConnectionRefusedError)")
            with open_redis_server(tmp_path, port=port):
                assert await answered(link) < RECOVERS_S
                began_s = time.monotonic()
    print(f"closed in {(time.monotonic() - began_s) * 1000:.0f} ms")


async def test_closing_does_not_wait_for_a_server_that_hangs(server: RedisServer) -> None:
    """Half a second, whatever the thread waits for."""
    async with linked(server.url) as link:
        server.hang()
        await refused(link)
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 2.0


async def test_a_slow_server(server: RedisServer) -> None:
    """Answers after 150 ms are as good as none: calls end after 50 ms, then at once, until it is quick again."""
    proxy = SlowProxy(server.port, 0.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.serve)
        async with linked(f"redis://127.0.0.1:{proxy.port}") as link:
            with trio.fail_after(30):
                proxy.delay_s = 0.15
                _, first_s = await refused(link)
                assert first_s >= CALL_S * 0.9
                await until_true(lambda: "it answers after" in (link.statistics().error or ""))
                _, later_s = await refused(link)
                print(f"the first call waited {first_s * 1000:.0f} ms, a later one {later_s * 1000:.1f} ms")
                assert later_s < first_s
                proxy.delay_s = 0.0
                assert await answered(link) < RECOVERS_S
        nursery.cancel_scope.cancel()


async def test_an_unknown_host() -> None:
    """A name that resolves to nothing is an outage like others."""
    async with linked("redis://redis.invalid:1", ready=False) as link:
        with trio.fail_after(20):
            await refused(link)
            await until_true(lambda: "gaierror" in (link.statistics().error or ""))


async def test_a_wrong_password(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is told in health and in the log, and the password is in neither; the right one of an ACL user works."""
    caplog.set_level(logging.DEBUG)
    acl = ["--user", "default", "off", "--user", "app", "on", ">good-hunter", "~*", "+@all"]
    with open_redis_server(tmp_path, *acl) as server:
        address = f"127.0.0.1:{server.port}"
        async with linked(f"redis://app:bad-hunter@{address}", ready=False) as link:
            with trio.fail_after(20):
                await refused(link)
                await until_true(lambda: link.statistics().error == "it refuses the user or the password")
        async with linked(f"redis://app:good-hunter@{address}") as link:
            with trio.fail_after(10):
                assert await link.call("GET", "x") is None
    assert "it refuses the user or the password" in caplog.text or "no answer within" in caplog.text
    assert "hunter" not in caplog.text


async def test_cancelled_callers_harm_nobody(server: RedisServer) -> None:
    """After a storm of cancelled calls every answer belongs to its question, on the one connection that there was."""
    async with linked(server.url) as link:
        with trio.fail_after(30):
            for number in range(300):
                with trio.move_on_after(0.0005 * (number % 4)):
                    await link.call("SET", f"k{number}", number)
            matched = 0
            for number in range(300):
                if (value := await link.call("GET", f"k{number}")) is not None:
                    assert value == str(number).encode()
                    matched += 1
            assert matched
            assert link.statistics().opened == 0
            clients = server.command("CLIENT", "LIST")
            assert clients.count("name=securellm") == 1, clients


async def test_outages_leave_no_connections_behind(server: RedisServer) -> None:
    """Each outage drops its connection; the server holds one at the end."""
    async with linked(server.url) as link:
        with trio.fail_after(30):
            for _ in range(3):
                server.hang()
                await refused(link)
                await trio.sleep(0.6)  # over the thread's own patience
                server.resume()
                await answered(link)
            await until_true(lambda: server.command("CLIENT", "LIST").count("name=securellm") == 1, look_every_s=0.1)


async def test_the_queue_is_bounded(server: RedisServer) -> None:
    """What does not fit into it is refused at once, and what an outage made hopeless is dropped from it."""
    async with linked(server.url) as link:
        with trio.fail_after(30):
            server.hang()
            megabyte = b"x" * 1_000_000
            queued = sum(link.send_nowait("SET", f"big{number}", megabyte) for number in range(60))
            assert 20 <= queued <= MAX_QUEUED_BYTES // 1_000_000 + 3
            reason, took_s = await refused(link)
            assert took_s < 0.03 or "50 ms" in reason
            assert link.statistics().queued_bytes <= MAX_QUEUED_BYTES
            await until_true(lambda: link.statistics().queued == 0)
            server.resume()
            assert await answered(link) < RECOVERS_S


async def test_an_answer_that_may_be_late(server: RedisServer) -> None:
    """`post` tells the outcome whenever it comes: an answer after 150 ms, or that there will be none."""
    proxy = SlowProxy(server.port, 0.0)
    outcomes: list[object] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.serve)
        async with linked(f"redis://127.0.0.1:{proxy.port}") as link:
            with trio.fail_after(20):
                proxy.delay_s = 0.15
                link.post(ADD, ["n"], [7], outcomes.append)
                await until_true(lambda: len(outcomes) == 1)
                assert outcomes == [7]
                server.hang()
                link.post(ADD, ["n"], [7], outcomes.append)
                await until_true(lambda: len(outcomes) == 2)
                assert isinstance(outcomes[1], RedisUnavailable)
                with pytest.raises(RedisUnavailable):
                    link.post(ADD, ["n"], [7], outcomes.append)
        nursery.cancel_scope.cancel()


async def test_a_wrong_url_stops_the_start() -> None:
    """It is an error of the configuration, not an outage."""
    with pytest.raises(ConfigError):
        async with open_redis(Redis(url=Secret("redis://cache/seven"))):
            pass
