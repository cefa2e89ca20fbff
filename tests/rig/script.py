"""The verbs in which a test says what the fake provider does with one request.

A script is a sequence of steps; a step is an async callable that is given the `Wire` of the request. Everything that
waits does so on an event or a named time, and ends when the peer closes, because the provider cancels the script then.
"""

import gzip as gzip_module
import itertools
import json
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import trio

HEADERS_OF_STREAMS = {
    "sse": "text/event-stream; charset=utf-8",
    "ndjson": "application/x-ndjson",
}


class Wire(Protocol):
    """What a step may do to the connection on which its request arrived."""

    async def send(self, data: bytes) -> None:
        """Write raw bytes."""

    def fin(self) -> None:
        """Close our half; the peer reads EOF."""

    def rst(self) -> None:
        """Abort the connection; the peer reads a reset."""


Step = Callable[[Wire], Awaitable[None]]
Script = Sequence[Step]


def raw(data: bytes) -> Step:
    """Write bytes as they are."""

    async def step(wire: Wire) -> None:
        await wire.send(data)

    return step


def head(status: int = 200, headers: Mapping[str, str] | None = None, *, reason: str = "Scripted") -> Step:
    """Write a response head; the headers given are all there are."""
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    return raw(("\r\n".join(lines) + "\r\n\r\n").encode("utf-8"))


def chunk(data: bytes) -> Step:
    """Write one chunk of a chunked body; empty data writes nothing, since an empty chunk would end the body."""
    return raw(b"%x\r\n%b\r\n" % (len(data), data) if data else b"")


def end_chunks() -> Step:
    """Write the closing chunk."""
    return raw(b"0\r\n\r\n")


def sleep(seconds: float) -> Step:
    """Wait that long."""

    async def step(wire: Wire) -> None:
        await trio.sleep(seconds)

    return step


def never() -> Step:
    """Wait until the peer closes."""

    async def step(wire: Wire) -> None:
        await trio.sleep_forever()

    return step


def until(event: trio.Event) -> Step:
    """Wait until the test sets the event."""

    async def step(wire: Wire) -> None:
        await event.wait()

    return step


def signal(event: trio.Event) -> Step:
    """Tell the test that the script has come this far."""

    async def step(wire: Wire) -> None:
        event.set()

    return step


def fin() -> Step:
    """Send FIN. Steps after it write nothing that arrives."""

    async def step(wire: Wire) -> None:
        wire.fin()

    return step


def rst() -> Step:
    """Send RST. What was written but not yet read by the peer may be lost."""

    async def step(wire: Wire) -> None:
        wire.rst()

    return step


def pings(data: bytes, *, every_s: float) -> Step:
    """Write the same chunk for ever, at that pace."""

    async def step(wire: Wire) -> None:
        while True:
            await wire.send(b"%x\r\n%b\r\n" % (len(data), data))
            await trio.sleep(every_s)

    return step


def flood(data: bytes, *, written: list[int]) -> Step:
    """Write the same chunk for ever, as fast as the peer takes it; `written[0]` counts the bytes taken."""

    async def step(wire: Wire) -> None:
        while True:
            await wire.send(b"%x\r\n%b\r\n" % (len(data), data))
            written[0] += len(data)

    return step


def answer(
    status: int,
    body: Any,
    headers: Mapping[str, str] | None = None,
    *,
    gzip: bool = False,
    length: int | None = None,
) -> list[Step]:
    """A whole answer. `body` is bytes, or anything that JSON can say; `length` announces another length than it has."""
    data = body if isinstance(body, bytes) else json_bytes(body)
    sent = {"content-type": "application/json", **(headers or {})}
    if gzip:
        data = gzip_module.compress(data)
        sent["content-encoding"] = "gzip"
    sent["content-length"] = str(len(data) if length is None else length)
    return [head(status, sent), raw(data)]


def json_bytes(value: Any) -> bytes:
    """A body as `answer` sends it."""
    return json.dumps(value, separators=(",", ":")).encode()


def stream_head(kind: str = "sse", headers: Mapping[str, str] | None = None, *, status: int = 200) -> Step:
    """The head of a chunked stream of server-sent events (`sse`) or JSON lines (`ndjson`)."""
    return head(status, {"content-type": HEADERS_OF_STREAMS[kind], "transfer-encoding": "chunked", **(headers or {})})


def stream(
    events: Sequence[bytes],
    kind: str = "sse",
    headers: Mapping[str, str] | None = None,
    *,
    gzip: bool = False,
    ended: bool = True,
) -> list[Step]:
    """A chunked stream, one chunk an event. `ended=False` leaves out the closing chunk."""
    extra = dict(headers or {})
    pieces = list(events)
    if gzip:
        extra["content-encoding"] = "gzip"
        pieces = _gzip_pieces(pieces)
    steps = [stream_head(kind, extra), *(chunk(piece) for piece in pieces)]
    return [*steps, end_chunks()] if ended else steps


def cut(data: bytes, *places: int) -> list[bytes]:
    """The data in pieces, cut before each of the byte offsets."""
    edges = [0, *sorted(places), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges) if start < stop]


def _gzip_pieces(pieces: Sequence[bytes]) -> list[bytes]:
    """The pieces as one gzip stream that can be decoded after each of them."""
    packer = zlib.compressobj(wbits=31)
    packed = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    return [*packed, packer.flush()]
