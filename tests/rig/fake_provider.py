"""A scripted provider on loopback: real HTTP/1.1 over raw sockets, nothing between the test and the bytes.

Each connection has one reader, which parses requests and notices how and when the peer closed, and one writer, which
plays the script of each request in turn. When the peer closes, the running script is cancelled.
"""

import contextlib
import json
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import trio

from rig.script import Script, Step, answer

Closing = Literal["FIN", "RST", "ours"]
_RECEIVE_BYTES = 65536
_MODEL_LISTS = ("/v1/models", "/models", "/api/tags", "/api/v1/models", "/openai/v1/models")


@dataclass
class Connection:
    """One TCP connection that was made to the provider. Times are trio's, in seconds."""

    number: int
    opened_s: float
    closed_s: float | None = None  # when the peer's FIN or RST, or our own RST, was seen
    closed_how: Closing | None = None
    closed: trio.Event = field(default_factory=trio.Event)

    def mark_closed(self, how: Closing) -> None:
        """Note the first closing."""
        if self.closed_how is None:
            self.closed_s = trio.current_time()
            self.closed_how = how
            self.closed.set()


@dataclass(frozen=True)
class Received:
    """One request, with the exact bytes of its head and of its (unchunked) body."""

    head: bytes
    body: bytes
    method: str
    target: str
    headers: list[tuple[str, str]]
    connection: Connection
    arrived_s: float

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def header(self, name: str) -> str | None:
        """The first header of that (lower-case) name."""
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class FakeProvider:
    """The provider's scripts, and the record of what reached it.

    A request is answered by the first of: the script queued by `enqueue`, the list of models, `choose`, `default`,
    599 with a note. `asked` leaves the lists of models out, which the gateway may fetch at any time.
    """

    def __init__(self, models: Iterable[str] = ()) -> None:
        self.models = list(models)
        self.models_script: Script | None = None  # in place of the list
        self.requests: list[Received] = []
        self.connections: list[Connection] = []
        self.default: Script | None = None
        self.choose: Callable[[Received], Script | None] | None = None
        self.port = 0
        self._queue: deque[Script] = deque()
        self._arrival = trio.Event()

    @property
    def base_url(self) -> str:
        """The origin of the provider, without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def asked(self) -> list[Received]:
        """The requests that arrived, lists of models left out; its length is the number of attempts."""
        return [request for request in self.requests if not _wants_models(request)]

    @property
    def open_connections(self) -> list[Connection]:
        """The connections that neither side has closed."""
        return [connection for connection in self.connections if connection.closed_how is None]

    def enqueue(self, *steps: Step) -> None:
        """The script of the next request that has none yet."""
        self._queue.append(steps)

    async def arrived(self, count: int = 1) -> Received:
        """Wait until that many requests have been asked; returns the last of them."""
        while len(self.asked) < count:
            await self._arrival.wait()
        return self.asked[count - 1]

    def statistics(self) -> dict[str, int]:
        """How many connections were made and are open, requests arrived and scripts are left."""
        return {
            "connections": len(self.connections),
            "open": len(self.open_connections),
            "requests": len(self.requests),
            "scripts_left": len(self._queue),
        }

    async def serve(self, listener: trio.socket.SocketType) -> None:
        """Accept connections until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                peer, _ = await listener.accept()
                connection = Connection(len(self.connections), trio.current_time())
                self.connections.append(connection)
                nursery.start_soon(self._serve_connection, peer, connection)

    async def _serve_connection(self, peer: trio.socket.SocketType, connection: Connection) -> None:
        # As providers do: else a head waits for the acknowledgement of what was sent before it, 40 ms.
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire = _SocketWire(peer, connection)
        send, receive = trio.open_memory_channel[Received](100)
        with peer:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._play, wire, receive)
                await self._read(peer, connection, send)
                nursery.cancel_scope.cancel()

    async def _read(
        self, peer: trio.socket.SocketType, connection: Connection, send: trio.MemorySendChannel[Received]
    ) -> None:
        buffer = bytearray()
        while True:
            try:
                data = await peer.recv(_RECEIVE_BYTES)
            except ConnectionError:
                return connection.mark_closed("RST")
            except (trio.ClosedResourceError, OSError):
                return connection.mark_closed("ours")
            if not data:
                return connection.mark_closed("FIN")
            buffer += data
            while (request := _take_request(buffer, connection)) is not None:
                self.requests.append(request)
                await send.send(request)
                self._arrival.set()
                self._arrival = trio.Event()

    async def _play(self, wire: "_SocketWire", receive: trio.MemoryReceiveChannel[Received]) -> None:
        async for request in receive:
            try:
                for step in self._script_for(request):
                    await step(wire)
            except (OSError, trio.ClosedResourceError):
                return  # the peer, or the script itself, closed the connection; the reader records which

    def _script_for(self, request: Received) -> Script:
        if _wants_models(request):
            return self.models_script or _list_models(request.path, self.models)
        if self._queue:
            return self._queue.popleft()
        chosen = self.choose(request) if self.choose else None
        if chosen is not None:
            return chosen
        if self.default is not None:
            return self.default
        return answer(599, {"error": {"message": f"no script for {request.method} {request.target}"}})


@contextlib.asynccontextmanager
async def open_fake_provider(models: Iterable[str] = ()) -> AsyncIterator[FakeProvider]:
    """A provider that listens on loopback while the block runs."""
    provider = FakeProvider(models)
    listener = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        provider.port = listener.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(provider.serve, listener)
            yield provider
            nursery.cancel_scope.cancel()


class _SocketWire:
    """The writing side of one connection."""

    def __init__(self, peer: trio.socket.SocketType, connection: Connection) -> None:
        self._peer = peer
        self._connection = connection

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[await self._peer.send(view) :]

    def fin(self) -> None:
        self._peer.shutdown(socket.SHUT_WR)

    def rst(self) -> None:
        self._peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.mark_closed("ours")
        self._peer.close()


def _wants_models(request: Received) -> bool:
    return request.method == "GET" and request.path in _MODEL_LISTS


def _list_models(path: str, models: list[str]) -> list[Step]:
    if path == "/api/tags":
        return answer(200, {"models": [{"name": name, "model": name} for name in models]})
    cards = [{"id": name, "object": "model", "type": "model", "created": 1, "owned_by": "fake"} for name in models]
    return answer(200, {"object": "list", "data": cards, "has_more": False})


def _take_request(buffer: bytearray, connection: Connection) -> Received | None:
    """Cut the first complete request off the buffer; None while there is none."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(buffer[: end + 4])
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    headers = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    fields = dict(headers)
    if "chunked" in fields.get("transfer-encoding", ""):
        taken = _take_chunked(buffer, end + 4)
        if taken is None:
            return None
        body, stop = taken
    else:
        stop = end + 4 + int(fields.get("content-length", "0"))
        if len(buffer) < stop:
            return None
        body = bytes(buffer[end + 4 : stop])
    del buffer[:stop]
    method, target, _ = first.split(" ", 2)
    return Received(head, body, method, target, headers, connection, trio.current_time())


def _take_chunked(buffer: bytearray, start: int) -> tuple[bytes, int] | None:
    body = bytearray()
    while True:
        line_end = buffer.find(b"\r\n", start)
        if line_end < 0:
            return None
        size = int(bytes(buffer[start:line_end]).split(b";")[0], 16)
        start = line_end + 2
        if len(buffer) < start + size + 2:
            return None
        body += buffer[start : start + size]
        start += size + 2
        if size == 0:
            return bytes(body), start
