"""Newline-delimited JSON, cut into lines at the byte level. Pure.

A line ends in LF and in nothing else: U+2028, U+2029, U+0085, VT, FF and FS inside a JSON string are data, and a CR
before the LF is white space to a JSON parser.
"""

from securellm.errors import UpstreamInvalid

MAX_LINE_BYTES = 8 * 1024 * 1024  # one line, its LF included


class NDJSONSplitter:
    """Cuts a byte stream into lines; linear in its input, however small the pieces."""

    __slots__ = ("_max_line_bytes", "_pending")

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._pending = bytearray()

    def __repr__(self) -> str:
        return f"<NDJSONSplitter pending_bytes={len(self._pending)}>"

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their LF, blank ones left out. Raises UpstreamInvalid."""
        if self._pending:
            if b"\n" not in data:
                self._pending += data
                self._check_length(len(self._pending))
                return []
            data = bytes(self._pending + data)
            self._pending.clear()
        *lines, rest = data.split(b"\n")
        self._pending += rest
        self._check_length(max(map(len, lines), default=-1) + 1)
        self._check_length(len(rest))
        return [line for line in lines if line.strip()]

    def tail(self) -> bytes:
        """The bytes of an unfinished line."""
        return bytes(self._pending)

    def _check_length(self, length: int) -> None:
        if length > self._max_line_bytes:
            raise UpstreamInvalid(
                f"the provider sent one line of more than {self._max_line_bytes} bytes, which is the limit"
            )
