"""How connections to providers are made: resolve, judge each address, connect, TLS, all under one deadline.

It stands in for httpcore's own Trio backend for three reasons: the address must be judged after the name is
resolved and be the one that is connected to (connecting.py); TCP and TLS share one deadline; and a TLS handshake
that is cancelled must close its socket, which httpcore's backend leaves to the garbage collector.
"""

import contextvars
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import trio

from securellm.upstream.connecting import DestinationNotAllowed, open_connection


class Witness:
    """What was seen of the network while one request was sent: the library does not tell a kept connection from a new
    one, nor half a head from nothing.
    """

    __slots__ = ("connected", "received_bytes")

    def __init__(self) -> None:
        self.connected = False  # a new connection was made for it
        self.received_bytes = 0


witness_of_task: contextvars.ContextVar[Witness] = contextvars.ContextVar("witness_of_task")
"""Where set, the connections that this task uses report to it."""


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Makes the connections of one provider's pool."""

    def __init__(self, *, declared_host: bool) -> None:
        self._declared_host = declared_host

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A TCP connection to the first address of `host` that is allowed and answers."""
        if (witness := witness_of_task.get(None)) is not None:
            witness.connected = True
        deadline = trio.current_time() + timeout if timeout is not None else float("inf")
        with _mapped(connecting=True), trio.fail_at(deadline):
            stream = await open_connection(host, port, declared_host=self._declared_host)
        return ProviderStream(stream, deadline)

    async def connect_unix_socket(self, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        """Providers are reached over TCP only."""
        raise DestinationNotAllowed("unix sockets are not providers")

    async def sleep(self, seconds: float) -> None:
        """Only httpcore's own retries would call this, and they are off."""
        await trio.sleep(seconds)


class ProviderStream(httpcore.AsyncNetworkStream):
    """A connection to a provider; `deadline` is that of connecting, and bounds TLS, too."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream], deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # httpcore's signature
        """Deadlines are the caller's: `timeout` is always None here."""
        with _mapped():
            data = bytes(await self._stream.receive_some(max_bytes))
        if (witness := witness_of_task.get(None)) is not None:
            witness.received_bytes += len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # httpcore's signature
        """Deadlines are the caller's: `timeout` is always None here."""
        if buffer:
            with _mapped():
                await self._stream.send_all(buffer)

    async def aclose(self) -> None:
        """Close at once; no TLS goodbye is waited for."""
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # httpcore's signature
    ) -> httpcore.AsyncNetworkStream:
        """The same connection under TLS. A handshake that fails or is cancelled closes the socket."""
        assert isinstance(self._stream, trio.SocketStream)
        tls = trio.SSLStream(self._stream, ssl_context, server_hostname=server_hostname, https_compatible=True)
        try:
            with _mapped(connecting=True), trio.fail_at(self._deadline):
                await tls.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(self._stream)
            raise
        return ProviderStream(tls, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks for: the TLS object, the addresses, and whether an idle connection has become readable."""
        if info == "ssl_object":
            return self._stream._ssl_object if isinstance(self._stream, trio.SSLStream) else None
        socket = self._socket().socket
        if info == "is_readable":
            return socket.is_readable()
        if info == "client_addr":
            return socket.getsockname()
        if info == "server_addr":
            return socket.getpeername()
        return socket if info == "socket" else None

    def _socket(self) -> trio.SocketStream:
        return self._stream.transport_stream if isinstance(self._stream, trio.SSLStream) else self._stream


@contextmanager
def _mapped(*, connecting: bool = False) -> Iterator[None]:
    try:
        yield
    except trio.TooSlowError as exc:
        raise httpcore.ConnectTimeout("the deadline for connecting passed") from exc
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as exc:
        raise (httpcore.ConnectError if connecting else httpcore.ReadError)(str(exc)) from exc
