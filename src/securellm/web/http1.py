"""HTTP/1.1 on one connection: Hypercorn's h11 protocol, made strict, and prompt when a caller hangs up.

What differs from `hypercorn.protocol.h11` and why:
- the raw head and the raw chunks are checked for what h11 lets pass (`head.py`, `_fast/http1_py.py`), and every refusal
  is JSON, after which the connection ends;
- HTTP/2 is never switched to and WebSockets are refused by the application, as there are none yet;
- `Expect: 100-continue` is answered when the application asks for the body, which is after the key was checked;
- while an answer is being sent the socket is still read, so that a caller who hangs up is noticed behind a pipelined
  request;
- an answer that is ready before the body has arrived says `connection: close` and the connection lingers, so that the
  caller can read it;
- a body that breaks the framing is the application's to answer, as a BadRequest raised where it reads.
"""

from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Any, Protocol

import h11
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState

from securellm._fast import http1
from securellm.chat import Headers
from securellm.errors import BadRequest, HeadTooLarge, InternalError, SecureLLMError, SlowBody
from securellm.ids import new_request_id
from securellm.web.head import check_head
from securellm.web.inbox import Inbox, Tasks
from securellm.web.refusals import refusal

MAX_PIPELINED_BYTES = 65536  # read ahead of the answer being sent; more waits in the kernel


class Wire(Protocol):
    """What the protocol asks of its connection besides Hypercorn's events."""

    def close_lingering(self) -> None:
        """End the connection after the caller had a chance to read what was sent."""

    def abort(self) -> None:
        """End the connection at once with a reset."""

    def wake(self) -> None:
        """Bytes that were read already can be looked at now."""


class Http1(H11Protocol):
    """The HTTP/1.1 side of one connection; `pump` is called by the connection's reader only."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        tasks: Tasks,
        *,
        state: ConnectionState,
        tls: bool,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
        send: Callable[[Event], Awaitable[None]],
        wire: Wire,
    ) -> None:
        super().__init__(app, config, context, tasks, state, tls, client, server, send)
        self._wire = wire
        self._head = bytearray()  # raw bytes since the last head, while the next one is read
        self._reading_head = True
        self._body_done = True
        self._broken = False  # the caller's framing is broken, or the request was refused: nothing more is parsed
        self._http10 = False
        self._asked_head = False
        self._chunks: http1.ChunkedDecoder | None = None  # a second, strict reader of a chunked body
        self._last = False  # a WebSocket was asked for: it is refused, and what follows is no HTTP

    @property
    def head_begun(self) -> bool:
        """Part of a head has arrived."""
        return self._reading_head and bool(self._head)

    @property
    def full(self) -> bool:
        """So much has been read ahead that reading on must wait for the answer that is being sent."""
        return not self._reading_head and len(self.connection.trailing_data[0]) > MAX_PIPELINED_BYTES

    async def handle(self, event: Event) -> None:
        """Take bytes from the reader, or the news that the caller is gone."""
        if isinstance(event, RawData):
            if self._broken:
                return
            if self._reading_head:
                self._head += event.data
            elif not self._are_chunks(event.data):
                self._on_broken_body()
                return
            self.connection.receive_data(event.data)
            await self.pump()
        elif isinstance(event, Closed):
            await self._close_stream()

    async def pump(self) -> None:
        """Turn the bytes that are there into events, up to the end of one request."""
        while not self._broken:
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                await self._on_malformed(error)
                return
            if isinstance(event, h11.Request):
                await self._on_request(event)
            elif isinstance(event, h11.Data) and self.stream is not None:
                await self.stream.handle(Body(stream_id=STREAM_ID, data=bytes(event.data)))
            elif isinstance(event, h11.EndOfMessage):
                self._body_done = True
                if self.stream is not None:
                    await self.stream.handle(EndBody(stream_id=STREAM_ID))
            elif not isinstance(event, h11.Data):
                return  # NEED_DATA, PAUSED or ConnectionClosed

    async def send_continue(self) -> None:
        """Answer `Expect: 100-continue`, if the caller waits for it."""
        if isinstance(self.connection, h11.Connection) and self.connection.they_are_waiting_for_100_continue:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))

    async def refuse(self, error: SecureLLMError, path: str = "/", headers: Headers | None = None) -> None:
        """Answer a request that never reaches the application, and end the connection."""
        self._broken = True
        answer = refusal(path, headers or [], error, new_request_id())
        if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            fields = [*answer.headers, (b"connection", b"close"), *self.config.response_headers("h11")]
            await self._send_h11_event(h11.Response(status_code=answer.status, headers=fields))
            if not self._asked_head:
                await self._send_h11_event(h11.Data(data=answer.body))
            await self._send_h11_event(h11.EndOfMessage())
        self._wire.close_lingering()

    async def refuse_slow_head(self, head_timeout_s: float) -> None:
        """Answer a caller whose head did not arrive in time."""
        late = f"the request head was not complete after {head_timeout_s:g} s (server.head_timeout_s)"
        await self.refuse(SlowBody(late))

    async def stream_send(self, event: StreamEvent) -> None:
        """Send one event of the answer."""
        if isinstance(event, Response) and event.status_code >= 200:
            headers = list(chain(event.headers, self.config.response_headers("h11")))
            if not self._body_done or self._last or self.context.terminated.is_set():
                headers.append((b"connection", b"close"))
            await self._send_h11_event(h11.Response(headers=headers, status_code=event.status_code))
        elif isinstance(event, StreamClosed):
            await self._on_exchange_over()
        else:
            await super().stream_send(event)

    async def _on_request(self, request: h11.Request) -> None:
        await self.send(Updated(idle=False))
        trailing, _ = self.connection.trailing_data
        head = bytes(self._head[: len(self._head) - len(trailing)])
        self._head.clear()
        self._reading_head = False
        self._body_done = False
        self._http10 = request.http_version == b"1.0"
        self._asked_head = request.method == b"HEAD"
        self._last = any(name == b"upgrade" and b"websocket" in value.lower() for name, value in request.headers)
        try:
            checked = check_head(head, max_head_bytes=self.config.h11_max_incomplete_size)
        except SecureLLMError as error:
            await self.refuse(error, request.target.decode("latin-1"), list(request.headers))
            return
        self.stream = Exchange(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode("ascii"),
                method=request.method.decode("ascii"),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self._chunks = http1.ChunkedDecoder(request=True) if checked.chunked else None
        if not self._are_chunks(bytes(trailing)):
            self._on_broken_body()

    def _are_chunks(self, data: bytes) -> bool:
        """Whether a body that is chunked goes on as it should."""
        if self._chunks is not None:
            try:
                self._chunks.feed(data)
            except BadRequest:
                return False
        return True

    def _on_broken_body(self) -> None:
        self._broken = True
        if isinstance(self.stream, Exchange):
            self.stream.fail(BadRequest("the request body is not framed as HTTP says"))

    async def _on_malformed(self, error: h11.RemoteProtocolError) -> None:
        """The bytes are not HTTP, or the connection ended within a message."""
        self._broken = True
        if isinstance(self.stream, Exchange):
            self._on_broken_body()
        elif error.error_status_hint == HeadTooLarge.status:
            limit_bytes = self.config.h11_max_incomplete_size
            await self.refuse(HeadTooLarge(f"the request head is over {limit_bytes} bytes (server.max_head_bytes)"))
        else:
            await self.refuse(BadRequest("the request is not valid HTTP/1.1"))

    async def _on_exchange_over(self) -> None:
        """The application is done with its request: go on with the next one, or end the connection."""
        await self._close_stream()
        complete = self.connection.our_state is h11.DONE and self.connection.their_state is h11.DONE
        if complete and not self._broken and not self.context.terminated.is_set():
            trailing, _ = self.connection.trailing_data
            self.connection.start_next_cycle()
            self._head[:] = trailing
            self._reading_head = True
            await self.send(Updated(idle=True))
            if trailing:
                self._wire.wake()
        elif self._http10 and self.connection.our_state is h11.SEND_BODY:
            self._wire.abort()  # nothing but a reset tells an HTTP/1.0 caller that the answer was cut
        elif not self._body_done or self._broken:
            self._wire.close_lingering()
        else:
            await self.send(Closed())


class Exchange(HTTPStream):
    """One request and its answer, as ASGI events."""

    app_put: Any = None

    def fail(self, error: SecureLLMError) -> None:
        """The rest of the body cannot be read."""
        inbox = getattr(self.app_put, "__self__", None)
        if isinstance(inbox, Inbox):
            inbox.fail(error)

    async def _send_error_response(self, status_code: int) -> None:
        """The application ended without an answer: a defect of ours."""
        answer = refusal(self.scope["path"], [], InternalError("the gateway failed to answer"), new_request_id())
        fields = [*answer.headers, (b"connection", b"close")]
        await self.send(Response(stream_id=self.stream_id, headers=fields, status_code=answer.status))
        await self.send(Body(stream_id=self.stream_id, data=answer.body))
        await self.send(EndBody(stream_id=self.stream_id))
        self.state = ASGIHTTPState.CLOSED
