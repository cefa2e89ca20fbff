"""The body of a caller's request, out of the reactor's channel. Implements `chat.BodySource`."""

import trio

from securellm._fast import http1
from securellm._fast.reactor_c import Channel
from securellm.errors import BadRequest

_CONTINUE = b"HTTP/1.1 100 \r\n\r\n"


class RequestBody:
    """The body behind one head. Bounds and deadlines are the reader's."""

    __slots__ = ("_channel", "_chunks", "_expects", "_left", "length")

    def __init__(self, channel: Channel, head: http1.RequestHead) -> None:
        self.length: int | None = head.body_bytes
        self._channel = channel
        self._left: int = head.body_bytes or 0
        self._chunks = http1.ChunkedDecoder(request=True) if head.chunked else None
        self._expects: bool = head.expect_continue

    @property
    def done(self) -> bool:
        """It has been read to its end."""
        return self._chunks.done if self._chunks is not None else not self._left

    def receive_nowait(self) -> bytes | None:
        """See BodySource. Nothing is promised to a caller that waits for 100 before it sends."""
        if self.done:
            return b""
        return (self._take() or None) if not self._expects else None

    async def receive(self) -> bytes:
        """The next piece, b"" at the end. Cancels the request when the caller hangs up. Raises BadRequest."""
        channel = self._channel
        if self._expects:
            self._expects = False
            if not channel.unread and not self.done:
                channel.write(_CONTINUE)
        while not self.done:
            piece = self._take()
            if piece:
                return piece
            if channel.eof or channel.closed:
                await trio.sleep_forever()  # the reactor has cancelled the request, which is noticed here
            if not self.done:
                await channel.receive_ready()
        return b""

    def discard(self) -> bool:
        """Throw away what has arrived; whether that was all of the rest. For answers that did not need the body."""
        try:
            while not self.done and self._channel.unread and not self._expects:
                self._take()
        except BadRequest:
            return False
        return self.done

    def _take(self) -> bytes:
        data = self._channel.take()
        if not data:
            return data
        if self._chunks is not None:
            piece, end = self._chunks.feed(data)
            if end < len(data):
                self._channel.give_back(data[end:])
            return piece
        if len(data) > self._left:
            self._channel.give_back(data[self._left :])
            data = data[: self._left]
        self._left -= len(data)
        return data
