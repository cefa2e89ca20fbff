"""What the native client does beyond the contract of both, which is in tests/upstream/test_client.py."""

import gzip
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import trio

from rig import script
from rig.fake_provider import FakeProvider
from rig.waiting import until_true
from securellm.chat import Endpoint
from securellm.config.tree import Provider as ProviderConfig
from securellm.providers.base import Provider, UpstreamRequest
from securellm.providers.registry import describe
from securellm.upstream.client import CutOff, StaleConnection, TimedClient

pytestmark = pytest.mark.compiled


def _describe_at(base_url: str) -> Provider:
    return describe("vllm", ProviderConfig(kind="vllm", enabled=True, base_url=base_url))


def _request_to(provider: Provider, body: bytes = b"{}") -> UpstreamRequest:
    url = provider.endpoints[Endpoint.CHAT].url
    return UpstreamRequest("POST", url, provider.origin, ((b"content-type", b"application/json"),), body)


@pytest.fixture
async def warm(provider: FakeProvider, nursery: trio.Nursery) -> AsyncIterator[tuple[Any, UpstreamRequest]]:
    """A client with one kept connection and room for two, and a request for it."""
    from securellm.express.lane import ExpressLane

    lane = ExpressLane()
    nursery.start_soon(lane.run)
    described = describe(
        "vllm", ProviderConfig(kind="vllm", enabled=True, base_url=provider.base_url, max_connections=2)
    )
    client, request = lane.open_client(described), _request_to(described)
    assert isinstance(client, TimedClient)
    assert client.begin(request, due_s=trio.current_time() + 5) is None, "there is no connection yet"
    provider.enqueue(*script.answer(200, b"{}"))
    await _read(await client.send(request, connect_s=5))
    yield client, request
    await client.aclose()


async def _read(exchange: Any) -> bytes:
    body = b""
    while data := await exchange.receive():
        body += data
    await exchange.aclose()
    return body


async def test_a_kept_connection_is_asked_at_once(warm, provider):
    """What is begun is the answer that `send` would get; its time stands until somebody else keeps it."""
    client, request = warm
    with trio.fail_after(10):
        for number in range(3):
            provider.enqueue(*script.answer(200, b'{"a":1}'))
            body = b"x" * number
            begun = UpstreamRequest("POST", request.url, request.origin, request.headers, body)
            exchange = client.begin(begun, due_s=trio.current_time() + 5)
            assert client.begin(request, due_s=0) is None, "it is in use"
            await exchange.read_head()
            assert exchange.status == 200
            assert await _read(exchange) == b'{"a":1}'
            assert provider.asked[-1].body == body
        provider.enqueue(script.stream_head(), script.sleep(0.3), script.chunk(b"late"), script.end_chunks())
        exchange = client.begin(request, due_s=trio.current_time() + 0.15)
        await exchange.read_head()
        exchange.keep_no_time()
        assert await _read(exchange) == b"late"
    assert len(provider.connections) == 1
    assert client.statistics().in_use == 0


async def test_a_body_that_came_with_its_head(warm, provider):
    """It can be had without a read, is received once, and its connection is kept whether it was or not."""
    client, request = warm
    with trio.fail_after(10):
        for received in (True, False):
            provider.enqueue(script.raw(b'HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{"a":1}'))
            exchange = client.begin(request, due_s=trio.current_time() + 5)
            assert exchange.whole == b""
            await exchange.read_head()
            assert exchange.whole == b'{"a":1}'
            if received:
                assert await exchange.receive() == b'{"a":1}'
                assert (exchange.whole, await exchange.receive()) == (b"", b"")
            exchange.close()
    assert len(provider.connections) == 1
    assert client.statistics().in_use == 0


@pytest.mark.parametrize("how", ["chunked", "encoded", "in pieces"])
async def test_a_body_that_takes_reads(warm, provider, how: str):
    """What has to be decoded, and what is not all there, is never taken for a body that came with its head."""
    client, request = warm
    body = b'{"a":1}'
    if how == "chunked":
        steps = [script.stream_head(), script.chunk(body), script.end_chunks()]
    else:
        sent = gzip.compress(body) if how == "encoded" else body
        head = b"HTTP/1.1 200 OK\r\n" + (b"content-encoding: gzip\r\n" if how == "encoded" else b"")
        head += b"content-length: %d\r\n\r\n" % len(sent)
        pieces = [head + sent] if how == "encoded" else [head + sent[:3], sent[3:]]
        steps = [step for piece in pieces for step in (script.raw(piece), script.sleep(0.1))]
    provider.enqueue(*steps)
    with trio.fail_after(10):
        exchange = client.begin(request, due_s=trio.current_time() + 5)
        await exchange.read_head()
        assert exchange.whole == b""
        assert await _read(exchange) == body


async def test_what_is_begun_says_the_same(warm, provider):
    """The head is encoded once for requests that share their headers, and is what it would be without."""
    client, request = warm
    with trio.fail_after(10):
        for headers in (request.headers, [*request.headers]):
            for method, url in (("POST", request.url), ("GET", request.url), ("POST", request.url + "/more?a=b")):
                provider.enqueue(*script.answer(200, b"{}"))
                asked = UpstreamRequest(method, url, request.origin, headers, b"{}" if method == "POST" else b"")
                exchange = client.begin(asked, due_s=trio.current_time() + 5)
                await exchange.read_head()
                await _read(exchange)
    first, second = provider.requests[-6:-3], provider.requests[-3:]
    assert [(it.method, it.path) for it in first] == [(it.method, it.path) for it in second]
    assert [it.headers for it in first] == [it.headers for it in second]
    assert [len(it.headers) for it in first] == [3, 2, 3]


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("how", ["time", "stop"])
async def test_what_is_begun_is_cut_off(warm, provider, begun: bool, how: str):
    """Without a head or amid the body: at its time, or as soon as it is stopped, and the connection is closed."""
    client, request = warm
    provider.enqueue(*([script.stream_head(), script.chunk(b"data: 1\n\n")] if begun else []), script.never())
    with trio.fail_after(10):
        now_s = trio.current_time()
        exchange = client.begin(request, due_s=now_s + (0.2 if how == "time" else 9))
        async with trio.open_nursery() as nursery:
            if how == "stop":
                await provider.arrived(2)
                nursery.start_soon(_stop_later, exchange)
            if begun:
                await exchange.read_head()
                assert await exchange.receive()
            with pytest.raises(CutOff):
                await (exchange.receive() if begun else exchange.read_head())
        assert now_s + 0.1 < trio.current_time() < now_s + 5
        await exchange.aclose()
        await provider.connections[0].closed.wait()
    held = client.statistics()
    assert (held.in_use, held.connections) == (0, 0)


async def _stop_later(exchange: Any) -> None:
    await trio.sleep(0.15)
    exchange.stop()


async def test_stopping_what_is_over_takes_nothing_from_the_next(warm, provider):
    """An interruption that comes late meets a closed exchange, whose connection is another's by then."""
    client, request = warm
    with trio.fail_after(10):
        provider.enqueue(*script.answer(200, b"{}"))
        first = client.begin(request, due_s=trio.current_time() + 5)
        await first.read_head()
        await _read(first)
        provider.enqueue(*script.answer(200, b'{"next":1}'))
        second = client.begin(request, due_s=trio.current_time() + 5)
        first.stop()
        await second.read_head()
        assert await _read(second) == b'{"next":1}'
    assert len(provider.connections) == 1


async def test_a_kept_connection_that_closes_is_stale(warm, provider):
    """As with `send`: what was begun on a connection that the provider closed may be sent once more."""
    client, request = warm
    provider.enqueue(script.fin())
    with trio.fail_after(10):
        exchange = client.begin(request, due_s=trio.current_time() + 5)
        with pytest.raises(StaleConnection):
            await exchange.read_head()
        await exchange.aclose()
        await until_true(lambda: client.statistics().connections == 0)
    assert client.statistics().in_use == 0


async def test_who_waits_is_before_who_begins(warm, provider):
    """With all slots taken nothing is begun past those who wait, even where a connection has come free."""
    client, request = warm
    provider.default = [script.never()]
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(partial(client.send, request, connect_s=5))
            await until_true(lambda: client.statistics().waiting == 1)
            assert client.begin(request, due_s=trio.current_time() + 5) is None
            nursery.cancel_scope.cancel()
    assert client.statistics().in_use == 0


async def test_an_early_answer_to_a_large_request(nursery):
    """A provider that answers before it has read the body is heard, and the connection is not used again."""
    from securellm.express.lane import ExpressLane  # without the extensions it cannot be imported

    lane = ExpressLane()
    nursery.start_soon(lane.run)
    with trio.fail_after(20):
        listeners = await nursery.start(partial(trio.serve_tcp, _refuse_early, 0, host="127.0.0.1"))
        provider = _describe_at(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        client = lane.open_client(provider)
        url = provider.endpoints[Endpoint.CHAT].url
        request = UpstreamRequest("POST", url, provider.origin, [], b"x" * 20_000_000)
        exchange = await client.send(request, connect_s=5)
        assert exchange.status == 413
        assert await exchange.receive() == b"{}"
        await exchange.aclose()
        assert client.statistics().connections == 0


async def _refuse_early(stream: trio.SocketStream) -> None:
    await stream.receive_some(1000)
    await stream.send_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\n{}")
    await trio.sleep_forever()
