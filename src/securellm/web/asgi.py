"""One request at the border between ASGI and Quart: who reads the body, who notices a hang-up, who settles.

Quart's own connection reads the body ahead of the application, bounds it with settings that answer in HTML, ends
streams after a minute and cancels the request when the server reports the end of an exchange that has just been
answered. So:
- the body is pulled by whoever wants it (`Body`), and by nobody else;
- once the body has ended, one task waits for the caller to hang up and then cancels everything that the request does;
- the same news during the last send changes nothing;
- a request that ends in whatever way without having been settled is settled in a plain `finally`.
"""

import logging
from typing import TYPE_CHECKING, Any

import trio
from quart.wrappers import Request, Response
from quart_trio.asgi import TrioASGIHTTPConnection

from securellm.chat import Call, Caller, Endpoint, Headers, Outcome, RequestId, Status
from securellm.errors import InternalError, SecureLLMError
from securellm.ids import new_request_id
from securellm.telemetry.faults import describe_fault
from securellm.telemetry.logs import request_id_var
from securellm.web import cors
from securellm.web.caller_address import client_ip
from securellm.web.refusals import Refusal, dialect_of, id_headers, refusal
from securellm.web.target import parse_target

if TYPE_CHECKING:
    from securellm.web.app import EdgeApp

UNIX = "unix"  # the address of callers by a Unix socket
EDGE = "securellm.edge"  # where a view finds this object in `request.scope`
CLOSE_S = 2.0  # how long closing the provider's connection may take when the request is over

_log = logging.getLogger("securellm.web")


class EdgeRequest(TrioASGIHTTPConnection):
    """One request. Views read its head, its body and its caller here; the lane leaves its permit here."""

    app: "EdgeApp"

    def __init__(self, app: "EdgeApp", scope: Any) -> None:
        super().__init__(app, scope)
        self.runtime = app.runtime
        self.request_id: RequestId = new_request_id()
        self.started_s = trio.current_time()
        self.headers: Headers = [(bytes(name).lower(), bytes(value)) for name, value in scope["headers"]]
        self.target = "/"  # canonical, with its query
        self.body = Body(self)
        self.caller: Caller | None = None
        self.permit: Any = None
        self.upstream: Any = None  # taken by whoever enters it
        self.cut = False  # the answer ends without its proper end
        self._finishing = False
        self._started = False
        self._sent_status: int | None = None  # of the head that was sent

    @property
    def path(self) -> str:
        """The canonical path."""
        return str(self.scope["path"])

    @property
    def client_ip(self) -> str:
        """The caller's address, behind the proxies that are trusted; `unix` by a socket that has none."""
        peer = self.scope.get("client") or (UNIX, 0)
        return client_ip(str(peer[0]), self.headers, self.app.trusted_proxies)

    def call(self, endpoint: Endpoint) -> Call:
        """The request in the gateway's words."""
        return Call(
            endpoint=endpoint,
            target=self.target,
            headers=self.headers,
            body=self.body,
            client_ip=self.client_ip,
            request_id=self.request_id,
            started_s=self.started_s,
        )

    def refusal(self, error: SecureLLMError) -> Refusal:
        """The error in the dialect of this path."""
        return refusal(self.path, self.headers, error, self.request_id)

    def settle(self, outcome: Outcome) -> None:
        """Settle the request unless that was done."""
        if self.permit is not None and not self.permit.settled:
            self.runtime.gateway.settle(self.permit, outcome)

    def watch(self) -> None:
        """The body has ended: from now on the next event is the caller's hang-up."""
        self._nursery.start_soon(self._watch)

    def hang_up(self) -> None:
        """The caller is gone: end everything that is being done for it."""
        if not self._finishing:
            self._nursery.cancel_scope.cancel()

    async def __call__(self, receive: Any, send: Any) -> None:
        """Serve the request."""
        request_id_var.set(self.request_id)  # of this task and of those that it starts: their log lines carry it
        self.receive = receive
        try:
            async with trio.open_nursery() as self._nursery:
                await self._serve(send)
                self._nursery.cancel_scope.cancel()
        finally:
            self.settle(Outcome(Status.CANCELLED, self._sent_status))

    async def _watch(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.hang_up()

    async def _serve(self, send: Any) -> None:
        try:
            await self._respond(send)
        except OSError:
            _log.debug("the caller of %s was gone before its answer was written", self.request_id)
        except Exception as error:
            _log.error("request %s failed: %s", self.request_id, describe_fault(error))
            self.settle(Outcome(Status.FAILED, 500, InternalError.code, "internal error"))
            if not self._started:
                await self._send_refusal(send, InternalError("internal error; the log has it under the request's id"))
        finally:
            await self._close_upstream()

    async def _respond(self, send: Any) -> None:
        query = self.scope["query_string"]
        raw = self.scope.get("raw_path") or self.scope["path"].encode("utf-8")
        try:
            target = parse_target(raw + b"?" + query if query else raw)
        except SecureLLMError as error:
            await self._send_refusal(send, error)
            return
        self.target = (raw + b"?" + query if query else raw).decode("ascii")
        self.scope = {**self.scope, "path": target.path, EDGE: self}  # type: ignore[misc]  # EDGE is beside what ASGI names
        request: Request = self._create_request_from_scope(send)
        response = await self.app.handle_request(request)
        await self._send_response(send, response)

    async def _send_response(self, send: Any, response: Any) -> None:
        headers = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in response.headers.items()]
        await self._start(send, response.status_code, headers)
        if isinstance(response, Response):
            async with response.response as pieces:
                async for piece in pieces:
                    await self._send_piece(send, piece)
        else:
            for piece in response.response:
                await self._send_piece(send, piece)
        if not self.cut:
            await self._finish(send, b"")

    async def _send_refusal(self, send: Any, error: SecureLLMError) -> None:
        answer = self.refusal(error)
        await self._start(send, answer.status, answer.headers)
        await self._finish(send, answer.body)

    async def _start(self, send: Any, status: int, headers: Headers) -> None:
        names = {name for name, _ in headers}
        if b"x-request-id" not in names:
            headers = [*headers, *id_headers(dialect_of(self.path, self.headers), self.request_id)]
        origin = cors.allowed_origin(self.headers, self.app.allowed_origins)
        if origin is not None:
            headers = [*headers, *cors.answer_headers(origin)]
        self._started = True
        self._sent_status = status
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def _send_piece(self, send: Any, piece: bytes | str) -> None:
        data = piece.encode("utf-8") if isinstance(piece, str) else piece
        await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _finish(self, send: Any, data: bytes) -> None:
        self._finishing = True
        await send({"type": "http.response.body", "body": data, "more_body": False})

    async def _close_upstream(self) -> None:
        """Close a provider's connection that was opened and never relayed."""
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            with trio.move_on_after(CLOSE_S, shield=True):
                await upstream.__aexit__(None, None, None)


class Body:
    """The request's body, pulled piece by piece. Implements `chat.BodySource`."""

    def __init__(self, edge: EdgeRequest) -> None:
        self._edge = edge
        self._ended = False

    @property
    def length(self) -> int | None:
        """The announced Content-Length in bytes, None when chunked; 0 when no body was announced."""
        chunked = False
        for name, value in self._edge.headers:
            if name == b"content-length":
                return int(value)
            chunked = chunked or name == b"transfer-encoding"
        return None if chunked else 0

    def receive_nowait(self) -> bytes | None:
        """See BodySource: pieces come by ASGI's events, which are waited for."""
        return b"" if self._ended else None

    async def receive(self) -> bytes:
        """The next piece, b"" at the end. Cancels the request when the caller hangs up. Raises BadRequest."""
        while not self._ended:
            event = await self._edge.receive()
            if event["type"] == "http.disconnect":
                self._edge.hang_up()
                await trio.sleep_forever()  # until that cancellation arrives, at once
            if not event.get("more_body", False):
                self._ended = True
                self._edge.watch()
            if event.get("body"):
                return bytes(event["body"])
        return b""
