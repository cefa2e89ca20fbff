"""Both upstream clients against a scripted provider: each way a connection can go wrong, and what is left behind."""

import gc
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator

import pytest
import trio

from rig import script
from rig.fake_provider import FakeProvider
from securellm.chat import Endpoint
from securellm.config.tree import Provider as ProviderConfig
from securellm.errors import (
    ConnectFailed,
    ConnectTimeout,
    DestinationRefused,
    UpstreamInvalid,
    UpstreamTruncated,
)
from securellm.providers.base import Provider, UpstreamRequest
from securellm.providers.registry import describe
from securellm.upstream.client import Client, StaleConnection
from securellm.upstream.clients import OpenClient, open_httpx
from securellm.wire.body import Edited


def describe_at(base_url: str, **settings: object) -> Provider:
    return describe("vllm", ProviderConfig(kind="vllm", enabled=True, base_url=base_url, **settings))


def request_to(provider: Provider, body: bytes = b"{}") -> UpstreamRequest:
    url = provider.endpoints[Endpoint.CHAT].url
    return UpstreamRequest("POST", url, provider.origin, [(b"content-type", b"application/json")], body)


@pytest.fixture(params=["httpx", pytest.param("native", marks=pytest.mark.compiled)])
async def open_client(request: pytest.FixtureRequest, nursery: trio.Nursery) -> OpenClient:
    """Makes a client of one kind and of the other."""
    if request.param == "httpx":
        return open_httpx
    from securellm.express.lane import ExpressLane  # without the extensions it cannot be imported

    lane = ExpressLane()
    nursery.start_soon(lane.run)
    return lane.open_client


@pytest.fixture
async def client(provider: FakeProvider, open_client: OpenClient) -> AsyncIterator[Client]:
    client = open_client(describe_at(provider.base_url, max_connections=4))
    yield client
    await client.aclose()


@pytest.fixture
def request_(provider: FakeProvider) -> UpstreamRequest:
    return request_to(describe_at(provider.base_url))


async def read(client: Client, request: UpstreamRequest) -> bytes:
    exchange = await client.send(request, connect_s=5)
    body = b""
    try:
        while data := await exchange.receive():
            body += data
    finally:
        await exchange.aclose()
    return body


async def test_a_connection_is_kept_and_used_again(client, provider, request_):
    """A body read to its end gives the connection back."""
    with trio.fail_after(10):
        for _ in range(3):
            provider.enqueue(*script.answer(200, b'{"a":1}'))
            assert await read(client, request_) == b'{"a":1}'
    assert len(provider.connections) == 1
    assert client.statistics().in_use == 0


async def test_nothing_is_added_to_the_request(client, provider, request_):
    """The bytes are ours: no user agent, no accept, no encoding of the library's own."""
    with trio.fail_after(10):
        provider.enqueue(*script.answer(200, b"{}"))
        await read(client, request_)
    names = [name for name, _ in provider.asked[0].headers]
    assert sorted(names) == ["content-length", "content-type", "host"]


async def test_an_unread_body_closes_the_connection(client, provider, request_):
    """Closing before the end closes the socket at once, so that the provider stops."""
    with trio.fail_after(10):
        provider.enqueue(script.stream_head(), script.chunk(b"data: 1\n\n"), script.never())
        exchange = await client.send(request_, connect_s=5)
        assert await exchange.receive() == b"data: 1\n\n"
        await exchange.aclose()
        await provider.connections[0].closed.wait()
    assert client.statistics().in_use == client.statistics().connections == 0


async def test_a_cancelled_close_still_closes(client, provider, request_):
    """Under a cancelled scope the socket is closed all the same (T2)."""
    with trio.fail_after(10):
        provider.enqueue(script.stream_head(), script.chunk(b"data: 1\n\n"), script.never())
        exchange = await client.send(request_, connect_s=5)
        with trio.CancelScope() as scope:
            scope.cancel()
            await exchange.aclose()
        await provider.connections[0].closed.wait()
    assert client.statistics().in_use == client.statistics().connections == 0


async def test_cancelling_leaves_no_slot_taken(client, provider, request_):
    """Requests cancelled in every phase, queued ones too, leave all slots free and the origin usable (T1)."""
    provider.default = [script.never()]
    with trio.fail_after(30):
        for round_ in range(20):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(read, client, request_)
                for _ in range(round_ % 5):
                    await trio.lowlevel.checkpoint()
                if round_ % 2:
                    await provider.arrived(len(provider.asked) + 1)
                nursery.cancel_scope.cancel()
        held = client.statistics()
        assert (held.in_use, held.waiting, held.connections) == (0, 0, 0)
        provider.default = script.answer(200, b"{}")
        for _ in range(10):
            assert await read(client, request_) == b"{}"


async def test_a_cancelled_handshake_closes_its_socket(open_client):
    """A provider that accepts and never answers the TLS handshake is let go of when the request is cancelled."""
    with trio.fail_after(10), socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        server = trio.socket.from_stdlib_socket(listener)
        provider = describe_at(f"https://127.0.0.1:{listener.getsockname()[1]}")
        client = open_client(provider)
        gc.disable()  # the socket must be closed by us, not by the collector
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, client, request_to(provider))
                peer, _ = await server.accept()
                hello = await peer.recv(65536)
                assert hello[:1] == b"\x16"
                nursery.cancel_scope.cancel()
            assert await peer.recv(65536) == b""
        finally:
            gc.enable()
        peer.close()
        assert client.statistics().in_use == 0


async def test_the_deadline_for_connecting_covers_tls(open_client):
    """TCP that stands and TLS that does not is a connect timeout."""
    with trio.fail_after(10), socket.create_server(("127.0.0.1", 0)) as listener:
        provider = describe_at(f"https://127.0.0.1:{listener.getsockname()[1]}")
        client = open_client(provider)
        with pytest.raises(ConnectTimeout):
            await client.send(request_to(provider), connect_s=0.2)
        assert client.statistics().in_use == 0


async def test_a_certificate_that_is_not_trusted_is_refused(open_client, tmp_path):
    """TLS is verified: a self-signed certificate is a failure to connect."""
    openssl = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -keyout key.pem -out cert.pem"
    subprocess.run(openssl.split(), check=True, capture_output=True, cwd=tmp_path)
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")

    async def handshake(stream: trio.SocketStream) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await trio.SSLStream(stream, server_tls, server_side=True).do_handshake()
        await stream.aclose()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, handshake, 0)
            provider = describe_at(f"https://localhost:{listeners[0].socket.getsockname()[1]}")
            client = open_client(provider)
            with pytest.raises(ConnectFailed):
                await client.send(request_to(provider), connect_s=5)
            nursery.cancel_scope.cancel()


async def test_nobody_listens(open_client, request_):
    """A refused connection is a failure to connect: nothing was sent."""
    with trio.fail_after(10), socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.close()
        provider = describe_at(f"http://127.0.0.1:{port}")
        client = open_client(provider)
        with pytest.raises(ConnectFailed) as caught:
            await client.send(request_to(provider), connect_s=5)
        assert not isinstance(caught.value, StaleConnection)
        assert client.statistics().in_use == client.statistics().connections == 0


@pytest.mark.parametrize("how", [script.fin(), script.rst()])
async def test_a_kept_connection_that_was_closed_is_told_apart(client, provider, request_, how):
    """Closed under us on a kept connection: StaleConnection, because the request may be sent again (T16)."""
    with trio.fail_after(10):
        provider.enqueue(*script.answer(200, b"{}"))
        await read(client, request_)
        provider.enqueue(how)
        with pytest.raises(StaleConnection):
            await client.send(request_, connect_s=5)
    assert len(provider.connections) == 1
    assert client.statistics().in_use == 0


@pytest.mark.parametrize("how", [script.fin(), script.rst()])
async def test_a_new_connection_that_breaks_is_not_stale(client, provider, request_, how):
    """Closed on a new connection after the request was sent: it may have been paid for, so it is not sent again."""
    with trio.fail_after(10):
        provider.enqueue(how)
        with pytest.raises(UpstreamTruncated):
            await client.send(request_, connect_s=5)


async def test_half_a_head_is_no_stale_connection(client, provider, request_):
    """Bytes that came back mean that the provider had begun: never sent again."""
    with trio.fail_after(10):
        provider.enqueue(*script.answer(200, b"{}"))
        await read(client, request_)
        provider.enqueue(script.raw(b"HTTP/1.1 200 OK\r\ncontent-"), script.fin())
        with pytest.raises(UpstreamTruncated):
            await client.send(request_, connect_s=5)


async def test_a_body_that_is_cut_is_told(client, provider, request_):
    """Less than its Content-Length, or chunks without the last: UpstreamTruncated, never a quiet end."""
    cut_length = [*script.answer(200, b"{}", length=100), script.fin()]
    cut_chunks = [script.stream_head(), script.chunk(b"data: 1\n\n"), script.fin()]
    with trio.fail_after(10):
        for steps in (cut_length, cut_chunks):
            provider.enqueue(*steps)
            with pytest.raises(UpstreamTruncated):
                await read(client, request_)
    assert client.statistics().in_use == 0


async def test_what_is_not_http_is_invalid(client, provider, request_):
    """A peer that speaks something else is named so."""
    with trio.fail_after(10):
        provider.enqueue(script.raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), script.fin())
        with pytest.raises(UpstreamInvalid):
            await client.send(request_, connect_s=5)


async def test_redirects_are_not_followed(client, provider, request_):
    """A 307 is an answer like any other; the key goes nowhere else (T14)."""
    with trio.fail_after(10):
        provider.enqueue(*script.answer(307, b"", {"location": f"{provider.base_url}/elsewhere"}))
        exchange = await client.send(request_, connect_s=5)
        await exchange.aclose()
    assert exchange.status == 307
    assert len(provider.asked) == 1


async def test_gzip_is_undone_piece_by_piece(client, provider, request_):
    """A provider that compresses against our wish is decoded as it arrives."""
    go_on = trio.Event()
    with trio.fail_after(10):
        steps = script.stream([b"data: 1\n\n", b"data: 2\n\n"], gzip=True)
        provider.enqueue(*steps[:2], script.until(go_on), *steps[2:])
        exchange = await client.send(request_, connect_s=5)
        assert await exchange.receive() == b"data: 1\n\n"
        go_on.set()
        assert await exchange.receive() == b"data: 2\n\n"
        assert await exchange.receive() == b""
        await exchange.aclose()


async def test_bytes_are_not_read_as_lines(client, provider, request_):
    """Unicode line separators stay inside what was sent (T10)."""
    data = 'data: {"a":"x\u2028y\u2029z\u0085"}\n\n'.encode()
    with trio.fail_after(10):
        provider.enqueue(*script.stream([data]))
        assert await read(client, request_) == data


async def test_proxies_of_the_environment_are_ignored(open_client, provider, request_):
    """HTTP_PROXY does not get to see prompts and keys (T15)."""
    os.environ["HTTP_PROXY"] = os.environ["http_proxy"] = "http://127.0.0.1:9"
    try:
        with trio.fail_after(10):
            client = open_client(describe_at(provider.base_url))
            provider.enqueue(*script.answer(200, b"{}"))
            assert await read(client, request_) == b"{}"
            await client.aclose()
    finally:
        del os.environ["HTTP_PROXY"], os.environ["http_proxy"]


async def test_a_built_in_name_that_leads_inside_is_refused(open_client, provider):
    """An address is judged after its name is resolved: a built-in provider's name must not lead to this machine."""
    inside = describe_at(f"http://localhost:{provider.port}")
    public = Provider(
        name="openai",
        kind="openai",
        origin=inside.origin,
        endpoints=inside.endpoints,
        models_url=None,
        auth=inside.auth,
        api_key=None,
        quirks=inside.quirks,
        needs_key=True,
        declared_host=False,
    )
    with trio.fail_after(10):
        client = open_client(public)
        with pytest.raises(DestinationRefused):
            await client.send(request_to(public), connect_s=5)
    assert provider.connections == []


async def test_interim_answers_are_skipped(client, provider, request_):
    """100 and 103 before the answer are not the answer."""
    with trio.fail_after(10):
        provider.enqueue(
            script.raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"),
            *script.answer(200, b'{"a":1}'),
        )
        assert await read(client, request_) == b'{"a":1}'
        provider.enqueue(*script.answer(200, b"{}"))
        assert await read(client, request_) == b"{}"
    assert len(provider.connections) == 1


async def test_a_body_that_the_connection_ends(client, provider, request_):
    """Without a length and without chunks the body ends with the connection, which is not used again."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"
    with trio.fail_after(10):
        for _ in range(2):
            provider.enqueue(script.raw(head + b'{"a":'), script.raw(b"1}"), script.fin())
            assert await read(client, request_) == b'{"a":1}'
    assert len(provider.connections) == 2
    assert client.statistics().connections == 0


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body(client, provider, request_, status):
    """204 and 304 have no body, and nothing is waited for."""
    with trio.fail_after(10):
        provider.enqueue(script.raw(b'HTTP/1.1 %d None\r\netag: "x"\r\n\r\n' % status))
        exchange = await client.send(request_, connect_s=5)
        assert (exchange.status, await exchange.receive()) == (status, b"")
        await exchange.aclose()
        provider.enqueue(*script.answer(200, b"{}"))
        assert await read(client, request_) == b"{}"
    assert len(provider.connections) == 1


async def test_head_has_no_body(client, provider, request_):
    """The answer to a HEAD may announce a length; no body follows it."""
    head = UpstreamRequest("HEAD", request_.url, request_.origin, [], b"")
    with trio.fail_after(10):
        provider.enqueue(script.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n"))
        assert await read(client, head) == b""
        provider.enqueue(*script.answer(200, b"{}"))
        assert await read(client, request_) == b"{}"
    assert len(provider.connections) == 1


async def test_bytes_behind_an_answer_end_the_connection(client, provider, request_):
    """What nobody asked for is never taken for the next answer."""
    smuggled = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno"
    with trio.fail_after(10):
        provider.enqueue(script.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}" + smuggled))
        assert await read(client, request_) == b"{}"
        provider.enqueue(*script.answer(200, b'{"a":1}'))
        assert await read(client, request_) == b'{"a":1}'
    assert len(provider.connections) == 2


async def test_closing_an_answer_late_takes_nothing_from_the_next(client, provider, request_):
    """Whoever read an answer to its end may close it when its connection serves another one already."""
    pieces = [b"a" * 40, b"b" * 40, b"c" * 40]
    with trio.fail_after(10):
        provider.enqueue(*script.answer(200, b"{}"))
        first = await client.send(request_, connect_s=5)
        while await first.receive():
            pass
        gate = trio.Event()
        together = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces[:2])
        rest = [script.until(gate), script.chunk(pieces[2]), script.end_chunks()]
        provider.enqueue(script.stream_head(), script.raw(together), *rest)
        second = await client.send(request_, connect_s=5)
        body = await second.receive()
        await first.aclose()
        gate.set()
        while data := await second.receive():
            body += data
        await second.aclose()
    assert body == b"".join(pieces)


@pytest.mark.parametrize("edited", [False, True])
async def test_a_large_request_is_sent_whole(client, provider, request_, edited: bool):
    """A body that no socket buffer holds arrives byte for byte, and so does one of which only the end is kept."""
    body = bytes(range(256)) * 40_000
    sent = Edited(body[:1000], b"other than that" + body, 1015) if edited else body
    with trio.fail_after(20):
        provider.enqueue(*script.answer(200, b"{}"))
        large = UpstreamRequest("POST", request_.url, request_.origin, request_.headers, sent)
        assert large.content == body
        assert await read(client, large) == b"{}"
    assert provider.asked[0].body == body
