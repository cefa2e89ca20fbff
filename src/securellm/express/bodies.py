"""How the bytes of an answer are taken out of its framing and its content-encoding, cut anywhere.

`http1.ChunkedDecoder` is the shape of all of them: `feed` returns the body's bytes and where in the input it ended,
`done` says that it has ended.
"""

import zlib
from typing import Protocol

from securellm._fast import http1
from securellm.chat import Headers
from securellm.errors import UpstreamInvalid


class Body(Protocol):
    """One body that is being taken out of a connection."""

    done: bool

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """The body's bytes among these, and where it ends, or len(data). Raises UpstreamInvalid."""


class LengthBody:
    """A body whose length was announced."""

    def __init__(self, size_bytes: int) -> None:
        self._left = size_bytes
        self.done = size_bytes == 0

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """As the protocol says."""
        if len(data) > self._left:
            data = data[: self._left]
        self._left -= len(data)
        self.done = self._left == 0
        return data, len(data)


class UnboundedBody:
    """A body that the end of the connection ends: whoever notices that sets `done`."""

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """As the protocol says."""
        return data, len(data)


class EncodedBody:
    """A body with a content-encoding, within another's framing. We never ask for one; some providers send it."""

    def __init__(self, framing: Body, encodings: list[bytes]) -> None:
        self._framing = framing
        self._decoders = [_Inflater(encoding) for encoding in reversed(encodings)]
        self.done = framing.done

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """As the protocol says."""
        data, end = self._framing.feed(data)
        for decoder in self._decoders:
            data = decoder.decode(data)
        self.done = self._framing.done
        return data, end


def open_body(body_bytes: int | None, chunked: bool, headers: Headers) -> tuple[Body, bool]:
    """The body that a head announces, and whether only the end of the connection ends it."""
    framing: Body
    if chunked:
        framing = http1.ChunkedDecoder(request=False)
    elif body_bytes is not None:
        framing = LengthBody(body_bytes)
    else:
        framing = UnboundedBody()
    declared = [value for name, value in headers if name == b"content-encoding"]
    encodings = [part for value in declared for part in map(bytes.strip, value.lower().split(b",")) if part in _WINDOWS]
    return EncodedBody(framing, encodings) if encodings else framing, isinstance(framing, UnboundedBody)


_WINDOWS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}


class _Inflater:
    def __init__(self, encoding: bytes) -> None:
        self._decompressor = zlib.decompressobj(_WINDOWS[encoding])
        self._may_be_raw = encoding == b"deflate"  # some send it without the zlib header that RFC 9110 wants

    def decode(self, data: bytes) -> bytes:
        """Raises UpstreamInvalid."""
        try:
            decoded = self._decompressor.decompress(data)
        except zlib.error as error:
            if not self._may_be_raw:
                raise UpstreamInvalid("the provider's answer does not match its content-encoding") from error
            self._may_be_raw = False
            self._decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
            return self.decode(data)
        self._may_be_raw = self._may_be_raw and not data
        return decoded
