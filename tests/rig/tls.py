"""TLS on either side of a gateway, while callers and providers of the rig go on speaking plainly.

    caller ── plain ── `open_tls_caller` ── TLS ── gateway ── TLS ── `open_tls_front` ── plain ── provider

Each of the two passes bytes on both ways; as soon as one side ends, the other is closed, so that a hang-up is seen.
"""

import functools
import os
import ssl
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

_COMMAND = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
    "-addext subjectAltName=DNS:localhost,IP:127.0.0.1"
)

_Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Serve = Callable[..., Awaitable[None]]


@functools.cache
def certificate() -> tuple[Path, Path]:
    """A certificate for localhost and its key, made once."""
    folder = Path(tempfile.mkdtemp(prefix="rig-tls-"))
    files = folder / "cert.pem", folder / "key.pem"
    subprocess.run([*_COMMAND.split(), "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


@contextmanager
def trusting() -> Iterator[None]:
    """The gateway in this process trusts that certificate inside the block, and what else it trusted not at all."""
    from securellm.upstream.trust import shared_tls

    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(certificate()[0])
    shared_tls.cache_clear()
    try:
        yield
    finally:
        os.environ.pop("SSL_CERT_FILE")
        if before is not None:
            os.environ["SSL_CERT_FILE"] = before
        shared_tls.cache_clear()


async def open_tls_front(nursery: trio.Nursery, port: int, seen: list[trio.SSLStream] | None = None) -> int:
    """Listen for TLS in front of a plain port of this machine; returns where. Runs until the nursery is cancelled."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate())

    async def serve(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError:
            await trio.aclose_forcefully(stream)
            return
        if seen is not None:
            seen.append(tls)
        await _join(tls, await trio.open_tcp_stream("127.0.0.1", port))

    return await _listen(nursery, serve)


async def open_tls_caller(nursery: trio.Nursery, port: int) -> int:
    """Listen plainly, and pass on by TLS to a port of this machine; returns where."""
    context = ssl.create_default_context(cafile=certificate()[0])

    async def serve(stream: trio.SocketStream) -> None:
        try:
            onward = await trio.open_tcp_stream("127.0.0.1", port)
        except OSError:
            await trio.aclose_forcefully(stream)
            return
        await _join(stream, trio.SSLStream(onward, context, server_hostname="localhost", https_compatible=True))

    return await _listen(nursery, serve)


async def _listen(nursery: trio.Nursery, serve: Serve) -> int:
    listeners = await nursery.start(functools.partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
    port: int = listeners[0].socket.getsockname()[1]
    return port


async def _join(one: _Stream, other: _Stream) -> None:
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_pass_on, one, other, nursery.cancel_scope)
            nursery.start_soon(_pass_on, other, one, nursery.cancel_scope)
    finally:
        for stream in (one, other):
            transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
            transport.socket.close()


async def _pass_on(source: _Stream, target: _Stream, scope: trio.CancelScope) -> None:
    try:
        while data := await source.receive_some(65536):
            await target.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    scope.cancel()
