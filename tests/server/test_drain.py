"""Stopping: announce, stop accepting, finish what is open, last words, exit; and a second signal at once."""

import signal

import msgspec
import pytest
import trio

from rig.edge import Pulled, edge_config, open_edge, streaming
from rig.raw_client import fetch, open_client
from securellm.config import Config
from securellm.config.tree import Drain

AUTH = {"authorization": "Bearer good"}
CHAT = "/v1/chat/completions"


def _config(**drain: float) -> Config:
    return msgspec.structs.replace(edge_config(), drain=Drain(**({"term_s": 5.0, "interrupt_s": 5.0} | drain)))


async def _refused(url: str) -> None:
    while True:
        try:
            async with open_client(url):
                await trio.sleep(0.01)
        except OSError:
            return


async def test_sigterm_lets_open_streams_finish() -> None:
    """Idle connections close at once, new ones are refused, the stream arrives whole, then serve returns."""
    finish = trio.Event()

    async def wait(pull: int) -> None:
        if pull:
            await finish.wait()

    with trio.fail_after(20):
        async with open_edge(_config()) as edge, open_client(edge.url) as busy, open_client(edge.url) as idle:
            edge.gateway.script = streaming(Pulled(b"a"), Pulled(b"", b"end", last=True), wait=wait)
            await busy.request("POST", CHAT, b"{}", AUTH)
            await busy.read_head()
            assert await busy.read_piece() == b"a"
            edge.stop(signal.SIGTERM)
            started_s = trio.current_time()
            assert await idle.read_eof() == b""
            assert trio.current_time() - started_s < 1
            await _refused(edge.url)
            assert not edge.stopped.is_set()
            finish.set()
            assert await busy.read_body() == b"end"
            assert await busy.read_eof() == b""
            await edge.stopped.wait()
            assert "end streams" not in edge.gateway.log.entries


async def test_streams_over_the_drains_time_end_in_an_error_event() -> None:
    """After term_s the gateway ends what is open; its error event is delivered, the body is cut, serve returns."""

    async def wait(pull: int) -> None:
        if pull:
            await trio.sleep_forever()

    with trio.fail_after(20):
        async with open_edge(_config(term_s=0.3)) as edge, open_client(edge.url) as client:
            edge.gateway.script = streaming(Pulled(b"a"), wait=wait)
            await client.request("POST", CHAT, b"{}", AUTH)
            await client.read_head()
            assert await client.read_piece() == b"a"
            started_s = trio.current_time()
            edge.stop(signal.SIGTERM)
            response = await client.read_eof()
            assert b"shutting_down" in response
            assert not response.endswith(b"0\r\n\r\n")
            await edge.stopped.wait()
            assert 0.2 < trio.current_time() - started_s < 3
            assert edge.gateway.log.entries[-4:] == ["end streams", "settled shutdown", "durable", "closed"]


async def test_sigint_is_less_patient() -> None:
    """Ctrl-C waits for interrupt_s and not for term_s, and announces nothing."""

    async def wait(pull: int) -> None:
        await trio.sleep_forever()

    with trio.fail_after(20):
        async with (
            open_edge(_config(term_s=60, announce_s=60, interrupt_s=0.2)) as edge,
            open_client(edge.url) as client,
        ):
            edge.gateway.script = streaming(Pulled(b"a"), wait=wait)
            await client.request("POST", CHAT, b"{}", AUTH)
            await edge.gateway.log.until("admitted")
            started_s = trio.current_time()
            edge.stop(signal.SIGINT)
            await edge.stopped.wait()
            assert 0.1 < trio.current_time() - started_s < 2


async def test_announcement() -> None:
    """With announce_s, readiness is 503 at once while requests are still taken and served."""
    with trio.fail_after(20):
        async with open_edge(_config(announce_s=0.7)) as edge:
            assert (await fetch(edge.url, "GET", "/readyz")).status == 200
            started_s = trio.current_time()
            edge.stop(signal.SIGTERM)
            while (await fetch(edge.url, "GET", "/api/ready")).status != 503:
                pass
            assert trio.current_time() - started_s < 0.5
            assert (await fetch(edge.url, "GET", "/livez")).status == 200
            assert (await fetch(edge.url, "POST", CHAT, b"{}", AUTH)).status == 200
            assert "stop accepting" not in edge.gateway.log.entries
            await edge.stopped.wait()
            assert 0.5 < trio.current_time() - started_s < 5
            assert edge.gateway.log.entries[-1] == "stop accepting"


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_stops_at_once(second: signal.Signals) -> None:
    """Whatever is open is cut, and settled as cancelled."""

    async def wait(pull: int) -> None:
        if pull:
            await trio.sleep_forever()

    with trio.fail_after(20):
        async with open_edge(_config(term_s=60)) as edge, open_client(edge.url) as client:
            edge.gateway.script = streaming(Pulled(b"a"), wait=wait)
            await client.request("POST", CHAT, b"{}", AUTH)
            await client.read_head()
            assert await client.read_piece() == b"a"
            edge.stop(signal.SIGTERM)
            await _refused(edge.url)
            assert not edge.stopped.is_set()
            started_s = trio.current_time()
            edge.stop(second)
            await edge.stopped.wait()
            assert trio.current_time() - started_s < 1
            assert "settled cancelled" in edge.gateway.log.entries
            await client.read_eof()


async def test_stalled_reader_does_not_hold_the_drain() -> None:
    """A caller that does not read is cut by the end of the drain at the latest (T4)."""
    with trio.fail_after(20):
        async with open_edge(_config(term_s=0.3)) as edge, open_client(edge.url, receive_buffer_bytes=4096) as client:
            edge.gateway.script = streaming(*[Pulled(b"x" * 1_000_000)] * 50)
            await client.request("POST", CHAT, b"{}", AUTH)
            await client.read_head()
            started_s = trio.current_time()
            edge.stop(signal.SIGTERM)
            await edge.stopped.wait()
            assert trio.current_time() - started_s < 10  # term_s and the time for last words


async def test_sighup_changes_nothing() -> None:
    """SIGHUP is logged and ignored; the server goes on."""
    with trio.fail_after(10):
        async with open_edge(_config()) as edge:
            edge.stop(signal.SIGHUP)
            assert (await fetch(edge.url, "GET", "/livez")).status == 200
            assert not edge.stopped.is_set()


async def test_drain_without_connections_is_immediate() -> None:
    """An idle server stops at once."""
    with trio.fail_after(10):
        async with open_edge(_config()) as edge:
            started_s = trio.current_time()
            edge.stop(signal.SIGTERM)
            await edge.stopped.wait()
            assert trio.current_time() - started_s < 1
