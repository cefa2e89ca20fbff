"""Every way to reach Redis, against real servers: a socket, TLS, sentinels, a cluster."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from rig.redis_server import RedisServer, free_port, open_redis_server
from rig.waiting import until_true
from securellm.config.secrets import Secret
from securellm.config.tree import Redis
from securellm.redis_link.commands import RedisUnavailable, Script
from securellm.redis_link.link import open_redis

pytestmark = pytest.mark.tool("redis-server")

ADD = Script.of("return redis.call('INCRBY', KEYS[1], ARGV[1])")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with open_redis_server(tmp_path, "--unixsocket", str(tmp_path / "redis.sock")) as server:
        yield server


async def use(url: str) -> None:
    """Connect, run a command and, twice, a script that the server does not know."""
    async with open_redis(Redis(url=Secret(url))) as link:
        assert link is not None
        with trio.fail_after(20):
            await until_true(lambda: link.statistics().status == "healthy")
            await link.call("SET", "x", "1")
            assert await link.call("GET", "x") == b"1"
            assert await link.script(ADD, ["n"], [5]) == 5
            assert await link.script(ADD, ["n"], [5]) == 10


async def test_a_socket_of_this_machine(server: RedisServer) -> None:
    """unix:// with a database."""
    await use(f"unix://{server.folder}/redis.sock?db=3")
    assert server.command("-n", "3", "GET", "x") == "1"


async def test_a_database(server: RedisServer) -> None:
    """The number at the end of the URL is the database that is used."""
    await use(f"{server.url}/5")
    assert server.command("-n", "5", "GET", "x") == "1"


async def test_tls(tmp_path: Path) -> None:
    """rediss:// with the certificate's own authority; without it the server is not trusted."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    options = ["--port", "0", "--tls-port", "{port}", "--tls-auth-clients", "no"]
    options += ["--tls-cert-file", f"{tmp_path}/cert.pem", "--tls-key-file", f"{tmp_path}/key.pem"]
    with open_redis_server(tmp_path, *options) as server:
        await use(f"rediss://127.0.0.1:{server.port}?ssl_ca_certs={tmp_path}/cert.pem")
        async with open_redis(Redis(url=Secret(f"rediss://127.0.0.1:{server.port}"))) as link:
            assert link is not None
            with trio.fail_after(20):
                await until_true(lambda: "SSLCertVerificationError" in (link.statistics().error or ""))


async def test_sentinels(server: RedisServer, tmp_path: Path) -> None:
    """The master that the sentinels name is used, though one of them is not there."""
    port = free_port()
    (tmp_path / "sentinel.conf").write_text(
        f"port {port}\nbind 127.0.0.1\nprotected-mode no\nsentinel monitor main 127.0.0.1 {server.port} 1\n"
    )
    process = subprocess.Popen(
        ["redis-server", str(tmp_path / "sentinel.conf"), "--sentinel"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await use(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port}/main/2")
        assert server.command("-n", "2", "GET", "x") == "1"
        async with open_redis(Redis(url=Secret(f"redis+sentinel://127.0.0.1:{port}/other"))) as link:
            assert link is not None
            with trio.fail_after(20):
                await until_true(lambda: link.statistics().status == "unhealthy")
                with pytest.raises(RedisUnavailable):
                    await link.call("GET", "x")
    finally:
        process.kill()
        process.wait(10)


async def test_a_cluster(tmp_path: Path) -> None:
    """Two nodes that share the slots: commands and scripts go where their key lies, in one pipeline."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    buses = [str(free_port()), str(free_port())]
    with open_redis_server(one, "--cluster-enabled", "yes", "--cluster-port", buses[0]) as first:
        with open_redis_server(two, "--cluster-enabled", "yes", "--cluster-port", buses[1]) as second:
            first.command("CLUSTER", "ADDSLOTSRANGE", "0", "8191")
            second.command("CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
            second.command("CLUSTER", "SET-CONFIG-EPOCH", "2")
            first.command("CLUSTER", "MEET", "127.0.0.1", str(second.port), buses[1])
            with trio.fail_after(30):
                await until_true(
                    lambda: all("cluster_state:ok" in node.command("CLUSTER", "INFO") for node in (first, second)),
                    look_every_s=0.1,
                )
                await use(f"redis+cluster://127.0.0.1:{first.port}")
                async with open_redis(Redis(url=Secret(f"redis+cluster://127.0.0.1:{second.port}"))) as link:
                    assert link is not None
                    await until_true(lambda: link.statistics().status == "healthy")
                    found: dict[int, int] = {}

                    async def add(number: int) -> None:
                        found[number] = await link.script(ADD, [f"bucket{number}"], [number])

                    async with trio.open_nursery() as nursery:
                        for number in range(20):
                            nursery.start_soon(add, number)
                    assert found == {number: number for number in range(20)}
            sizes = [int(node.command("DBSIZE")) for node in (first, second)]
            assert sum(sizes) == 22
            assert min(sizes) > 0
