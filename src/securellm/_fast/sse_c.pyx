# cython: boundscheck=False, wraparound=False
"""The compiled twin of `sse_py.py`, which is the definition: same names, same events, same errors. May only be faster.

The unfinished event is kept in one growing bytearray and looked at through its address; nothing that could move or
shrink it is called while that address is in use. Line ends are numbers here: none, LF, CR, CRLF.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp

from securellm._fast.sse_py import MAX_EVENT_BYTES, SSEEvent
from securellm.errors import UpstreamInvalid

cdef enum LineEnd:
    NO_END
    LF
    CR
    CRLF

cdef const char *_BOM = b"\xef\xbb\xbf"
cdef bytes _EMPTY = b""


cdef class SSESplitter:
    """Cuts a byte stream into events; linear in its input, however small the pieces."""

    cdef Py_ssize_t _max_event_bytes
    cdef bytearray _pending
    cdef readonly Py_ssize_t _scan  # a test looks at it
    cdef Py_ssize_t _line_start
    cdef LineEnd _last_end
    cdef bint _after_cr
    cdef bint _seen_cr
    cdef bint _first

    def __init__(self, Py_ssize_t max_event_bytes=MAX_EVENT_BYTES):
        self._max_event_bytes = max_event_bytes
        self._pending = bytearray()
        self._scan = 0
        self._line_start = 0
        self._last_end = NO_END
        self._after_cr = False
        self._seen_cr = False
        self._first = True

    def __repr__(self):
        return f"<SSESplitter pending_bytes={len(self._pending)}>"

    def feed(self, bytes data not None):
        """The events that `data` completes. Raises UpstreamInvalid when one is longer than the limit."""
        cdef Py_ssize_t length = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t start = 0
        cdef Py_ssize_t end
        cdef const char *buffer = PyBytes_AS_STRING(data)
        cdef bint from_pending = False
        cdef list events = []
        cdef bytes raw
        if length == 0:
            return events
        if not self._seen_cr and memchr(buffer, b"\r", length) != NULL:
            self._seen_cr = True
            self._scan = self._line_start = 0
            self._last_end = NO_END if self._first else LF
        if len(self._pending):
            self._pending += data
            buffer = PyByteArray_AS_STRING(self._pending)
            length = len(self._pending)
            from_pending = True
        end = self._find_end(buffer, length, 0)
        while end >= 0:
            self._check_length(end)
            raw = PyBytes_FromStringAndSize(buffer + start, end)
            if self._first:
                events.append(_parse_first(raw))
                self._first = False
            else:
                events.append(_parse(raw, 0))
            start += end
            self._scan = self._line_start = 0
            if start == length:
                if from_pending:
                    self._pending.clear()
                return events
            end = self._find_end(buffer, length, start)
        if not from_pending:
            self._pending += data[start:]
        elif start:
            del self._pending[:start]
        self._check_length(len(self._pending))
        return events

    def tail(self):
        """The bytes of an unfinished event; a client would never see them as one."""
        return bytes(self._pending)

    cdef int _check_length(self, Py_ssize_t length) except -1:
        if length > self._max_event_bytes:
            raise UpstreamInvalid(
                f"the provider sent one event of more than {self._max_event_bytes} bytes, which is the limit"
            )
        return 0

    cdef Py_ssize_t _find_end(self, const char *data, Py_ssize_t length, Py_ssize_t start) noexcept:
        """How long the event at `start` is, -1 when it is unfinished; remembers how far it looked."""
        cdef Py_ssize_t skip = 0
        cdef Py_ssize_t found
        if self._seen_cr:
            return self._find_end_any(data, length, start)
        if self._first and length >= 3 and memcmp(data, _BOM, 3) == 0:
            skip = 3  # a blank line may hide behind the byte order mark
        if length > start + skip and data[start + skip] == b"\n":
            return skip + 1
        found = _find_blank(data, length, start + self._scan)
        if found >= 0:
            return found + 2 - start
        self._scan = max(length - start - 1, 0)
        return -1

    cdef Py_ssize_t _find_end_any(self, const char *data, Py_ssize_t length, Py_ssize_t start) noexcept:
        """As `_find_end` when lines may end in CR, LF or CRLF."""
        cdef Py_ssize_t at
        cdef LineEnd end
        cdef bint blank
        if self._after_cr and length > start:
            self._after_cr = False
            if data[start] == b"\n":
                self._scan = self._line_start = 1
        while True:
            at = start + self._scan
            while at < length and data[at] != b"\n" and data[at] != b"\r":
                at += 1
            if at >= length:
                self._scan = length - start
                return -1
            if data[at] == b"\n":
                end = LF
            elif at + 1 < length and data[at + 1] == b"\n":
                end = CRLF
            else:
                end = CR
            blank = self._is_blank(data, start, at)
            if blank and self._last_end == CR and end != LF:
                self._after_cr = True
                return at + 1 - start
            if end == CR and at + 1 == length:
                self._scan = at - start  # its LF may still come
                return -1
            self._last_end = end
            at += 2 if end == CRLF else 1
            if blank:
                self._after_cr = end == CR
                return at - start
            self._scan = self._line_start = at - start

    cdef bint _is_blank(self, const char *data, Py_ssize_t start, Py_ssize_t line_end) noexcept:
        cdef Py_ssize_t line_start = start + self._line_start
        if self._first and line_start == start and line_end - start == 3:
            return memcmp(data + start, _BOM, 3) == 0
        return line_start == line_end


def parse_event(bytes raw not None):
    """The fields of one event's bytes; blank lines in it mean nothing."""
    return _parse(raw, 0)


cdef Py_ssize_t _find_blank(const char *data, Py_ssize_t length, Py_ssize_t start) noexcept:
    """Where two LFs follow each other, -1 when they do not."""
    cdef const char *at = data + start
    cdef const char *last = data + length - 1
    while at < last:
        at = <const char *>memchr(at, b"\n", last - at)
        if at == NULL:
            return -1
        if at[1] == b"\n":
            return at - data
        at += 1
    return -1


cdef object _parse_first(bytes raw):
    return _parse(raw, 3 if raw.startswith(b"\xef\xbb\xbf") else 0)


cdef object _parse(bytes raw, Py_ssize_t at):
    """The event whose fields begin at `at`; `raw` is kept whole."""
    cdef const char *data = PyBytes_AS_STRING(raw)
    cdef Py_ssize_t length = PyBytes_GET_SIZE(raw)
    cdef Py_ssize_t end, colon, value
    cdef bytes event = _EMPTY
    cdef bytes line
    cdef bytes first = None
    cdef list lines = None
    while at < length:
        end = at
        colon = -1
        while end < length and data[end] != b"\n" and data[end] != b"\r":
            if colon < 0 and data[end] == b":":
                colon = end
                # The rest of a long line is looked for with memchr, which is many times faster.
                end = _line_end(data, length, end + 1)
                break
            end += 1
        if colon < 0:
            colon = value = end
        else:
            value = colon + 1
            if value < end and data[value] == b" ":
                value += 1
        if colon - at == 4 and memcmp(data + at, b"data", 4) == 0:
            line = PyBytes_FromStringAndSize(data + value, end - value)
            if first is None:
                first = line
            elif lines is None:
                lines = [first, line]
            else:
                lines.append(line)
        elif colon - at == 5 and memcmp(data + at, b"event", 5) == 0:
            event = PyBytes_FromStringAndSize(data + value, end - value)
        at = end + 1
    return SSEEvent(raw, event, b"\n".join(lines) if lines is not None else first)


cdef Py_ssize_t _line_end(const char *data, Py_ssize_t length, Py_ssize_t start) noexcept:
    """Where the line ends that goes on at `start`: at the first LF or CR, or at the end of the data."""
    cdef const char *found = <const char *>memchr(data + start, b"\n", length - start)
    cdef Py_ssize_t end = length if found == NULL else found - data
    found = <const char *>memchr(data + start, b"\r", end - start)
    return end if found == NULL else found - data
