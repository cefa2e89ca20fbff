"""The reference client: httpx over Trio, HTTP/1.1 only, one pool per provider origin.

httpx is used for what it does well (HTTP/1.1, TLS, pooling) and kept from what harms here:

- its pool never queues: a request cancelled while it waits for a slot leaves the slot taken for ever (httpcore issue
  1093), so `max_connections` is None and a CapacityLimiter of ours is the queue;
- HTTP/2 is off, because cancelling a request there sends no reset and the provider goes on generating (httpcore
  issue 943); over HTTP/1.1 cancelling is closing;
- closing runs under a shield with a deadline: under a plain cancel httpcore gives up at its own lock, before the
  socket is closed;
- no redirects, no environment proxies, no default headers, no timeouts of its own; names are resolved by
  `network.py`, which judges each address.

This is the only module that imports httpx for the relay; `network.py` is the only one that imports httpcore.
"""

import contextlib
from collections.abc import AsyncIterator

import httpcore
import httpx
import trio

from securellm.chat import Headers
from securellm.errors import ConnectFailed, ConnectTimeout, DestinationRefused, UpstreamInvalid, UpstreamTruncated
from securellm.providers.base import Provider, UpstreamRequest
from securellm.upstream.client import ClientStatistics, Exchange, StaleConnection
from securellm.upstream.connecting import DestinationNotAllowed
from securellm.upstream.network import GuardedBackend, Witness, witness_of_task
from securellm.upstream.trust import shared_tls

KEEP_ALIVE_S = 15.0  # shorter than what public providers keep idle connections open for
MAX_KEPT_CONNECTIONS = 100
CLOSE_S = 2.0  # bound of a close; TCP needs none, TLS might wait for the peer


class HttpxClient:
    """Asks one provider's origin."""

    def __init__(self, provider: Provider) -> None:
        self._origin = provider.origin
        self._name = f"provider {provider.name}"  # callers read the name, never the address
        self._limiter = trio.CapacityLimiter(provider.max_connections)
        self._backend = GuardedBackend(declared_host=provider.declared_host)
        self._transport = httpx.AsyncHTTPTransport(
            verify=shared_tls(),
            http1=True,
            http2=False,
            trust_env=False,
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=MAX_KEPT_CONNECTIONS, keepalive_expiry=KEEP_ALIVE_S
            ),
        )
        # httpx has no parameter for the network backend of its pool; tests/upstream pins that this one is in use.
        self._pool: httpcore.AsyncConnectionPool = self._transport._pool
        self._pool._network_backend = self._backend

    async def send(self, request: UpstreamRequest, *, connect_s: float) -> Exchange:
        """As the contract says."""
        slot = object()
        await self._limiter.acquire_on_behalf_of(slot)
        try:
            response = await self._send(request, connect_s)
        except BaseException:
            self._limiter.release_on_behalf_of(slot)
            raise
        return HttpxExchange(response, self._limiter, slot)

    async def _send(self, request: UpstreamRequest, connect_s: float) -> httpx.Response:
        outgoing = _outgoing(request)
        outgoing.extensions["timeout"] = {"connect": connect_s, "read": None, "write": None, "pool": None}
        outgoing.stream = RequestBody(outgoing.content)
        witness = Witness()
        witness_of_task.set(witness)
        try:
            return await self._transport.handle_async_request(outgoing)
        except httpx.ConnectTimeout as exc:
            raise ConnectTimeout(f"no connection to {self._name} within {connect_s:g} s") from exc
        except httpx.ConnectError as exc:
            raise ConnectFailed(f"cannot connect to {self._name}") from exc
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as exc:
            if not witness.connected and not witness.received_bytes:
                raise StaleConnection(f"{self._name} had closed a kept connection") from exc
            if isinstance(exc, httpx.RemoteProtocolError) and "disconnected" not in str(exc):
                raise UpstreamInvalid(f"{self._name} does not speak HTTP/1.1") from exc
            raise UpstreamTruncated(f"{self._name} closed the connection before it answered") from exc
        except DestinationNotAllowed as exc:
            raise DestinationRefused(f"{self._name} resolves to an address that requests must not go to") from exc
        except httpx.LocalProtocolError as exc:
            raise UpstreamInvalid(f"the request to {self._name} cannot be put on the wire") from exc

    async def aclose(self) -> None:
        """Close every kept connection."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
            await self._transport.aclose()

    def statistics(self) -> ClientStatistics:
        """The figures now."""
        held = self._limiter.statistics()
        return ClientStatistics(
            origin=self._origin,
            in_use=held.borrowed_tokens,
            waiting=held.tasks_waiting,
            connections=len(self._pool.connections),
            max_connections=int(held.total_tokens),
        )

    def __repr__(self) -> str:
        held = self.statistics()
        return f"<HttpxClient {held.origin} in_use={held.in_use} waiting={held.waiting}>"


class HttpxExchange:
    """One answer that is being read."""

    def __init__(self, response: httpx.Response, limiter: trio.CapacityLimiter, slot: object) -> None:
        self._response = response
        self._limiter = limiter
        self._slot: object | None = slot
        self._chunks: AsyncIterator[bytes] | None = None
        # There is no public way to it; a test pins what it is needed for.
        self._connection: httpcore.AsyncHTTP11Connection = (
            response.stream._httpcore_stream._stream._connection  # type: ignore[union-attr]
        )
        self._number = self._connection._request_count  # of the request on its connection
        self.status = response.status_code
        self.headers: Headers = [(name.lower(), value) for name, value in response.headers.raw]

    async def receive(self) -> bytes:
        """As the contract says."""
        if self._chunks is None:
            encoded = self._response.headers.get("content-encoding", "identity") != "identity"
            self._chunks = self._response.aiter_bytes() if encoded else self._response.aiter_raw()
        try:
            while True:
                data = await anext(self._chunks)
                if data:
                    return data
        except StopAsyncIteration:
            await self._drop_if_unasked()
            return b""
        except (httpx.ReadError, httpx.RemoteProtocolError) as exc:
            raise UpstreamTruncated("the provider's connection broke before its answer was complete") from exc
        except httpx.DecodingError as exc:
            raise UpstreamInvalid("the provider's answer does not match its content-encoding") from exc

    async def aclose(self) -> None:
        """As the contract says."""
        if self._slot is None:
            return
        slot, self._slot = self._slot, None
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                await self._drop_if_unasked()
                await self._response.aclose()
                await self._unwind()
        finally:
            self._limiter.release_on_behalf_of(slot)

    async def _drop_if_unasked(self) -> None:
        """Close a connection with bytes behind the answer: the library keeps both, for the next answer.

        Once the answer has ended the connection may serve another request, and what is behind is that one's.
        """
        connection = self._connection
        if connection._request_count == self._number and connection._h11_state.trailing_data[0]:
            await connection.aclose()

    async def _unwind(self) -> None:
        """Run the library's four nested generators to their end; closing the outer one leaves them to the GC.

        The connection is closed already, so the next read fails at once and unwinds them all.
        """
        if self._chunks is not None:
            with contextlib.suppress(httpx.HTTPError, httpx.StreamError, StopAsyncIteration):
                while True:
                    await anext(self._chunks)


class RequestBody(httpx.AsyncByteStream):
    """A body that is there already. httpx's own is a generator, which a cancelled request leaves to the collector."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Once(self._data)


class _Once:
    """Yields one piece. Holds nothing that would have to be closed."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __aiter__(self) -> "_Once":
        return self

    async def __anext__(self) -> bytes:
        if not self._data:
            raise StopAsyncIteration
        data, self._data = self._data, b""
        return data


def wire_headers(request: UpstreamRequest) -> Headers:
    """Every header as it goes on the wire, the connection's own included, in order."""
    return [(name.lower(), value) for name, value in _outgoing(request).headers.raw]


def _outgoing(request: UpstreamRequest) -> httpx.Request:
    return httpx.Request(request.method, request.url, headers=request.headers, content=request.content)
