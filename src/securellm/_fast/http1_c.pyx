# cython: boundscheck=False, wraparound=False, cdivision=True
"""The compiled twin of `http1_py.py`, which is the definition: same names, results and errors. May only be faster.

A head is scanned in place into a struct of offsets (`Head`), a chunked body by a struct of numbers (`Chunks`); Python
objects are made at the end, where somebody wants them. The .pxd offers both halves to the other extensions. As long as
it is because a head is judged in one pass, and C has no regular expressions.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memmove, memset
from posix.strings cimport strncasecmp

from securellm._fast import http1_py
from securellm._fast.http1_py import LAST_CHUNK, RequestHead, ResponseHead, encode_chunk, request_fault, response_fault
from securellm.errors import InternalError

__all__ = [
    "LAST_CHUNK",
    "ChunkedDecoder",
    "RequestHead",
    "RequestHeads",
    "ResponseHead",
    "encode_chunk",
    "encode_request",
    "encode_response",
    "parse_request",
    "parse_response",
]

cdef enum:
    IS_TOKEN = 1
    IS_TEXT = 2
    IS_VISIBLE = 4
    IS_HOST = 8

cdef unsigned char _CLASS[256]
cdef unsigned char _LOWER[256]
cdef signed char _DIGIT[256]
cdef int64_t _MAX_LENGTH = http1_py.MAX_LENGTH
cdef int _MAX_EXTENSION_BYTES = http1_py.MAX_EXTENSION_BYTES
cdef int _MAX_TRAILER_BYTES = http1_py.MAX_TRAILER_BYTES


cdef void _fill_tables() noexcept:
    cdef int byte
    for byte in range(256):
        _CLASS[byte] = (
            (IS_TOKEN if byte in http1_py.TOKEN else 0)
            | (IS_TEXT if byte in http1_py.TEXT else 0)
            | (IS_VISIBLE if byte in http1_py.VISIBLE else 0)
            | (IS_HOST if byte in http1_py.HOST else 0)
        )
        _LOWER[byte] = byte + 32 if c"A" <= byte <= c"Z" else byte
        _DIGIT[byte] = http1_py._HEX.get(byte, -1)


_fill_tables()


def parse_request(data, Py_ssize_t start, Py_ssize_t max_head_bytes):
    """The request head that begins at `start`, and where it ends; None while it is incomplete."""
    cdef Py_buffer view
    cdef Head head
    cdef const char *at
    cdef Py_ssize_t size
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        at = <const char *>view.buf + start
        size = scan_request(at, max(view.len - start, 0), max_head_bytes, &head)
        if size > 0:
            return make_request(at, &head), start + size
        if size == 0:
            return None
        raise request_fault(-size, max_head_bytes)
    finally:
        PyBuffer_Release(&view)


def parse_response(data, Py_ssize_t start, Py_ssize_t max_head_bytes, bint asked_head):
    """As `parse_request` for an answer; `asked_head`: the request was a HEAD. Raises UpstreamInvalid."""
    cdef Py_buffer view
    cdef Head head
    cdef const char *at
    cdef Py_ssize_t size
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        at = <const char *>view.buf + start
        size = scan_response(at, max(view.len - start, 0), max_head_bytes, asked_head, &head)
        if size > 0:
            return make_response(at, &head), start + size
        if size == 0:
            return None
        raise response_fault(-size)
    finally:
        PyBuffer_Release(&view)


cdef class RequestHeads:
    """Reads the heads of one connection: one that repeats the last, but for its Content-Length, is only compared."""

    cdef readonly bint repeats
    cdef object _head
    cdef bytes _raw
    cdef int _place  # of Content-Length among its fields; -1: none
    cdef Py_ssize_t _digits  # where its value stands in `_raw`
    cdef Py_ssize_t _digits_end

    def __init__(self):
        self._raw = b""

    def __repr__(self):
        return f"<RequestHeads raw={len(self._raw)}>"

    @property
    def raw(self):
        """The bytes of the last head."""
        return self._raw

    def parse(self, bytes data not None, Py_ssize_t max_head_bytes):
        """As `parse_request` from the first byte."""
        cdef Head head
        cdef const char *at = PyBytes_AS_STRING(data)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t size
        size = PyBytes_GET_SIZE(self._raw)
        if size > 0:
            if size <= length and size <= max_head_bytes and memcmp(at, PyBytes_AS_STRING(self._raw), size) == 0:
                self.repeats = True
                return self._head, size
            if self._place >= 0:
                size = self._repeats(at, length, max_head_bytes)
                if size > 0:
                    self.repeats = True
                    return self._head, size
        size = scan_request(at, length, max_head_bytes, &head)
        if size == 0:
            return None
        if size < 0:
            raise request_fault(-size, max_head_bytes)
        self._head = make_request(at, &head)
        self._remember(at, size, &head)
        self.repeats = False
        return self._head, size

    cdef int _remember(self, const char *data, Py_ssize_t size, const Head *head) except -1:
        cdef int place
        self._raw = PyBytes_FromStringAndSize(data, size)
        self._place = -1
        for place in range(head.field_count):
            field = head.fields[place]
            if field.name_end - field.name == 14 and strncasecmp(data + field.name, b"content-length", 14) == 0:
                self._place, self._digits, self._digits_end = place, field.value, field.value_end
        return 0

    cdef Py_ssize_t _repeats(self, const char *data, Py_ssize_t length, Py_ssize_t max_head_bytes) except -1:
        """How long the head is, if it is the last one with another Content-Length, which it becomes; 0 if not."""
        cdef const char *raw = PyBytes_AS_STRING(self._raw)
        cdef Py_ssize_t rest = PyBytes_GET_SIZE(self._raw) - self._digits_end
        cdef Py_ssize_t end = self._digits
        cdef int64_t body_bytes
        cdef list headers
        if length < self._digits or memcmp(data, raw, self._digits) != 0:
            return 0
        while end < length and c"0" <= data[end] <= c"9":
            end += 1
        if length - end < rest or end + rest > max_head_bytes or memcmp(data + end, raw + self._digits_end, rest) != 0:
            return 0
        body_bytes = _length(data + self._digits, end - self._digits)
        if body_bytes < 0:
            return 0
        last = self._head
        headers = list(<list>last.headers)
        value = PyBytes_FromStringAndSize(data + self._digits, end - self._digits)
        headers[self._place] = (headers[self._place][0], value)
        self._head = RequestHead(
            last.method,
            last.target,
            last.minor,
            headers,
            body_bytes,
            False,
            last.keep_alive,
            last.expect_continue,
            last.upgrade,
        )
        self._raw = PyBytes_FromStringAndSize(data, end + rest)
        self._digits_end = end
        return end + rest


cdef class ChunkedDecoder:
    """Takes the chunks off a body, cut anywhere. Extensions and trailers are bounded, checked and thrown away."""

    def __init__(self, *, bint request):
        self._request = request
        begin_chunks(&self._chunks)

    def __repr__(self):
        return f"<ChunkedDecoder done={self.done} left={self._chunks.left}>"

    @property
    def done(self):
        """The body is complete."""
        return self.is_done()

    cdef bint is_done(self) noexcept:
        return self._chunks.state == CHUNKS_DONE

    cdef Py_ssize_t feed_in_place(self, char *data, Py_ssize_t length, char **body, Py_ssize_t *size) except -1:
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t taken
        cdef Py_ssize_t run_length
        cdef const char *run = NULL
        body[0] = data
        size[0] = 0
        while at < length and self._chunks.state != CHUNKS_DONE:
            taken = next_chunk(&self._chunks, data + at, length - at, &run, &run_length)
            if taken < 0:
                raise self._fault(-taken)
            if run_length and size[0] == 0:
                body[0] = <char *>run
            elif run_length:
                memmove(body[0] + size[0], run, run_length)
            size[0] += run_length
            at += taken
        return at

    cdef object _fault(self, Py_ssize_t reason):
        return request_fault(reason, 0) if self._request else response_fault(reason)

    def feed(self, bytes data not None, Py_ssize_t start=0):
        """The body's bytes among these, and where it ends, or len(data). Raises BadRequest or UpstreamInvalid."""
        cdef const char *buffer = PyBytes_AS_STRING(data)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t at = start
        cdef Py_ssize_t taken
        cdef Py_ssize_t run_length
        cdef const char *run = NULL
        cdef bytearray body = bytearray()
        cdef Py_ssize_t size = 0
        PyByteArray_Resize(body, max(length - start, 0))
        while at < length and self._chunks.state != CHUNKS_DONE:
            taken = next_chunk(&self._chunks, buffer + at, length - at, &run, &run_length)
            if taken < 0:
                raise self._fault(-taken)
            if run_length:
                memcpy(PyByteArray_AS_STRING(body) + size, run, run_length)
                size += run_length
            at += taken
        return PyBytes_FromStringAndSize(PyByteArray_AS_STRING(body), size), at


cpdef bytes encode_request(bytes method, bytes target, list headers):
    """A request's head, HTTP/1.1. Raises InternalError for what would break out of its place."""
    if method is None or target is None or headers is None:
        raise TypeError("got None, expected a method, a target and header fields")
    if not (_only(method, IS_TOKEN) and _only(target, IS_VISIBLE)):
        raise InternalError("a request's method or target holds characters that it cannot have")
    return _encode_head(b"".join((method, b" ", target, b" HTTP/1.1\r\n")), headers)


cpdef bytes encode_response(int status, list headers):
    """An answer's head, HTTP/1.1, without a reason phrase. Raises InternalError as `encode_request` does."""
    cdef char line[16]
    if headers is None:
        raise TypeError("got None, expected header fields")
    if not 100 <= status <= 999:
        raise InternalError("an answer's status is not a number of three digits")
    memcpy(line, b"HTTP/1.1 000 \r\n", 15)
    line[9] += <char>(status // 100)
    line[10] += <char>(status // 10 % 10)
    line[11] += <char>(status % 10)
    return _encode_head(line[:15], headers)


cdef Py_ssize_t scan_request(const char *data, Py_ssize_t length, Py_ssize_t max_head_bytes, Head *head) noexcept nogil:
    cdef Py_ssize_t size = _find_end(data, length, max_head_bytes)
    cdef Py_ssize_t line_end
    cdef int reason
    if size <= 0:
        return size
    line_end = <const char *>memchr(data, c"\n", size) - data - 1
    reason = _scan_request_line(data, line_end, head)
    if reason == 0:
        reason = _scan_fields(data, line_end + 2, size, head, True)
    if reason == 0 and data[head.target] != c"/":
        reason = TARGET_FORM
    if reason != 0:
        return -reason
    if head.body_bytes < 0 and not head.chunked:
        head.body_bytes = 0
    if head.minor == 0:
        head.keep_alive = head.expect_continue = False
    return size


cdef Py_ssize_t scan_response(
    const char *data, Py_ssize_t length, Py_ssize_t max_head_bytes, bint asked_head, Head *head
) noexcept nogil:
    cdef Py_ssize_t size = _find_end(data, length, max_head_bytes)
    cdef Py_ssize_t line_end
    cdef int reason
    if size <= 0:
        return size
    line_end = <const char *>memchr(data, c"\n", size) - data - 1
    reason = _scan_status_line(data, line_end, head)
    if reason == 0:
        reason = _scan_fields(data, line_end + 2, size, head, False)
    if reason == 0 and head.status == 101:
        reason = SWITCHED
    if reason != 0:
        return -reason
    if head.minor == 0:
        head.keep_alive = False
    if asked_head or head.status < 200 or head.status == 204 or head.status == 304:
        if (head.chunked or head.body_bytes > 0) and not (asked_head or head.status == 304):
            head.keep_alive = False  # a body that is announced where none can be may follow all the same
        head.chunked = False
        head.body_bytes = 0
    elif head.body_bytes < 0 and not head.chunked:
        head.keep_alive = False
    return size


cdef object make_request(const char *data, const Head *head):
    return RequestHead(
        PyBytes_FromStringAndSize(data, head.method_end),
        PyBytes_FromStringAndSize(data + head.target, head.target_end - head.target),
        head.minor,
        make_headers(data, head),
        None if head.body_bytes < 0 else head.body_bytes,
        head.chunked,
        head.keep_alive,
        head.expect_continue,
        head.upgrade,
    )


cdef object make_response(const char *data, const Head *head):
    return ResponseHead(
        head.status,
        head.minor,
        make_headers(data, head),
        None if head.body_bytes < 0 else head.body_bytes,
        head.chunked,
        head.keep_alive,
    )


cdef list make_headers(const char *data, const Head *head):
    cdef list headers = []
    cdef bytes name
    cdef const Field *field
    cdef int index
    for index in range(head.field_count):
        field = &head.fields[index]
        name = PyBytes_FromStringAndSize(NULL, field.name_end - field.name)
        _copy_lower(PyBytes_AS_STRING(name), data + field.name, field.name_end - field.name)
        headers.append((name, PyBytes_FromStringAndSize(data + field.value, field.value_end - field.value)))
    return headers


cdef void begin_chunks(Chunks *chunks) noexcept nogil:
    memset(chunks, 0, sizeof(Chunks))
    chunks.size = -1


cdef Py_ssize_t next_chunk(
    Chunks *chunks, const char *data, Py_ssize_t length, const char **body, Py_ssize_t *body_length
) noexcept nogil:
    cdef Py_ssize_t at = 0
    cdef int reason
    body_length[0] = 0
    while at < length and chunks.state != CHUNKS_DONE:
        if chunks.state == READ_DATA:
            body[0] = data + at
            body_length[0] = min(length - at, chunks.left)
            chunks.left -= body_length[0]
            if chunks.left == 0:
                chunks.state = READ_CHUNK_END
            return at + body_length[0]
        reason = _read_frame_byte(chunks, <unsigned char>data[at])
        if reason != 0:
            return -reason
        at += 1
    return at


cdef int write_chunk_size(char *out, Py_ssize_t size) noexcept nogil:
    cdef int digits = 1
    cdef int place
    while size >> 4 * digits and digits < 16:
        digits += 1
    for place in range(digits - 1, -1, -1):
        out[place] = b"0123456789abcdef"[size & 15]
        size >>= 4
    out[digits] = c"\r"
    out[digits + 1] = c"\n"
    return digits + 2


cdef int _read_frame_byte(Chunks *chunks, unsigned char byte) noexcept nogil:
    """Take one byte of what surrounds the chunks; 0, or why it is refused."""
    if chunks.state == READ_SIZE:
        if _DIGIT[byte] >= 0:
            if chunks.size > _MAX_LENGTH >> 4:
                return CHUNK_SIZE
            chunks.size = max(chunks.size, 0) * 16 + _DIGIT[byte]
        elif byte == c"\r" and chunks.size >= 0:
            chunks.state = READ_SIZE_END
        elif byte == c";" and chunks.size >= 0:
            chunks.state = READ_EXTENSION
        else:
            return CHUNK_SIZE
    elif chunks.state == READ_EXTENSION:
        chunks.extension_bytes += 1
        if byte == c"\r":
            chunks.state = READ_SIZE_END
        elif not _CLASS[byte] & IS_TEXT or chunks.extension_bytes > _MAX_EXTENSION_BYTES:
            return CHUNK_EXTENSION
    elif chunks.state == READ_SIZE_END:
        if byte != c"\n":
            return CHUNK_END
        chunks.left = chunks.size
        chunks.state = READ_DATA if chunks.size else READ_TRAILER_START
        chunks.size = -1
    elif chunks.state == READ_CHUNK_END:
        if byte != c"\r":
            return CHUNK_END
        chunks.state = READ_CHUNK_END_LF
    elif chunks.state == READ_CHUNK_END_LF:
        if byte != c"\n":
            return CHUNK_END
        chunks.state = READ_SIZE
    elif chunks.state == READ_LAST:
        if byte != c"\n":
            return TRAILER
        chunks.state = CHUNKS_DONE
    elif chunks.state == READ_TRAILER_END:
        if byte != c"\n":
            return TRAILER
        chunks.state = READ_TRAILER_START
    elif chunks.state == READ_TRAILER_START and byte == c"\r":
        chunks.state = READ_LAST
    else:
        return _read_trailer_byte(chunks, byte)
    return 0


cdef int _read_trailer_byte(Chunks *chunks, unsigned char byte) noexcept nogil:
    chunks.trailer_bytes += 1
    if chunks.trailer_bytes > _MAX_TRAILER_BYTES:
        return TRAILER
    if chunks.state == READ_TRAILER_VALUE:
        if byte == c"\r":
            chunks.state = READ_TRAILER_END
        elif not _CLASS[byte] & IS_TEXT:
            return TRAILER
    elif byte == c":" and chunks.state == READ_TRAILER_NAME:
        chunks.state = READ_TRAILER_VALUE
    elif _CLASS[byte] & IS_TOKEN:
        chunks.state = READ_TRAILER_NAME
    else:
        return TRAILER
    return 0


cdef Py_ssize_t _find_end(const char *data, Py_ssize_t length, Py_ssize_t max_head_bytes) noexcept nogil:
    """How long the head is, 0 while it is incomplete, or the negated reason."""
    cdef Py_ssize_t window = min(length, max_head_bytes)
    cdef const char *line = data
    cdef const char *end = data + window
    cdef const char *found
    if window > 0 and not _CLASS[<unsigned char>data[0]] & IS_TOKEN:
        return -NOT_HTTP
    while line < end:
        found = <const char *>memchr(line, c"\n", end - line)
        if found == NULL:
            break
        if found == line or (found - 1)[0] != c"\r":
            return -LINE_END
        if found == line + 1:
            return found + 1 - data
        line = found + 1
    return -TOO_LARGE if length >= max_head_bytes else 0


cdef int _scan_request_line(const char *data, Py_ssize_t length, Head *head) noexcept nogil:
    cdef const char *space = <const char *>memchr(data, c" ", length)
    cdef Py_ssize_t last = length - 9
    if space == NULL or last < 0 or memcmp(data + last, b" HTTP/1.", 8) != 0:
        return VERSION
    if data[length - 1] != c"0" and data[length - 1] != c"1":
        return VERSION
    head.minor = data[length - 1] - c"0"
    head.method_end = <uint32_t>(space - data)
    head.target = head.method_end + 1
    if head.method_end == last or head.method_end == 0 or not _all(data, head.method_end, IS_TOKEN):
        return START_LINE
    if head.method_end == 7 and memcmp(data, b"CONNECT", 7) == 0:
        return CONNECT
    head.target_end = <uint32_t>last
    if head.target == head.target_end or not _all(data + head.target, last - head.target, IS_VISIBLE):
        return TARGET_BYTES
    return 0


cdef int _scan_status_line(const char *data, Py_ssize_t length, Head *head) noexcept nogil:
    if length < 9 or memcmp(data, b"HTTP/1.", 7) != 0 or data[8] != c" ":
        return VERSION
    if data[7] != c"0" and data[7] != c"1":
        return VERSION
    if length < 12 or (length > 12 and data[12] != c" "):
        return STATUS
    if not (c"1" <= data[9] <= c"9" and c"0" <= data[10] <= c"9" and c"0" <= data[11] <= c"9"):
        return STATUS
    head.minor = data[7] - c"0"
    head.status = (data[9] - c"0") * 100 + (data[10] - c"0") * 10 + data[11] - c"0"
    if length > 13 and not _all(data + 13, length - 13, IS_TEXT):
        return START_LINE
    return 0


cdef int _scan_fields(const char *data, Py_ssize_t start, Py_ssize_t size, Head *head, bint request) noexcept nogil:
    """All fields, from the line at `start` to the blank one, and what they say together."""
    cdef const Field *length_field = NULL
    cdef const Field *encoding_field = NULL
    cdef const Field *host_field = NULL
    cdef int lengths = 0, encodings = 0, hosts = 0
    cdef Py_ssize_t at = start
    cdef Py_ssize_t line_end
    cdef Field *field
    cdef const char *name
    cdef Py_ssize_t name_length
    cdef int reason
    head.field_count = 0
    head.keep_alive = True
    head.expect_continue = head.upgrade = False
    while at < size - 2:
        line_end = <const char *>memchr(data + at, c"\n", size - at) - data - 1
        if head.field_count == MAX_FIELDS:
            return TOO_MANY_FIELDS
        field = &head.fields[head.field_count]
        reason = _scan_field(data, at, line_end, field)
        if reason != 0:
            return reason
        head.field_count += 1
        at = line_end + 2
        name = data + field.name
        name_length = field.name_end - field.name
        if name_length == 4 and strncasecmp(name, b"host", 4) == 0:
            hosts += 1
            host_field = field
        elif name_length == 6 and strncasecmp(name, b"expect", 6) == 0:
            if _value_is(data, field, b"100-continue", 12):
                head.expect_continue = True
        elif name_length == 7 and strncasecmp(name, b"upgrade", 7) == 0:
            head.upgrade = True
        elif name_length == 10 and strncasecmp(name, b"connection", 10) == 0:
            if _asks_to_close(data + field.value, data + field.value_end):
                head.keep_alive = False
        elif name_length == 14 and strncasecmp(name, b"content-length", 14) == 0:
            lengths += 1
            length_field = field
        elif name_length == 17 and strncasecmp(name, b"transfer-encoding", 17) == 0:
            encodings += 1
            encoding_field = field
    if lengths > 1:
        return LENGTH_TWICE
    if encodings > 1:
        return ENCODING_TWICE
    if lengths and encodings:
        return LENGTH_AND_ENCODING
    head.body_bytes = -1
    head.chunked = encodings == 1
    if encodings:
        if head.minor == 0:
            return ENCODING_IN_1_0
        if not _value_is(data, encoding_field, b"chunked", 7):
            return ENCODING_OTHER
    if lengths:
        head.body_bytes = _length(data + length_field.value, length_field.value_end - length_field.value)
        if head.body_bytes < 0:
            return LENGTH_FORM
    if not request:
        return 0
    if hosts > 1:
        return HOST_TWICE
    if hosts == 0:
        return HOST_MISSING if head.minor == 1 else 0
    if not _all(data + host_field.value, host_field.value_end - host_field.value, IS_HOST):
        return HOST_FORM
    return 0


cdef int _scan_field(const char *data, Py_ssize_t start, Py_ssize_t line_end, Field *field) noexcept nogil:
    cdef Py_ssize_t at = start
    cdef Py_ssize_t value_end = line_end
    if data[at] == c" " or data[at] == c"\t":
        return FOLDED
    while at < line_end and _CLASS[<unsigned char>data[at]] & IS_TOKEN:
        at += 1
    if at == start or at == line_end or data[at] != c":":
        return FIELD_NAME
    field.name = <uint32_t>start
    field.name_end = <uint32_t>at
    at += 1
    while at < value_end and (data[at] == c" " or data[at] == c"\t"):
        at += 1
    while value_end > at and (data[value_end - 1] == c" " or data[value_end - 1] == c"\t"):
        value_end -= 1
    field.value = <uint32_t>at
    field.value_end = <uint32_t>value_end
    return 0 if _all_text(data + at, value_end - at) else FIELD_VALUE


cdef int64_t _length(const char *digits, Py_ssize_t count) noexcept nogil:
    """A Content-Length, -1 when it is not a plain decimal number."""
    cdef int64_t value = 0
    cdef int digit
    cdef Py_ssize_t place
    if count == 0 or count > 19 or (count > 1 and digits[0] == c"0"):
        return -1
    for place in range(count):
        if not c"0" <= digits[place] <= c"9":
            return -1
        digit = digits[place] - c"0"
        if value > (_MAX_LENGTH - digit) // 10:
            return -1
        value = value * 10 + digit
    return value


cdef bint _asks_to_close(const char *at, const char *end) noexcept nogil:
    """Whether `close` is one of the options of a Connection field."""
    cdef const char *comma
    cdef const char *last
    while at < end:
        comma = <const char *>memchr(at, c",", end - at)
        last = end if comma == NULL else comma
        while at < last and (at[0] == c" " or at[0] == c"\t"):
            at += 1
        while last > at and ((last - 1)[0] == c" " or (last - 1)[0] == c"\t"):
            last -= 1
        if last - at == 5 and strncasecmp(at, b"close", 5) == 0:
            return True
        if comma == NULL:
            return False
        at = comma + 1
    return False


cdef inline bint _value_is(const char *data, const Field *field, const char *wanted, int length) noexcept nogil:
    return field.value_end - field.value == <uint32_t>length and strncasecmp(data + field.value, wanted, length) == 0


cdef inline bint _all(const char *data, Py_ssize_t length, int wanted) noexcept nogil:
    """Whether every byte is of that class."""
    cdef Py_ssize_t place
    for place in range(length):
        if not _CLASS[<unsigned char>data[place]] & wanted:
            return False
    return True


cdef inline bint _all_text(const char *data, Py_ssize_t length) noexcept nogil:
    """As `_all` for IS_TEXT: eight bytes at once, where none is below a space or DEL; else each by itself."""
    cdef Py_ssize_t place = 0
    cdef uint64_t word, without_del
    while place + 8 <= length:
        memcpy(&word, data + place, 8)
        without_del = word ^ 0x7F7F7F7F7F7F7F7FULL
        if (
            ((word - 0x2020202020202020ULL) & ~word) | ((without_del - 0x0101010101010101ULL) & ~without_del)
        ) & 0x8080808080808080ULL and not _all(data + place, 8, IS_TEXT):
            return False
        place += 8
    return _all(data + place, length - place, IS_TEXT)


cdef inline void _copy_lower(char *out, const char *data, Py_ssize_t length) noexcept nogil:
    cdef Py_ssize_t place
    for place in range(length):
        out[place] = <char>_LOWER[<unsigned char>data[place]]


cdef bint _only(bytes value, int wanted) noexcept:
    return PyBytes_GET_SIZE(value) > 0 and _all(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), wanted)


cdef bytes _encode_head(bytes line, list headers):
    """A head that begins with `line`: measured, then written where it stays."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(line) + 2
    cdef bytes name, value, head
    cdef char *out
    for name, value in headers:
        if name is None or value is None:
            raise TypeError("got None, expected the bytes of a header field")
        if not _only(name, IS_TOKEN) or not _all_text(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)):
            raise InternalError("a header field to be sent holds characters that it cannot have")
        size += PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value) + 4
    head = PyBytes_FromStringAndSize(NULL, size)
    out = _put(PyBytes_AS_STRING(head), line)
    for name, value in headers:
        out = _put(out, name)
        memcpy(out, b": ", 2)
        out = _put(out + 2, value)
        memcpy(out, b"\r\n", 2)
        out += 2
    memcpy(out, b"\r\n", 2)
    return head


cdef inline char *_put(char *out, bytes data) noexcept:
    memcpy(out, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    return out + PyBytes_GET_SIZE(data)
