"""The sockets and the TLS of the server."""

import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio

from rig.edge import Pulled, edge_config, open_edge, streaming
from rig.raw_client import encode_request, fetch
from securellm.config import Config
from securellm.config.tree import Security, Server, Tls
from securellm.errors import ConfigError
from securellm.server import bind_sockets, tls_context

AUTH = {"authorization": "Bearer good"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A self-signed certificate for localhost, made by openssl."""
    folder = tmp_path_factory.mktemp("tls")
    tls = Tls(cert_path=folder / "cert.pem", key_path=folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [*command, "-keyout", str(tls.key_path), "-out", str(tls.cert_path)], check=True, capture_output=True
    )
    return tls


def _trusting(tls: Tls) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=tls.cert_path)


def _with(tls: Tls, **server: object) -> Config:
    return msgspec.structs.replace(edge_config(**server), security=Security(tls=tls))


async def _connect(url: str, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
    return trio.SSLStream(stream, context, server_hostname="localhost")


async def _read_until(stream: trio.SSLStream[trio.SocketStream], end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        data += await stream.receive_some()
    return data


async def _read_all(stream: trio.SSLStream[trio.SocketStream]) -> bytes:
    data = b""
    while piece := await stream.receive_some():
        data += piece
    return data


def test_sockets_answer_before_anybody_serves() -> None:
    """A client that connects between bind and serve waits in the backlog instead of being refused."""
    sockets = bind_sockets(edge_config())
    with socket.create_connection(sockets[0].getsockname(), timeout=1):
        pass
    for bound in sockets:
        bound.close()


def test_a_taken_port_is_told() -> None:
    """A port that is in use is a ConfigError that names it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1 port {port}: address already in use"):
            bind_sockets(Config(server=Server(port=port)))


def test_an_unknown_host_is_told() -> None:
    """A host that does not resolve is a ConfigError."""
    with pytest.raises(ConfigError, match=r"no-such-host\.invalid"):
        bind_sockets(Config(server=Server(host="no-such-host.invalid")))


def test_importing_the_server_is_cheap() -> None:
    """Neither Quart nor Hypercorn is imported until something is served, so that the socket can be bound first."""
    code = (
        "import sys, securellm.server; print([name for name in ('quart', 'hypercorn', 'h11') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={"PYTHONPATH": "src"}
    )
    assert done.stdout.strip() == "[]"


async def test_tls(certificate: Tls) -> None:
    """HTTP/1.1 over TLS: whole answers, streams, keep-alive; ALPN offers http/1.1 and nothing else."""
    context = _trusting(certificate)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with trio.fail_after(20):
        async with open_edge(_with(certificate)) as edge:
            assert edge.url.startswith("https://")
            stream = await _connect(edge.url, context)
            async with stream:
                await stream.send_all(encode_request("POST", "/v1/chat/completions", b"{}", AUTH))
                assert (await _read_until(stream, b"{}")).startswith(b"HTTP/1.1 200")
                assert stream.selected_alpn_protocol() == "http/1.1"
                edge.gateway.script = streaming(Pulled(b"a" * 100_000), Pulled(b"", b"end", last=True))
                request = encode_request("POST", "/v1/chat/completions", b"{}", AUTH | {"connection": "close"})
                await stream.send_all(request)
                assert (await _read_all(stream)).endswith(b"3\r\nend\r\n0\r\n\r\n")


async def test_tls_hang_up(certificate: Tls) -> None:
    """A caller that closes its TLS connection amid a stream ends the request."""
    waiting = trio.Event()

    async def wait(pull: int) -> None:
        waiting.set()
        await trio.sleep_forever()

    with trio.fail_after(20):
        async with open_edge(_with(certificate)) as edge:
            edge.gateway.script = streaming(Pulled(b"a"), wait=wait)
            stream = await _connect(edge.url, _trusting(certificate))
            await stream.send_all(encode_request("POST", "/v1/chat/completions", b"{}", AUTH))
            await waiting.wait()
            started_s = trio.current_time()
            await trio.aclose_forcefully(stream)
            await edge.gateway.log.until("settled cancelled")
            assert trio.current_time() - started_s < 1


async def test_tls_early_answer(certificate: Tls) -> None:
    """The answer to a bad key can be read over TLS while the body is on its way."""
    with trio.fail_after(20):
        async with open_edge(_with(certificate)) as edge:
            stream = await _connect(edge.url, _trusting(certificate))
            async with stream:
                await stream.send_all(encode_request("POST", "/v1/chat/completions", b"x" * 5_000_000))
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 401")


async def test_slow_handshake(certificate: Tls) -> None:
    """A caller that never finishes its handshake is closed after head_timeout_s."""
    with trio.fail_after(10):
        async with open_edge(_with(certificate, head_timeout_s=0.3)) as edge:
            silent = await trio.open_tcp_stream("127.0.0.1", int(edge.url.rpartition(":")[2]))
            async with silent:
                started_s = trio.current_time()
                assert await silent.receive_some() == b""
                assert 0.2 < trio.current_time() - started_s < 3


async def test_a_handshake_does_not_hold_the_drain(certificate: Tls) -> None:
    """A connection that has not finished its handshake is idle: it is closed at once when the server stops."""
    with trio.fail_after(10):
        async with open_edge(_with(certificate, head_timeout_s=60)) as edge:
            silent = await trio.open_tcp_stream("127.0.0.1", int(edge.url.rpartition(":")[2]))
            async with silent:
                await silent.send_all(b"\x16\x03\x01")
                edge.stop(signal.SIGTERM)
                assert await silent.receive_some() == b""
                await edge.stopped.wait()


async def test_old_tls_and_plain_http_are_refused(certificate: Tls) -> None:
    """TLS 1.1 finds no common version; plain HTTP on a TLS port is not answered; the server goes on."""
    old = _trusting(certificate)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with trio.fail_after(20):
        async with open_edge(_with(certificate)) as edge:
            stream = await _connect(edge.url, old)
            with pytest.raises(trio.BrokenResourceError):
                await stream.do_handshake()
            await trio.aclose_forcefully(stream)
            assert tls_context(certificate) is not None
            plain = await trio.open_tcp_stream("127.0.0.1", int(edge.url.rpartition(":")[2]))
            async with plain:
                await plain.send_all(encode_request("GET", "/livez"))
                assert not (await plain.receive_some()).startswith(b"HTTP")
            stream = await _connect(edge.url, _trusting(certificate))
            async with stream:
                await stream.send_all(encode_request("GET", "/livez"))
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")


def test_a_certificate_that_cannot_be_loaded(tmp_path: Path) -> None:
    """A missing or broken certificate is a ConfigError that shows no path's content."""
    missing = Tls(cert_path=tmp_path / "no.pem", key_path=tmp_path / "no.key")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        tls_context(missing)
    (tmp_path / "bad.pem").write_text("not a certificate")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        tls_context(Tls(cert_path=tmp_path / "bad.pem", key_path=tmp_path / "bad.pem"))


async def test_the_client_address_behind_a_proxy() -> None:
    """X-Forwarded-For is believed from a trusted proxy and from nobody else."""
    with trio.fail_after(10):
        for trusted, expected in (((), "127.0.0.1"), (("127.0.0.0/8",), "198.51.100.1")):
            async with open_edge(edge_config(trusted_proxies=trusted)) as edge:
                headers = AUTH | {"x-forwarded-for": "203.0.113.1, 198.51.100.1"}
                assert (await fetch(edge.url, "POST", "/v1/chat/completions", b"{}", headers)).status == 200
                assert edge.gateway.permits[0].call.client_ip == expected
