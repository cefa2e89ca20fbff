"""The border between ASGI and Quart, driven as ASGI: no socket, no server."""

from collections.abc import Callable
from typing import Any

import pytest
import trio

from rig.edge import EdgeGateway, EdgeRuntime, Permit, Pulled, Upstream, edge_config, streaming
from securellm.chat import Answer
from securellm.web.app import EdgeApp

CHAT = "/v1/chat/completions"


class Exchange:
    """One request as ASGI: events go in by `put`, what the application sends is kept."""

    def __init__(self, app: EdgeApp, method: str = "POST", path: str = CHAT) -> None:
        self.sent: list[dict[str, Any]] = []
        self.on_send: Callable[[dict[str, Any]], Any] | None = None
        self._app = app
        self._put, self._receive = trio.open_memory_channel[dict[str, Any]](10)
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.1"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"a"), (b"authorization", b"Bearer good")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "extensions": {},
        }

    def put(self, **event: Any) -> None:
        self._put.send_nowait(event)

    def put_body(self, body: bytes = b"{}") -> None:
        self.put(type="http.request", body=body, more_body=False)

    def hang_up(self) -> None:
        self.put(type="http.disconnect")

    async def run(self) -> None:
        with trio.fail_after(5):
            await self._app(self._scope, self._receive.receive, self._send)

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if self.on_send is not None:
            await self.on_send(message)
        await trio.lowlevel.checkpoint()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def complete(self) -> bool:
        return bool(self.sent) and self.sent[-1].get("more_body") is False


@pytest.fixture
def runtime() -> EdgeRuntime:
    return EdgeRuntime(edge_config())


@pytest.fixture
def app(runtime: EdgeRuntime) -> EdgeApp:
    return EdgeApp(runtime)


async def test_the_body_is_not_read_before_it_is_asked_for(app: EdgeApp, runtime: EdgeRuntime) -> None:
    """A refusal from the head alone leaves the body where it is."""
    exchange = Exchange(app)
    exchange._scope["headers"] = [(b"host", b"a")]
    exchange.put_body()
    await exchange.run()
    assert exchange.sent[0]["status"] == 401
    assert exchange._receive.statistics().current_buffer_used == 1


async def test_hang_up_during_the_last_send_changes_nothing(app: EdgeApp, runtime: EdgeRuntime) -> None:
    """A server reports the end of an exchange as a disconnect: the send that ended it is not cancelled (T3)."""
    runtime.gateway.script = streaming(Pulled(b"a"), Pulled(b"", b"end", last=True))
    exchange = Exchange(app)
    finished = []

    async def on_send(message: dict[str, Any]) -> None:
        if message.get("more_body") is False:
            exchange.hang_up()
            for _ in range(10):
                await trio.lowlevel.checkpoint()
            finished.append(True)

    exchange.on_send = on_send
    exchange.put_body()
    await exchange.run()
    assert finished == [True]
    assert exchange.body == b"aend"
    assert runtime.gateway.log.entries == ["admitted", "settled success", "durable", "closed"]


async def test_hang_up_cancels_everything_else(app: EdgeApp, runtime: EdgeRuntime) -> None:
    """A disconnect amid a stream closes the provider's connection and settles as cancelled, once."""
    exchange = Exchange(app)

    async def wait(pull: int) -> None:
        if pull:
            exchange.hang_up()
            await trio.sleep_forever()

    runtime.gateway.script = streaming(Pulled(b"a"), wait=wait)
    exchange.put_body()
    await exchange.run()
    assert sorted(runtime.gateway.log.entries) == ["admitted", "closed", "settled cancelled"]
    assert not exchange.complete


async def test_a_provider_that_was_asked_is_closed_if_nobody_relays(app: EdgeApp, runtime: EdgeRuntime) -> None:
    """An Upstream whose answer cannot be started is closed all the same."""
    runtime.gateway.script = streaming(Pulled(b"a"))
    exchange = Exchange(app)

    async def on_send(message: dict[str, Any]) -> None:
        raise ConnectionResetError

    exchange.on_send = on_send
    exchange.put_body()
    await exchange.run()
    assert sorted(runtime.gateway.log.entries) == ["admitted", "closed", "settled cancelled"]


async def test_a_stream_that_fails_is_cut(app: EdgeApp, runtime: EdgeRuntime) -> None:
    """A defect amid a stream leaves the body without its end, settled as failed; nothing is raised (T26)."""

    class Defective(Upstream):
        async def pull(self) -> Pulled:
            await super().pull()
            raise KeyError("data")

    async def script(gateway: EdgeGateway, permit: Permit) -> Upstream:
        return Defective(gateway.log, [Pulled(b"a")])

    runtime.gateway.script = script
    exchange = Exchange(app)
    exchange.put_body()
    await exchange.run()
    assert [message["type"] for message in exchange.sent] == ["http.response.start"]
    assert sorted(runtime.gateway.log.entries) == ["admitted", "closed", "settled failed"]


async def test_cancelled_at_every_checkpoint(app: EdgeApp, runtime: EdgeRuntime) -> None:
    """Cancelled from outside after any number of steps, a request is settled once, its provider closed (T25, T28)."""
    runtime.gateway.script = streaming(Pulled(b"a"), Pulled(b"b", b"end", last=True))
    for steps in range(60):
        runtime.gateway.log.entries.clear()
        runtime.gateway.permits.clear()
        exchange = Exchange(app)
        exchange.put_body()
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(exchange.run)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        entries = runtime.gateway.log.entries
        settled = [entry for entry in entries if entry.startswith("settled")]
        assert len(settled) == len(runtime.gateway.permits), (steps, entries)
        if runtime.gateway.permits:
            assert ("closed" in entries) or entries == ["admitted", "settled cancelled"], (steps, entries)
    assert entries == ["admitted", "settled success", "durable", "closed"]  # the last was not cut short


async def test_a_body_in_pieces_is_joined(app: EdgeApp) -> None:
    """Empty pieces are no end; the body ends where the server says."""
    exchange = Exchange(app)
    for piece in (b"", b"a", b"", b"b"):
        exchange.put(type="http.request", body=piece, more_body=True)
    exchange.put_body(b"")
    await exchange.run()
    assert exchange.body == b"ab"


async def test_frameworks_timers_are_off(app: EdgeApp) -> None:
    """Quart's own bounds on sizes and times, which answer in HTML or cut streams, are all off (T11, T23)."""
    names = ("MAX_CONTENT_LENGTH", "BODY_TIMEOUT", "RESPONSE_TIMEOUT")
    assert [app.config[name] for name in names] == [None] * 3


async def test_a_stream_of_two_minutes(app: EdgeApp, runtime: EdgeRuntime, autojump_clock: object) -> None:
    """On a virtual clock, a stream of 120 s with pauses of 30 s arrives whole (T11)."""

    async def wait(pull: int) -> None:
        await trio.sleep(30)

    runtime.gateway.script = streaming(*[Pulled(b"a")] * 3, Pulled(b"", b"end", last=True), wait=wait)
    exchange = Exchange(app)
    exchange.put_body()
    started_s = trio.current_time()
    await app(exchange._scope, exchange._receive.receive, exchange._send)
    assert trio.current_time() - started_s == pytest.approx(120)
    assert exchange.body == b"aaaend"
    assert exchange.complete


async def test_a_whole_answer_is_cancelled_between_settling_and_sending(app: EdgeApp, runtime: EdgeRuntime) -> None:
    """A caller who goes while the record is being made durable gets nothing, and nothing is settled twice."""
    exchange = Exchange(app)

    async def script(gateway: EdgeGateway, permit: Permit) -> Answer:
        answer = gateway.whole(permit, b"{}")
        exchange.hang_up()
        await trio.sleep_forever()
        return answer

    runtime.gateway.script = script
    exchange.put_body()
    await exchange.run()
    assert runtime.gateway.log.entries == ["admitted", "settled success"]
    assert exchange.sent == []
