"""SIGHUP to a process that serves alone."""

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import trio

from rig.edge import EdgeRuntime, edge_config
from rig.raw_client import encode_request, fetch, open_client
from rig.waiting import until_true
from securellm.config import Config
from securellm.config.tree import Server
from securellm.errors import ConfigError
from securellm.server import bind_sockets, serve


@asynccontextmanager
async def _serving(runtime: EdgeRuntime, load: Callable[[], Config]) -> AsyncIterator[str]:
    async def run(*, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
        await serve(runtime, sockets=bind_sockets(runtime.config), load=load, task_status=task_status)

    async with trio.open_nursery() as nursery:
        urls = await nursery.start(run)
        yield urls[0]
        nursery.cancel_scope.cancel()


def _with_head(config: Config, max_head_bytes: int) -> Config:
    server = msgspec.structs.replace(config.server, max_head_bytes=max_head_bytes)
    return msgspec.structs.replace(config, server=server, epoch=f"head {max_head_bytes}")


async def test_new_connections_have_the_new_limits() -> None:
    """After SIGHUP a connection is held to the new configuration, one that was open goes on under its own."""
    runtime = EdgeRuntime(edge_config(head_timeout_s=10))
    wanted = _with_head(runtime.config, 1024)
    long_head = {"x-long": "x" * 4000}
    with trio.fail_after(20):
        async with _serving(runtime, lambda: wanted) as url, open_client(url) as before:
            await before.send(encode_request("GET", "/livez"))
            assert (await before.read_response()).status == 200
            signal.raise_signal(signal.SIGHUP)
            await until_true(lambda: runtime.config is wanted)
            assert (await fetch(url, "GET", "/livez", None, long_head)).status == 431
            await before.send(encode_request("GET", "/livez", None, long_head))
            assert (await before.read_response()).status == 200
    assert runtime.ledger.events == ["prepared", "config_reloaded"]


async def test_a_refused_reload_goes_on_with_the_old() -> None:
    """What cannot be read, and what needs a restart, changes nothing; the next SIGHUP is obeyed."""
    runtime = EdgeRuntime(edge_config())
    old = runtime.config
    wanted = _with_head(old, 2048)

    def unreadable() -> Config:
        raise ConfigError("1 mistake in the configuration")

    answers = [unreadable, lambda: msgspec.structs.replace(old, server=Server(port=1)), lambda: wanted]
    with trio.fail_after(20):
        async with _serving(runtime, lambda: answers.pop(0)()) as url:
            for refusals in (1, 2):
                signal.raise_signal(signal.SIGHUP)
                await until_true(lambda refusals=refusals: len(runtime.ledger.events) == refusals)
                assert runtime.config is old
                assert (await fetch(url, "GET", "/livez")).status == 200
            signal.raise_signal(signal.SIGHUP)
            await until_true(lambda: runtime.config is wanted)
    assert runtime.ledger.events == ["config_reload_refused"] * 2 + ["prepared", "config_reloaded"]
