"""A client made of one socket: it can stall, send slowly, half-close and reset, and keeps the bytes it was sent."""

import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import trio

_RECEIVE_BYTES = 65536


class BodyCut(Exception):
    """The connection ended before the body did; `data` is what had arrived."""

    def __init__(self, data: bytes, how: str) -> None:
        super().__init__(f"the body was cut by {how} after {len(data)} bytes")
        self.data = data
        self.how = how


@dataclass(frozen=True)
class Head:
    """A response head. `headers` keeps order and repeats, names in lower case."""

    status: int
    headers: list[tuple[str, str]]

    def header(self, name: str) -> str | None:
        """The first header of that (lower-case) name."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True)
class Response:
    """A response read to its end. `cut` is None, or FIN or RST when the body was aborted."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    cut: str | None

    def header(self, name: str) -> str | None:
        """The first header of that (lower-case) name."""
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class RawClient:
    """One connection. Not for two tasks at once, except one that sends and one that reads."""

    def __init__(self, peer: trio.socket.SocketType) -> None:
        self.socket = peer
        self.raw = bytearray()  # everything received, as it came
        self._buffer = bytearray()
        self._how = "FIN"  # how the peer ended, once it has
        self._framing: tuple[str, int] = ("length", 0)

    async def send(self, data: bytes) -> None:
        """Write raw bytes."""
        view = memoryview(data)
        while view:
            view = view[await self.socket.send(view) :]

    async def request(
        self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Write a request with Host and, when there is a body, Content-Length."""
        await self.send(encode_request(method, target, body, headers))

    async def read_head(self) -> Head:
        """The next response's head; 100 Continue is returned like any other."""
        while b"\r\n\r\n" not in self._buffer:
            if not await self._fill():
                raise BodyCut(bytes(self._buffer), self._how)
        end = self._buffer.index(b"\r\n\r\n")
        first, *lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        headers = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        status = int(first.split(" ")[1])
        fields = dict(headers)
        if "chunked" in fields.get("transfer-encoding", ""):
            self._framing = ("chunked", 0)
        elif "content-length" in fields or status in {100, 204, 304}:
            self._framing = ("length", int(fields.get("content-length", "0")))
        else:
            self._framing = ("close", 0)
        return Head(status, headers)

    async def read_piece(self) -> bytes:
        """The next decoded piece of the body, b"" at its proper end. Raises BodyCut."""
        kind, left = self._framing
        if kind == "chunked":
            return await self._read_chunk()
        if kind == "length" and left == 0:
            return b""
        if not self._buffer and not await self._fill():
            if kind == "close":
                return b""
            raise BodyCut(b"", self._how)
        data = bytes(self._buffer[:left] if kind == "length" else self._buffer)
        del self._buffer[: len(data)]
        self._framing = (kind, left - len(data) if kind == "length" else 0)
        return data

    async def read_until(self, mark: bytes) -> bytes:
        """The decoded body up to and with the first piece that completes `mark`. Raises BodyCut."""
        body = bytearray()
        while mark not in body:
            piece = await self.read_piece()
            if not piece:
                raise BodyCut(bytes(body), "its end")
            body += piece
        return bytes(body)

    async def read_body(self) -> bytes:
        """The decoded body to its proper end. Raises BodyCut, which holds what had arrived."""
        body = bytearray()
        try:
            while piece := await self.read_piece():
                body += piece
        except BodyCut as cut:
            raise BodyCut(bytes(body) + cut.data, cut.how) from None
        return bytes(body)

    async def read_response(self) -> Response:
        """The whole next response, cut or not."""
        head = await self.read_head()
        try:
            return Response(head.status, head.headers, await self.read_body(), None)
        except BodyCut as cut:
            return Response(head.status, head.headers, cut.data, cut.how)

    async def read_eof(self) -> bytes:
        """Everything until the peer closes."""
        while await self._fill():
            pass
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def half_close(self) -> None:
        """Send FIN and go on reading."""
        self.socket.shutdown(socket.SHUT_WR)

    def fin(self) -> None:
        """Close; the peer reads EOF (or a reset, where bytes of its answer lie unread here)."""
        self.socket.close()

    def rst(self) -> None:
        """Abort; the peer reads a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    async def _read_chunk(self) -> bytes:
        while (line_end := self._buffer.find(b"\r\n")) < 0:
            if not await self._fill():
                raise BodyCut(b"", self._how)
        size = int(bytes(self._buffer[:line_end]).split(b";")[0], 16)
        while len(self._buffer) < line_end + 2 + size + 2:
            if not await self._fill():
                raise BodyCut(bytes(self._buffer[line_end + 2 : line_end + 2 + size]), self._how)
        data = bytes(self._buffer[line_end + 2 : line_end + 2 + size])
        del self._buffer[: line_end + 2 + size + 2]
        if size == 0:
            self._framing = ("length", 0)
        return data

    async def _fill(self) -> bool:
        try:
            data = await self.socket.recv(_RECEIVE_BYTES)
        except ConnectionError:
            self._how = "RST"
            return False
        self.raw += data
        self._buffer += data
        return bool(data)


@contextlib.asynccontextmanager
async def open_client(base_url: str, *, receive_buffer_bytes: int | None = None) -> AsyncIterator[RawClient]:
    """A connected client, closed with the block. A small receive buffer makes stalling visible sooner."""
    parts = urlsplit(base_url)
    peer = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with peer:
        if receive_buffer_bytes is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        await peer.connect((parts.hostname or "127.0.0.1", parts.port or 80))
        yield RawClient(peer)


async def fetch(
    base_url: str, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """One request on a connection of its own."""
    async with open_client(base_url) as client:
        await client.request(method, target, body, headers)
        return await client.read_response()


def encode_request(
    method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> bytes:
    """A request's bytes. Header names are sent as given."""
    lines = [f"{method} {target} HTTP/1.1", "host: gateway.test"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


def events_of(body: bytes) -> list[tuple[str | None, str]]:
    """The (event, data) pairs of a server-sent stream that is framed with LF, comments left out."""
    return [pair for block in body.split(b"\n\n") if (pair := _event_of(block.split(b"\n"))) is not None]


def _event_of(lines: Iterable[bytes]) -> tuple[str | None, str] | None:
    name: str | None = None
    data: list[str] = []
    for line in lines:
        field, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode("utf-8")
        if field == b"event":
            name = text
        elif field == b"data":
            data.append(text)
    return (name, "\n".join(data)) if data else None
