# cython: boundscheck=False, wraparound=False, cdivision=True
"""The body of a caller's request, out of the reactor's channel. Implements `chat.BodySource`.

Beside the reactor, not in Python, because a body that came with its head is asked five times whether it is there.
"""

import trio

from securellm._fast import http1_c as http1
from securellm.errors import BadRequest

from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int64_t

from securellm._fast.reactor_c cimport Channel

DEF KEPT_FREE_BYTES = 2097152
DEF CHUNKED_BYTES = 65536  # of a body of unknown length at once

cdef bytes _CONTINUE = b"HTTP/1.1 100 \r\n\r\n"


cdef class RequestBody:
    """The body behind one head. Bounds and deadlines are the reader's."""

    cdef readonly object length
    cdef Channel _channel
    cdef object _chunks
    cdef int64_t _left
    cdef bint _expects

    def __init__(self, Channel channel not None, head):
        self.length = head.body_bytes
        self._channel = channel
        self._left = 0 if self.length is None else self.length
        self._chunks = http1.ChunkedDecoder(request=True) if head.chunked else None
        self._expects = head.expect_continue

    def __repr__(self):
        return f"<RequestBody length={self.length} done={self._done()}>"

    @property
    def done(self):
        """It has been read to its end."""
        return self._done()

    def receive_nowait(self):
        """See BodySource. Nothing is promised to a caller that waits for 100 before it sends."""
        if self._done():
            return b""
        return (self._take() or None) if not self._expects else None

    async def receive(self):
        """The next piece, b"" at the end. Cancels the request when the caller hangs up. Raises BadRequest."""
        cdef Channel channel = self._channel
        cdef bytes piece
        if self._expects:
            self._expects = False
            if not channel._inbox and not self._done():
                channel.write(_CONTINUE)
        while not self._done():
            piece = self._take() if channel._inbox else b""
            if piece:
                return piece
            if channel.eof or channel.closed:
                await trio.sleep_forever()  # the reactor has cancelled the request, which is noticed here
            if not self._done():
                await channel.receive_ready()
        return b""

    def discard(self):
        """Throw away what has arrived; whether that was all of the rest. For answers that did not need the body."""
        try:
            while not self._done() and self._channel._inbox and not self._expects:
                self._take()
        except BadRequest:
            return False
        return self._done()

    cdef bint _done(self) except -1:
        return self._chunks.done if self._chunks is not None else self._left == 0

    cdef bytes _take(self):
        cdef bytes data, piece
        cdef Py_ssize_t end
        if self._chunks is None:
            data = self._channel.take_body(self._left)
            self._left -= PyBytes_GET_SIZE(data)
            return data
        data = self._channel.take() or self._channel.take_body(CHUNKED_BYTES)
        if not data:
            return data
        piece, end = self._chunks.feed(data)
        if end < PyBytes_GET_SIZE(data):
            self._channel.give_back(data[end:])
        return piece


cdef int _keep_what_is_freed() except -1:
    """Have the allocator keep some megabytes that were freed, as it does in any process that had one large block.

    Otherwise it gives them back after a body of 100 KB, and takes them again, zeroed page by page, for the next one.
    """
    cdef void *block = PyMem_RawMalloc(KEPT_FREE_BYTES)
    PyMem_RawFree(block)
    return 0


_keep_what_is_freed()
