"""The front door of the express lane: a connection that serves hot requests itself, over the reactor.

A hot request is a POST to an inference endpoint over HTTP/1.1. At the first head that is anything else (another path
or method, another version, an upgrade, a malformed head), the connection goes on as the reference lane's, with
the bytes that were read; so nothing is answered here that is not hot, but for a head that stops coming. One task
serves the connection; when the caller is gone, the reactor cancels its scope, and with it whatever the request does.
"""

import contextlib
import logging
import math
from email.utils import formatdate
from functools import lru_cache
from typing import Any

import msgspec
import trio
from hypercorn.utils import parse_socket_addr

from securellm._fast import http1
from securellm._fast.reactor_c import Channel, PlainFeed, Reactor
from securellm._fast.request_body_c import RequestBody
from securellm.chat import Answer, Call, Endpoint, Headers, HeadNotes, Outcome, Status
from securellm.config import Config
from securellm.errors import InternalError, SecureLLMError, SlowBody
from securellm.express.exchange import NativeExchange
from securellm.ids import new_request_id
from securellm.telemetry.faults import describe_fault
from securellm.telemetry.logs import request_id_var
from securellm.upstream.stream import Pulled, Upstream
from securellm.web import cors
from securellm.web.caller_address import Network, client_ip
from securellm.web.connection import Connection
from securellm.web.refusals import dialect_of, id_headers, refusal
from securellm.web.seam import Runtime
from securellm.web.target import parse_target

HOT: dict[str, Endpoint] = {
    "/v1/chat/completions": Endpoint.CHAT,
    "/v1/messages": Endpoint.MESSAGES,
    "/v1/responses": Endpoint.RESPONSES,
    "/v1/completions": Endpoint.COMPLETIONS,
    "/v1/embeddings": Endpoint.EMBEDDINGS,
}
_HOT_RAW = {path.encode("ascii"): (path, endpoint) for path, endpoint in HOT.items()}

_CLOSE = (b"connection", b"close")
_CHUNKED = (b"transfer-encoding", b"chunked")

_log = logging.getLogger("securellm.express")


class Surroundings(msgspec.Struct, frozen=True):
    """What all connections share."""

    runtime: Runtime
    config: Config
    reactor: Reactor
    trusted_proxies: tuple[Network, ...]
    allowed_origins: tuple[str, ...]
    max_head_bytes: int


class ExpressConnection(Connection):
    """One accepted connection: hot requests here, the rest as the class above."""

    def __init__(self, surroundings: Surroundings, *of_reference: Any) -> None:
        super().__init__(*of_reference)
        self._around = surroundings
        self._channel: Channel | None = None  # while this lane serves

    def wake(self) -> None:
        """As above; here the reactor has the task."""
        if self._channel is not None:
            self._channel.wake()
        else:
            super().wake()

    async def _serve(self) -> None:
        handed_over = False
        tls = self.stream if isinstance(self.stream, trio.SSLStream) else None
        channel = self._around.reactor.add(
            self._transport.socket, tls=tls, caller=True, stall_s=self._limits.write_stall_s
        )
        self._channel = channel
        try:
            with trio.CancelScope() as scope:
                channel.on_gone = scope.cancel
                handed_over = await Door(self, channel, self._around).serve()
        finally:
            self._channel = None
            channel.detach()
            if channel.queued_bytes:
                self.abort()  # what was sent may end anywhere
        if handed_over:
            self._already = channel.unread
            await super()._serve()


class Door:
    """Serves the hot requests of one connection, one after the other."""

    def __init__(self, connection: ExpressConnection, channel: Channel, around: Surroundings) -> None:
        sock = connection._transport.socket
        peer = parse_socket_addr(sock.family, sock.getpeername())
        self._connection = connection
        self._channel = channel
        self._around = around
        self._gateway = around.runtime.gateway
        self._peer = str(peer[0]) if peer else ""
        self._client_ip = client_ip(self._peer, [], ())
        self._limits = connection._limits
        self._heads = http1.RequestHeads()
        self._notes = HeadNotes()  # of the last head
        self._sent_status: int | None = None  # of the head that was sent for the request being served

    async def serve(self) -> bool:
        """Serve until the connection is over, or until somebody else must: then True, and the bytes are unread."""
        connection, channel, reactor = self._connection, self._channel, self._around.reactor
        while True:
            connection.idle = True
            connection.idle_since_s = reactor.now_s()
            head = await self._next_head()
            if head is None:
                return bool(channel.unread) and not (connection._over or channel.closed)
            connection.idle = False
            target, endpoint = _hot(head)
            if endpoint is None:
                channel.give_back(self._heads.raw)
                return True
            body = RequestBody(channel, head)
            self._sent_status = None
            keep = await self._serve_request(head, target, endpoint, body)
            if channel.queued_bytes:
                await channel.drain()
                keep = keep and not connection.context.terminated.is_set()
            if not keep or connection._over or channel.closed or channel.eof:
                return False

    async def _next_head(self) -> http1.RequestHead | None:
        """The next head, if it can be ours; None when not: what was read is unread then, and nothing at the end."""
        channel, limits, reactor = self._channel, self._limits, self._around.reactor
        max_head_bytes = self._around.max_head_bytes
        more = data = channel.take()
        if not data:
            channel.deadline_s = self._connection.idle_since_s + limits.keep_alive_s
        while True:
            if more:
                try:
                    parsed = self._heads.parse(data, max_head_bytes)
                except SecureLLMError:
                    channel.give_back(data)
                    return None
                if parsed is not None:
                    head, end = parsed
                    if end < len(data):
                        channel.give_back(data[end:])
                    channel.deadline_s = math.inf
                    return head
                if more is data:  # the first bytes of a head
                    channel.deadline_s = reactor.now_s() + limits.head_s
            await channel.receive_ready()
            more = channel.take()
            if more:
                data = data + more if data else more
            elif channel.expired and data:
                await self._refuse_slow_head()
                return None
            elif channel.expired or channel.eof or self._connection._over or channel.closed:
                return None

    async def _serve_request(self, head: http1.RequestHead, target: str, endpoint: Endpoint, body: RequestBody) -> bool:
        """Serve one request to its end; whether the connection can be used again."""
        around, gateway = self._around, self._gateway
        request_id = new_request_id()
        request_id_var.set(request_id)
        headers: Headers = head.headers
        address = client_ip(self._peer, headers, around.trusted_proxies) if around.trusted_proxies else self._client_ip
        if not self._heads.repeats:
            self._notes = HeadNotes()
        call = Call(endpoint, target, headers, body, address, request_id, around.reactor.now_s(), self._notes)
        permit = None
        try:
            answer = permit = await gateway.admit(call)
            if isinstance(answer, Answer):
                permit = None
            else:
                answer = await gateway.ask(permit)
            if isinstance(answer, Answer):
                keep = self._answer(head, call, body, answer.status, answer.headers, answer.body)
                if not body.done:
                    await self._linger()
                return keep
            return await self._relay(head, call, body, permit, answer)
        except Exception as error:
            _log.error("request %s failed: %s", request_id, describe_fault(error))
            if permit is not None:
                gateway.settle(permit, Outcome(Status.FAILED, 500, InternalError.code, "internal error"))
            if self._sent_status is not None:
                return False
            fault = InternalError("internal error; the log has it under the request's id")
            refused = refusal(target, headers, fault, request_id)
            keep = self._answer(head, call, body, refused.status, refused.headers, refused.body)
            if not body.done:
                await self._linger()
            return keep
        finally:
            if permit is not None and not permit.settled:
                gateway.settle(permit, Outcome(Status.CANCELLED, self._sent_status))

    def _answer(
        self, head: http1.RequestHead, call: Call, body: RequestBody, status: int, headers: Headers, content: bytes
    ) -> bool:
        """Send a whole answer; whether the connection can be used again."""
        headers = [field for field in headers if field[0] != b"content-length"]
        headers.append((b"content-length", b"%d" % len(content)))
        keep = self._complete(head, call, headers, body.discard())
        self._sent_status = status
        self._channel.write(http1.encode_response(status, headers), content)
        return keep

    async def _relay(
        self, head: http1.RequestHead, call: Call, body: RequestBody, permit: Any, upstream: Upstream
    ) -> bool:
        """Send a stream."""
        channel = self._channel
        headers = [*upstream.headers, _CHUNKED]
        keep = self._complete(head, call, headers, body.discard())
        opening = http1.encode_response(upstream.status, headers)
        self._sent_status = upstream.status
        async with upstream:
            opening, last = await self._pass_on(opening, upstream)
            ending: Pulled = await self._gateway.finish(permit, upstream, last)
        closing = http1.encode_chunk(ending.held)
        channel.write(opening + closing if ending.abort else opening + closing + http1.LAST_CHUNK)
        return keep and not ending.abort and not self._connection.context.terminated.is_set()

    async def _pass_on(self, opening: bytes, upstream: Upstream) -> tuple[bytes, Pulled]:
        """Everything but the held bytes; returns the head if nothing else has been sent."""
        channel = self._channel
        while True:
            pulled = await upstream.pull()
            if pulled.data:
                channel.write(opening, http1.encode_chunk(pulled.data))
                opening = b""
            if pulled.last:
                return opening, pulled
            exchange = upstream.exchange
            if isinstance(exchange, NativeExchange):
                await self._relay_apart(exchange, upstream)
            elif channel.queued_bytes:
                await channel.drain()

    async def _relay_apart(self, exchange: NativeExchange, upstream: Upstream) -> None:
        """Let the reactor relay until there is something to decide."""
        scanner = upstream.plain_scanner
        feed = upstream.feed if scanner is None else PlainFeed(scanner, upstream)
        permit = upstream.permit
        permit.waiting_for(exchange.channel.wake)
        due_s = -math.inf
        try:
            while permit.interruption is None and (until_s := upstream.due_s) > due_s:
                due_s = until_s
                if not await exchange.relay(self._channel, feed, until_s=until_s):
                    return
        finally:
            permit.waiting_for(None)  # the connection may soon be another request's

    def _complete(self, head: http1.RequestHead, call: Call, headers: Headers, whole: bool) -> bool:
        """Add what every answer carries; whether the connection can be used again after it."""
        for name, _ in headers:
            if name == b"x-request-id":
                break
        else:
            headers += id_headers(dialect_of(call.target, call.headers), call.request_id)
        if self._around.allowed_origins:
            origin = cors.allowed_origin(call.headers, self._around.allowed_origins)
            if origin is not None:
                headers += cors.answer_headers(origin)
        headers.append((b"date", _date(int(call.started_s))))
        keep = head.keep_alive and whole and not self._connection.context.terminated.is_set()
        if not keep:
            headers.append(_CLOSE)
        return keep

    async def _refuse_slow_head(self) -> None:
        late = f"the request head was not complete after {self._limits.head_s:g} s (server.head_timeout_s)"
        answer = refusal("/", [], SlowBody(late), new_request_id())
        self._channel.write(http1.encode_response(answer.status, [*answer.headers, _CLOSE]), answer.body)
        await self._linger()

    async def _linger(self) -> None:
        """Send FIN, then throw away what the caller still sends, within bounds, so that it can read the answer."""
        channel, limits = self._channel, self._limits
        await channel.drain()
        channel.shutdown()
        now_s = self._around.reactor.now_s
        end_s = now_s() + limits.linger_total_s
        left_bytes = limits.linger_bytes
        while left_bytes > 0 and not (channel.eof or channel.closed):
            channel.deadline_s = min(end_s, now_s() + limits.linger_idle_s)
            await channel.receive_ready()
            if channel.expired:
                return
            left_bytes -= len(channel.take())


def _hot(head: http1.RequestHead) -> tuple[str, Endpoint | None]:
    """The canonical target with its query, and the endpoint; None when it is not ours to serve."""
    if head.method != b"POST" or head.minor != 1 or head.upgrade:
        return "", None
    if (found := _HOT_RAW.get(head.target)) is not None:
        return found
    target = head.target.decode("ascii")
    endpoint = None
    if "?" in target:
        with contextlib.suppress(SecureLLMError):  # the reference lane says why
            endpoint = HOT.get(parse_target(head.target).path)
    return target, endpoint


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    """The date of an answer, the same for all of one second."""
    return formatdate(usegmt=True).encode("ascii")
