# cython: boundscheck=False, wraparound=False
"""The compiled twin of `sse_py.py`, which is the definition: same names, same events, same errors. May only be faster.

The unfinished event is kept in one growing bytearray and looked at through its address; nothing that could move or
shrink it is called while that address is in use. Line ends are numbers here: none, LF, CR, CRLF.

The scanner makes no object of an event that only says more text: `_plain` walks its JSON in place, knows the few fields
that matter in each dialect (`plain_events.pxd`), and gives up on the first thing that it does not know, so that the
relay looks at it. As long as it is because the splitter's search for line ends is written twice, as in the definition.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy

from securellm._fast.json_walk cimport Walk, skip_space, take
from securellm._fast.plain_events cimport Said, anthropic_event, openai_chunk, responses_event

from securellm._fast.sse_py import MAX_EVENT_BYTES, SSEEvent
from securellm.chat import Relayed
from securellm.errors import UpstreamInvalid

cdef const char *_BOM = b"\xef\xbb\xbf"
cdef bytes _EMPTY = b""


cdef class SSESplitter:
    """Cuts a byte stream into events; linear in its input, however small the pieces."""

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
        self._look_for_cr(buffer, length)
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

    cpdef bytes tail(self):
        """The bytes of an unfinished event; a client would never see them as one."""
        return bytes(self._pending)

    cdef void _look_for_cr(self, const char *data, Py_ssize_t length) noexcept:
        """The first CR of a stream changes how it is searched."""
        if not self._seen_cr and memchr(data, c"\r", length) != NULL:
            self._seen_cr = True
            self._scan = self._line_start = 0
            self._last_end = NO_END if self._first else LF

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


cdef enum:
    REMOVED = 1
    SEMANTIC = 2
    HOLDING = 4
    TERMINAL = 8
    IDENTIFIED = 16

cdef enum:
    OPENAI
    ANTHROPIC
    RESPONSES

cdef enum Finding:
    NO_DATA  # a comment, or nothing
    PLAIN  # only more text, or less
    DOUBTFUL  # the relay must look at it

cdef dict _DIALECTS = {"openai": OPENAI, "anthropic": ANTHROPIC, "responses": RESPONSES}
cdef object _new_tuple = tuple.__new__


cdef class StreamScanner:
    """Passes a stream on, event by event, while a relay reads it."""

    def __init__(self, str dialect not None):
        if dialect not in _DIALECTS:
            raise ValueError(f"got the dialect {dialect!r}, streams are scanned in openai, anthropic or responses")
        self._dialect = _DIALECTS[dialect]
        self._splitter = SSESplitter()
        self._flags = 0

    def __repr__(self):
        return f"<StreamScanner pending_bytes={len(self._splitter._pending)}>"

    cpdef bytes tail(self):
        """The bytes of an unfinished event."""
        return self._splitter.tail()

    cpdef object feed(self, object reader, bytes data):
        """Take the next bytes of a stream, cut anywhere. Raises UpstreamInvalid when an event is over the limit."""
        cdef SSESplitter splitter = self._splitter
        cdef bytearray pending = splitter._pending
        cdef const char *buffer
        cdef Py_ssize_t length
        cdef bint first = splitter._first
        cdef Py_ssize_t end
        cdef Ends ends
        if data is None:
            raise TypeError("got None, expected bytes")
        buffer = PyBytes_AS_STRING(data)
        length = PyBytes_GET_SIZE(data)
        if self._flags & TERMINAL:
            return _relayed(_EMPTY, data, False)
        if length == 0:
            return _relayed(_EMPTY, _EMPTY, False)
        splitter._look_for_cr(buffer, length)
        if len(pending):
            pending += data
            buffer = PyByteArray_AS_STRING(pending)
            length = len(pending)
        ends.at = ends.first
        ends.count = 0
        ends.capacity = 32
        try:
            _find_ends(splitter, buffer, length, &ends)
            if ends.count == 0:
                if len(pending) == 0:
                    pending += data
                return _relayed(_EMPTY, _EMPTY, False)
            if len(pending):
                data = PyBytes_FromStringAndSize(buffer, length)
                pending.clear()
            end = ends.at[ends.count - 1]
            if end < length:
                pending += data[end:]
            return self._show(reader, data, &ends, first)
        finally:
            if ends.at != ends.first:
                free(ends.at)

    cdef bint passes(self, const char *at, Py_ssize_t left, Said *said) noexcept:
        cdef SSESplitter splitter = self._splitter
        cdef Py_ssize_t length
        if splitter._first or splitter._seen_cr or self._flags & HOLDING or len(splitter._pending):
            return False
        if left > splitter._max_event_bytes or memchr(at, c"\r", left) != NULL:
            return False
        said.semantic_events = said.output_bytes = 0
        said.sequence_number = -1
        while left:
            length = _find_blank(at, left, 0) + 2 if at[0] != c"\n" else 1
            if length == 1 and at[0] != c"\n":
                return False  # unfinished
            if _plain(self._dialect, at, length, False, self._flags & IDENTIFIED, said) == DOUBTFUL:
                return False
            at += length
            left -= length
        return True

    cdef object _show(self, object reader, bytes data, Ends *ends, bint first):
        """Read all events of `data`, and say what becomes of them."""
        cdef const char *buffer = PyBytes_AS_STRING(data)
        cdef bint seen_cr = self._splitter._seen_cr
        cdef Said said
        cdef Finding finding
        cdef Py_ssize_t start = 0
        cdef Py_ssize_t pass_from = 0
        cdef Py_ssize_t hold_from = 0 if self._flags & HOLDING else -1
        cdef Py_ssize_t end, index
        cdef bint semantic = False
        cdef list passed = None
        cdef object event
        said.semantic_events = said.output_bytes = 0
        said.sequence_number = -1
        for index in range(ends.count):
            end = ends.at[index]
            finding = DOUBTFUL
            if not first and not self._flags & HOLDING:
                finding = _plain(self._dialect, buffer + start, end - start, seen_cr, self._flags & IDENTIFIED, &said)
            if finding == DOUBTFUL:
                event = (_parse_first if first else _parse_whole)(data[start:end])
                first = False
                if (<object>event).data is not None:
                    if said.semantic_events:
                        semantic = True
                    _count(reader, &said)
                    self._flags = reader.see(event)
                    if self._flags & SEMANTIC:
                        semantic = True
                    if self._flags & HOLDING:
                        if hold_from < 0:
                            hold_from = start
                        if self._flags & TERMINAL:
                            break
                    elif self._flags & REMOVED:
                        if passed is None:
                            passed = []
                        passed.append(data[pass_from:start])
                        pass_from = end
            start = end
        if said.semantic_events:
            semantic = True
        _count(reader, &said)
        end = ends.at[ends.count - 1]
        start = end if hold_from < 0 else hold_from
        if passed is not None:
            passed.append(data[pass_from:start])
            return _relayed(b"".join(passed), self._held(data, hold_from, end), semantic)
        return _relayed(_part(data, 0, start), self._held(data, hold_from, end), semantic)

    cdef bytes _held(self, bytes data, Py_ssize_t start, Py_ssize_t end):
        """What waits: the events from `start` on, and behind the terminal one whatever has arrived."""
        if start < 0:
            return _EMPTY
        return _part(data, start, PyBytes_GET_SIZE(data) if self._flags & TERMINAL else end)


cdef object _relayed(bytes data, bytes held, bint semantic):
    return _new_tuple(Relayed, (data, held, semantic))


cdef bytes _part(bytes data, Py_ssize_t start, Py_ssize_t end):
    """The same object when it is all of it."""
    if start == end:
        return _EMPTY
    if start == 0 and end == PyBytes_GET_SIZE(data):
        return data
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + start, end - start)


cdef int _count(object reader, Said *said) except -1:
    if said.semantic_events or said.output_bytes or said.sequence_number >= 0:
        reader.count(said.semantic_events, said.output_bytes, said.sequence_number)
        said.semantic_events = said.output_bytes = 0
        said.sequence_number = -1
    return 0


cdef int _find_ends(SSESplitter splitter, const char *data, Py_ssize_t length, Ends *ends) except -1:
    """Where each event ends that is complete; none may be over the limit, nor what is left."""
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t found = splitter._find_end(data, length, 0)
    while found >= 0:
        splitter._check_length(found)
        start += found
        _add_end(ends, start)
        splitter._first = False
        splitter._scan = splitter._line_start = 0
        if start == length:
            return 0
        found = splitter._find_end(data, length, start)
    splitter._check_length(length - start)
    return 0


cdef int _add_end(Ends *ends, Py_ssize_t end) except -1:
    cdef void *grown
    if ends.count == ends.capacity:
        grown = realloc(NULL if ends.at == ends.first else ends.at, 2 * ends.capacity * sizeof(Py_ssize_t))
        if grown == NULL:
            raise MemoryError
        if ends.at == ends.first:
            memcpy(grown, ends.first, sizeof(ends.first))
        ends.at = <Py_ssize_t *>grown
        ends.capacity *= 2
    ends.at[ends.count] = end
    ends.count += 1
    return 0


cdef Finding _plain(
    int dialect, const char *event, Py_ssize_t length, bint seen_cr, bint identified, Said *said
) noexcept nogil:
    """What an event is; a plain one is added to `said`."""
    cdef Walk walk
    cdef Said here
    cdef bint named = False
    cdef Finding finding = _find_data(event, length, seen_cr, &walk, &named)
    if finding != PLAIN:
        return finding
    here.semantic_events = here.output_bytes = 0
    here.sequence_number = -1
    skip_space(&walk)
    if not take(&walk, c"{"):
        return DOUBTFUL
    if dialect == OPENAI:
        if named or not openai_chunk(&walk, identified, &here):
            return DOUBTFUL
    elif dialect == ANTHROPIC:
        if not anthropic_event(&walk, &here):
            return DOUBTFUL
    elif not responses_event(&walk, &here):
        return DOUBTFUL
    if walk.at != walk.end:
        return DOUBTFUL
    said.semantic_events += here.semantic_events
    said.output_bytes += here.output_bytes
    if here.sequence_number >= 0:
        said.sequence_number = here.sequence_number
    return PLAIN


cdef Finding _find_data(
    const char *event, Py_ssize_t length, bint seen_cr, Walk *walk, bint *named
) noexcept nogil:
    """Where the event's only line of data is, and whether the event has a name; DOUBTFUL when there are more."""
    cdef Finding finding = NO_DATA
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t end
    while at < length:
        if event[at] == c"\n" or event[at] == c"\r":
            at += 1
            continue
        end = _line_end(event, length, at) if seen_cr else _line_feed(event, length, at)
        if end - at >= 4 and memcmp(event + at, b"data", 4) == 0 and (end - at == 4 or event[at + 4] == c":"):
            if finding != NO_DATA or end - at == 4:
                return DOUBTFUL
            finding = PLAIN
            walk.at = event + at + 5
            walk.end = event + end
        elif end - at > 6 and memcmp(event + at, b"event:", 6) == 0:
            named[0] = True
        at = end + 1
    return finding


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


cdef object _parse_whole(bytes raw):
    return _parse(raw, 0)


cdef Py_ssize_t _line_feed(const char *data, Py_ssize_t length, Py_ssize_t start) noexcept nogil:
    """As `_line_end` where there is no CR."""
    cdef const char *found = <const char *>memchr(data + start, c"\n", length - start)
    return length if found == NULL else found - data


cdef Py_ssize_t _line_end(const char *data, Py_ssize_t length, Py_ssize_t start) noexcept nogil:
    """Where the line ends that goes on at `start`: at the first LF or CR, or at the end of the data."""
    cdef const char *found = <const char *>memchr(data + start, b"\n", length - start)
    cdef Py_ssize_t end = length if found == NULL else found - data
    found = <const char *>memchr(data + start, b"\r", end - start)
    return end if found == NULL else found - data
