"""The native upstream client: one provider's origin over the reactor, HTTP/1.1, kept connections, no redirects.

Implements `upstream.client.Client`. A connection that is kept is watched by the reactor, so that one which the provider
closes, or writes to unasked, is gone from the pool at once; what closes between our look and our request is a
StaleConnection. Cancelling closes. Names are resolved and judged, and certificates verified, as for the other client.
"""

import functools
import math
import ssl
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import trio

from securellm._fast import http1
from securellm._fast.reactor_c import Channel, Reactor
from securellm.chat import Headers
from securellm.errors import ConnectFailed, ConnectTimeout, DestinationRefused
from securellm.express.exchange import NativeExchange
from securellm.providers.base import Provider, UpstreamRequest
from securellm.upstream.client import ClientStatistics
from securellm.upstream.connecting import DestinationNotAllowed, open_connection
from securellm.upstream.trust import shared_tls
from securellm.wire.body import Edited

KEEP_ALIVE_S = 15.0  # shorter than what public providers keep idle connections open for
MAX_KEPT_CONNECTIONS = 100
MAX_KEPT_OPENINGS = 256  # past it all are encoded anew

_DEFAULT_PORTS = {"http": 80, "https": 443}
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class _Opening(NamedTuple):
    """A request's head as far as it is the same for all that have these very headers."""

    headers: Sequence[tuple[bytes, bytes]]
    method: str
    url: str
    encoded: bytes


class NativeClient:
    """Asks one provider's origin."""

    def __init__(self, provider: Provider, reactor: Reactor) -> None:
        parts = urlsplit(provider.origin)
        assert parts.hostname is not None
        self._origin = provider.origin
        self.name = f"provider {provider.name}"  # callers read the name, never the address
        self._host = parts.hostname
        self._port = parts.port or _DEFAULT_PORTS[parts.scheme]
        self._declared_host = provider.declared_host
        self._tls = shared_tls() if parts.scheme == "https" else None
        self._session: ssl.SSLSession | None = None
        self._reactor = reactor
        self._openings: dict[int, _Opening] = {}  # by the identity of the headers, which an opening keeps alive
        self._closed = False
        self._kept: list[Channel] = []  # the one used last is used next
        self._connections = 0
        self._max_connections = provider.max_connections
        self._in_use = 0
        self._waiting = trio.lowlevel.ParkingLot()

    async def send(self, request: UpstreamRequest, *, connect_s: float) -> NativeExchange:
        """As the contract says."""
        if self._in_use < self._max_connections:
            self._in_use += 1
        else:
            await self._waiting.park()  # whoever gives a slot back hands it over
        channel: Channel | None = None
        try:
            kept = self._take_kept()
            channel = kept if kept is not None else await self._connect(connect_s)
            exchange = NativeExchange(self, channel, kept=kept is not None, of_head=request.method == "HEAD")
            _write(channel, self._encode_head(request), request.body)
            await exchange.read_head()
        except BaseException:
            self.done(channel, reusable=False)
            raise
        return exchange

    def begin(self, request: UpstreamRequest, *, due_s: float) -> NativeExchange | None:
        """As the contract says."""
        if not self._kept or self._in_use >= self._max_connections:
            return None
        head = self._encode_head(request)
        channel = self._kept.pop()
        channel.on_gone = None
        channel.deadline_s = due_s
        self._in_use += 1
        exchange = NativeExchange(self, channel, kept=True, of_head=request.method == "HEAD")
        _write(channel, head, request.body)
        return exchange

    async def aclose(self) -> None:
        """Close every kept connection; those in use are closed when their exchange is."""
        self._closed = True
        while (channel := self._take_kept()) is not None:
            self._close(channel)

    def statistics(self) -> ClientStatistics:
        """The figures now."""
        return ClientStatistics(
            self._origin, self._in_use, len(self._waiting), self._connections, self._max_connections
        )

    def __repr__(self) -> str:
        return f"<NativeClient {self._origin} in_use={self._in_use} waiting={len(self._waiting)}>"

    def done(self, channel: Channel | None, *, reusable: bool) -> None:
        """An exchange is over: keep its connection or close it, and give the slot to whoever waits."""
        if channel is not None:
            if reusable and not self._closed and len(self._kept) < MAX_KEPT_CONNECTIONS:
                channel.on_gone = functools.partial(self._drop, channel)
                channel.deadline_s = self._reactor.now_s() + KEEP_ALIVE_S
                self._kept.append(channel)
            else:
                self._close(channel)
        if self._in_use == self._max_connections and self._waiting:  # nobody waits while there are slots
            self._waiting.unpark()
        else:
            self._in_use -= 1

    def _take_kept(self) -> Channel | None:
        if not self._kept:
            return None
        channel = self._kept.pop()
        channel.on_gone = None
        channel.deadline_s = math.inf
        return channel

    def _drop(self, channel: Channel) -> None:
        self._kept.remove(channel)
        self._close(channel)

    def _close(self, channel: Channel) -> None:
        self._connections -= 1
        channel.close()

    async def _connect(self, connect_s: float) -> Channel:
        try:
            with trio.fail_after(connect_s):
                stream = await open_connection(self._host, self._port, declared_host=self._declared_host)
                tls = await self._handshake(stream) if self._tls is not None else None
        except trio.TooSlowError as error:
            raise ConnectTimeout(f"no connection to {self.name} within {connect_s:g} s") from error
        except DestinationNotAllowed as error:
            raise DestinationRefused(f"{self.name} resolves to an address that requests must not go to") from error
        except (OSError, trio.BrokenResourceError) as error:
            raise ConnectFailed(f"cannot connect to {self.name}") from error
        self._connections += 1
        return self._reactor.add(stream.socket, tls=tls)

    async def _handshake(self, stream: trio.SocketStream) -> "trio.SSLStream[trio.SocketStream]":
        """TLS on the connection; one that fails or is cancelled closes it. A session is taken up where it can be."""
        assert self._tls is not None
        tls = trio.SSLStream(stream, self._tls, server_hostname=self._host, https_compatible=True)
        try:
            if self._session is not None:
                tls.session = self._session
            await tls.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return tls

    def _encode_head(self, request: UpstreamRequest) -> bytes:
        headers, body = request.headers, request.body
        opening = self._openings.get(id(headers))
        if (
            opening is None
            or opening.headers is not headers
            or opening.url != request.url
            or opening.method != request.method
        ):
            opening = _encode_opening(request)
            if isinstance(headers, tuple):  # others will have the same one
                if len(self._openings) >= MAX_KEPT_OPENINGS:
                    self._openings.clear()
                self._openings[id(headers)] = opening
        if body or request.method in _WITH_BODY:
            return b"%bcontent-length: %d\r\n\r\n" % (opening.encoded, len(body))
        return opening.encoded + b"\r\n"


def _write(channel: Channel, head: bytes, body: bytes | Edited) -> None:
    if isinstance(body, Edited):
        channel.write(head + body.beginning, body.original, body.goes_on)
    else:
        channel.write(head, body)


def _encode_opening(request: UpstreamRequest) -> _Opening:
    target, host = _place_of(request.url)
    headers: Headers = [(b"host", host), *request.headers]
    encoded = http1.encode_request(request.method.encode("ascii"), target, headers)
    return _Opening(request.headers, request.method, request.url, encoded.removesuffix(b"\r\n"))


@functools.lru_cache(maxsize=1024)
def _place_of(url: str) -> tuple[bytes, bytes]:
    """What stands in the request line, and in Host."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if parts.port is not None and parts.port != _DEFAULT_PORTS[parts.scheme]:
        host += f":{parts.port}"
    target = parts.path or "/"
    return (f"{target}?{parts.query}" if parts.query else target).encode("ascii"), host.encode("ascii")
