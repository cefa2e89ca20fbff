# What the other extensions call without going through Python.

from securellm._fast.plain_events cimport Said

cdef enum LineEnd:
    NO_END
    LF
    CR
    CRLF


cdef class SSESplitter:
    cdef Py_ssize_t _max_event_bytes
    cdef bytearray _pending
    cdef readonly Py_ssize_t _scan  # a test looks at it
    cdef Py_ssize_t _line_start
    cdef LineEnd _last_end
    cdef bint _after_cr
    cdef bint _seen_cr
    cdef bint _first

    cpdef bytes tail(self)
    cdef void _look_for_cr(self, const char *data, Py_ssize_t length) noexcept
    cdef int _check_length(self, Py_ssize_t length) except -1
    cdef Py_ssize_t _find_end(self, const char *data, Py_ssize_t length, Py_ssize_t start) noexcept
    cdef Py_ssize_t _find_end_any(self, const char *data, Py_ssize_t length, Py_ssize_t start) noexcept
    cdef bint _is_blank(self, const char *data, Py_ssize_t start, Py_ssize_t line_end) noexcept


cdef struct Ends:  # of the events in one read
    Py_ssize_t *at
    Py_ssize_t count
    Py_ssize_t capacity
    Py_ssize_t first[32]


cdef class StreamScanner:
    cdef SSESplitter _splitter
    cdef int _dialect
    cdef int _flags  # of the last event that was shown

    # A chat.Relayed, or a subclass's; `reader` is a wire relay with `see` and `count`.
    cpdef object feed(self, object reader, bytes data)
    cpdef bytes tail(self)
    # Whether these bytes are whole events that say no more than some text, behind nothing unfinished: then `said` is
    # what they say, and the scanner is as it was. If not, `feed` must be called.
    cdef bint passes(self, const char *at, Py_ssize_t left, Said *said) noexcept
    cdef object _show(self, object reader, bytes data, Ends *ends, bint first)
    cdef bytes _held(self, bytes data, Py_ssize_t start, Py_ssize_t end)
