"""What other compiled modules may know of the reactor."""

from libc.stdint cimport int64_t, uint32_t

from securellm._fast.http1_c cimport ChunkedDecoder
from securellm._fast.sse_c cimport StreamScanner


cdef class Reactor:
    cdef int _epoll
    cdef int _timer
    cdef double _offset_s
    cdef double _armed_s
    cdef double _polled_s
    cdef char *_room  # what was read last: ROOM_BYTES, with FRONT_BYTES before them and BACK_BYTES behind
    cdef dict _channels
    cdef list _heap
    cdef bint _as_task
    cdef object _trios_poll  # of Trio's own epoll; None while a task of Trio's waits
    cdef int _trio_fd
    cdef bint _trio_has_something
    cdef object _scope
    cdef object _failure
    cdef readonly int64_t woken
    cdef readonly int64_t wakes
    cdef readonly int64_t events

    cdef int _watch_trio(self, trios) except -1
    cdef object _wait(self, double timeout_s, int max_events)
    cdef object _fail(self, error)
    cdef int _poll(self, int wait_ms) except -1
    cdef int _arm(self, Channel channel, uint32_t mask) except -1
    cdef int _forget(self, Channel channel) except -1
    cdef int _schedule(self, Channel channel) except -1
    cdef int _fire(self) except -1
    cdef int _set_timer(self) except -1
    cdef int _up(self, Py_ssize_t index) except -1
    cdef int _down(self, Py_ssize_t index) except -1
    cdef int _unschedule(self, Channel channel) except -1


cdef class PlainFeed:
    cdef StreamScanner _scanner
    cdef object _upstream
    cdef object _meter
    cdef object _permit
    cdef double _idle_s
    cdef double _most_output_bytes

    # Whether these bytes are to be passed on as they are, and are counted now; if not, `upstream.feed` must be called.
    cdef bint passes(self, const char *data, Py_ssize_t size, double now_s) except -1


cdef class Channel:
    cdef Reactor _reactor
    cdef readonly object socket
    cdef readonly int fd
    cdef uint32_t _mask
    cdef readonly bint eof
    cdef readonly bint broken
    cdef readonly bint closed
    cdef readonly bint expired
    cdef readonly int64_t received_bytes
    cdef readonly Py_ssize_t queued_bytes
    cdef public object on_gone
    cdef bint _caller
    cdef Py_ssize_t _read_bytes
    cdef Py_ssize_t _read_ahead
    cdef bytes _inbox
    cdef bint _passed_by
    cdef object _task
    cdef int _waits
    cdef Sleep _sleeping
    cdef list _queue
    cdef Py_ssize_t _offset
    cdef object _tls
    cdef object _incoming
    cdef object _outgoing
    cdef object _stream
    cdef bytes _sealed
    cdef Channel _source
    cdef Channel _target
    cdef object _decoder
    cdef ChunkedDecoder _chunks  # the same, if it is one
    cdef object _feed  # None while there is no relay
    cdef PlainFeed _plain  # to be asked before, if there is one
    cdef object _failure
    cdef double _deadline_s
    cdef double _stall_s
    cdef double _stall_at_s
    cdef Py_ssize_t _stall_bytes
    cdef double _heap_at_s
    cdef Py_ssize_t _heap_index

    cpdef bytes take(self)
    cdef bytes take_body(self, Py_ssize_t wanted)
    cpdef int give_back(self, bytes data) except -1
    cdef int _read(self, uint32_t happened) except -1
    cdef int _read_tls(self, bytes data) except -1
    cdef int _deliver(self, bytes data) except -1
    cdef int _relay(self, char *data, Py_ssize_t length) except -1
    cdef int _relay_elsewhere_read(self, bytes data) except -1
    cdef int _stop_relaying(self) except -1
    cdef int _end(self, bint broken) except -1
    cdef int _wake(self) except -1
    cdef object _sleep(self, int waits)
    cdef int _send_chunk(self, bytes data) except -1
    cdef int _send_in_place(self, char *data, Py_ssize_t size) except -1
    cdef int _enqueue(self, bytes data, Py_ssize_t offset) except -1
    cdef int _flush(self) except -1
    cdef int _flush_tls(self) except -1
    cdef int _sent(self, Py_ssize_t count) except -1
    cdef int _drained(self) except -1


cdef class Sleep:
    cdef Channel _channel
    cdef object _trap
