# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The reactor of the express lane: all its sockets in one epoll of their own, which waits in Trio's place.

A Trio task that waits for a socket costs some 15 µs a time. Here a socket's task sleeps until there is something to
decide; what needs no decision is done on the spot: reading ahead, writing what did not fit, and relaying a stream.

- A `Channel` is one socket. It holds what was read and not yet taken (at most 128 KiB, of a caller 16 and in TLS
  256), and what was written and did not fit. Everything is done in Trio's thread; nothing here waits but
  `receive_ready`, `drain` and `relay`, whose cancellation is Trio's.
- Deadlines are kept in a heap and one timerfd. A channel is in the heap once; moving its deadline later costs nothing,
  since the entry is looked at again when its old time has come. Times are Trio's clock, in seconds.
- In `relay`, what an upstream channel reads goes through `feed` (the gateway's, one call for each read) into chunks of
  the caller's channel, until `feed` returns None, which means that the task has to decide. While the caller's channel
  holds unsent bytes, the upstream channel is not read.
- TLS is an SSLObject with its two BIOs, whose handshake was made elsewhere. Reading stops when the BIO is empty: the
  exception that says so costs more than the decryption.

While it runs, Trio waits by it (`Place`): its epoll has Trio's in it. A chunk that is passed on then costs no turn of
Trio's loop, which would be several times the chunk, and a request no turn of a task that watches sockets. It gives way
when Trio has anything to do, when a task was woken, and when the time is over that Trio would have waited. Trio's epoll
is private to it: where it is not found, and where another reactor has that place, a task of Trio's waits for the
sockets.

There is no pure twin: what this does slower is the reference lane. An error in here is a defect; it ends the task that
runs the reactor, and with it the process.

This file is longer than others, because reactor and channel call each other within every read and write: in two
extensions each of these calls would go through a table of the other's, and their declarations would be there twice.
"""

import errno as _errno
import math
import select as _select
import socket as _socket
import ssl
import struct

import trio

from securellm.errors import SecureLLMError

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EINTR, errno
from libc.math cimport ceil
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, itimerspec, timespec
from posix.unistd cimport close as c_close
from posix.unistd cimport read as c_read

from securellm._fast.http1_c cimport ChunkedDecoder, write_chunk_size
from securellm._fast.plain_events cimport Said
from securellm._fast.sse_c cimport StreamScanner

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    ssize_t recv(int, void *, size_t, int)
    ssize_t send(int, const void *, size_t, int)
    ssize_t sendmsg(int, const msghdr *, int)
    int MSG_NOSIGNAL
    int MSG_DONTWAIT

cdef extern from "<sys/timerfd.h>" nogil:
    int timerfd_create(int, int)
    int timerfd_settime(int, int, const itimerspec *, itimerspec *)
    int TFD_NONBLOCK
    int TFD_CLOEXEC
    int TFD_TIMER_ABSTIME

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void *ptr
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int)
    int epoll_ctl(int, int, int, epoll_event *)
    int epoll_wait(int, epoll_event *, int, int)
    int EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    uint32_t EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR

DEF READ_BYTES = 65536
DEF REQUEST_BYTES = 8192  # of a caller's: a head, and a body that need not be read to where it stays (`take_body`)
DEF SEALED_REQUEST_BYTES = 131072  # the same in TLS: a prompt of 100 KB is one read
DEF BODY_BYTES = 262144  # of a body at once
DEF ROOM_BYTES = SEALED_REQUEST_BYTES  # the largest read of them
DEF FRONT_BYTES = 32  # a chunk's head is put there
DEF BACK_BYTES = 2  # and its end
DEF MAX_EVENTS = 256
DEF STALL_SLICE_BYTES = 65536
DEF TLS_SLICE_BYTES = 65536
DEF MANY = 3  # so many at once, and more has come meanwhile, most likely; a look costs less than waiting for it

MAX_READ_AHEAD_BYTES = 65536  # read and not taken: with more, reading stops, and the far side feels it

cdef enum Waits:
    NOTHING
    INPUT
    ROOM

cdef double FOREVER = math.inf
cdef bytes _RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST
cdef object _reschedule = trio.lowlevel.reschedule
cdef object _current_task = trio.lowlevel.current_task
cdef object _wait_task_rescheduled = trio.lowlevel.wait_task_rescheduled
cdef object _wait_readable = trio.lowlevel.wait_readable
cdef object _SUCCEEDED = trio.lowlevel.Abort.SUCCEEDED
cdef object _WantRead = ssl.SSLWantReadError
cdef object _SSLError = ssl.SSLError


cdef inline double _now_s() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef class Reactor:
    """Serves its channels while `run` runs. Made within a Trio run; `as_task` waits by a task of Trio's in any case."""

    def __cinit__(self):
        self._epoll = self._timer = -1
        self._room = <char *>malloc(FRONT_BYTES + ROOM_BYTES + BACK_BYTES)
        if self._room == NULL:
            raise MemoryError
        self._room += FRONT_BYTES

    def __init__(self, *, bint as_task=False):
        cdef epoll_event event
        self._as_task = as_task
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        self._timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if self._epoll < 0 or self._timer < 0:
            raise OSError(errno, "no epoll or timerfd")
        event.events = EPOLLIN
        event.data.ptr = NULL
        if epoll_ctl(self._epoll, EPOLL_CTL_ADD, self._timer, &event) < 0:
            raise OSError(errno, "the timer cannot be watched")
        self._channels = {}
        self._heap = []
        self._armed_s = FOREVER
        self._offset_s = trio.current_time() - _now_s()

    def __dealloc__(self):
        if self._epoll >= 0:
            c_close(self._epoll)
        if self._timer >= 0:
            c_close(self._timer)
        if self._room != NULL:
            free(self._room - FRONT_BYTES)

    def __repr__(self):
        held = f"channels={len(self._channels)} timers={len(self._heap)}"
        return f"<Reactor {held} wakes={self.wakes} events={self.events}>"

    def __len__(self):
        return len(self._channels)

    def now_s(self):
        """Trio's clock."""
        return _now_s() + self._offset_s

    async def run(self):
        """Serve until cancelled. What goes wrong in here is raised."""
        io_manager = None if self._as_task else _io_manager_with_a_place()
        if io_manager is None:
            while True:
                await _wait_readable(self._epoll)
                if self._poll(0) > MANY:
                    self._poll(0)
        trios = io_manager._epoll
        self._watch_trio(trios)
        place = io_manager._epoll = Place(self, trios)
        try:
            with trio.CancelScope() as self._scope:
                await trio.sleep_forever()
            if self._failure is not None:
                raise self._failure
        finally:
            if io_manager._epoll is place:
                io_manager._epoll = trios
            epoll_ctl(self._epoll, EPOLL_CTL_DEL, self._trio_fd, NULL)
            self._trios_poll = None

    cdef int _watch_trio(self, trios) except -1:
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.ptr = <void *>self
        self._trio_fd = trios.fileno()
        if epoll_ctl(self._epoll, EPOLL_CTL_ADD, self._trio_fd, &event) < 0:
            raise OSError(errno, "Trio's epoll cannot be watched")
        self._trios_poll = trios.poll
        return 0

    cdef object _wait(self, double timeout_s, int max_events):
        """What Trio has to process; false when nothing happened for so long, as idleness is told (in tests) by that."""
        cdef int64_t woken = self.woken
        cdef int wait_ms = <int>ceil(timeout_s * 1000)
        cdef double end_s = _now_s() + self._offset_s + timeout_s if wait_ms else 0.0
        while True:
            self._trio_has_something = False
            if self._poll(wait_ms) > MANY and self.woken != woken:
                self._poll(0)
            if self._trio_has_something:
                events = self._trios_poll(0, max_events)
                if events:
                    return events
            if self.woken != woken:
                return _WOKEN
            timeout_s = end_s - self._polled_s
            if wait_ms == 0 or timeout_s <= 0:
                return []
            wait_ms = <int>ceil(timeout_s * 1000)

    cdef object _fail(self, error):
        """What was raised in Trio's place would leave its loop a ruin; so `run` raises it."""
        self._failure = error
        self._scope.cancel()
        return _WOKEN

    cdef int _poll(self, int wait_ms) except -1:
        """Do everything that can be done once there is anything, or the time has passed; returns how much there was."""
        cdef epoll_event events[MAX_EVENTS]
        cdef int count, index, failed = 0
        cdef int epoll = self._epoll
        cdef uint32_t happened
        cdef bint timer = False
        cdef Channel channel
        if wait_ms == 0:
            count = epoll_wait(epoll, events, MAX_EVENTS, 0)
            failed = errno
        else:
            with nogil:
                count = epoll_wait(epoll, events, MAX_EVENTS, wait_ms)
                failed = errno
        if count < 0:
            if failed != EINTR:
                raise OSError(failed, "epoll_wait")
            self.woken += 1  # whoever handles the signal must get to it
            return 0
        self.wakes += 1
        self.events += count
        self._polled_s = _now_s() + self._offset_s
        for index in range(count):  # references first: what one channel does may close another
            if events[index].data.ptr == NULL:
                timer = True
            elif events[index].data.ptr == <void *>self:
                self._trio_has_something = True
            else:
                Py_INCREF(<Channel>events[index].data.ptr)
        try:
            for index in range(count):
                if events[index].data.ptr == NULL or events[index].data.ptr == <void *>self:
                    continue
                channel = <Channel>events[index].data.ptr
                happened = events[index].events
                if happened & EPOLLOUT and not channel.closed:
                    channel._flush()
                if happened & ~EPOLLOUT and not channel.closed:
                    channel._read(happened)
        finally:
            for index in range(count):
                if events[index].data.ptr != NULL and events[index].data.ptr != <void *>self:
                    Py_DECREF(<Channel>events[index].data.ptr)
        if timer:
            self._fire()
        return count

    def add(self, socket, *, tls=None, bint caller=False, double stall_s=math.inf):
        """A channel for a connected socket of Trio's, which it owns from now on.

        `tls` is a trio.SSLStream whose handshake is done. A `caller` counts as gone as soon as it closes its side, even
        behind bytes that were not read; `stall_s` is how long it may take to read 64 KiB.
        """
        cdef Channel channel = Channel.__new__(Channel)
        cdef epoll_event event
        channel._reactor = self
        channel.socket = socket
        channel.fd = socket.fileno()
        channel._caller = caller
        if caller and tls is None:
            channel._read_bytes = REQUEST_BYTES
            channel._read_ahead = REQUEST_BYTES - 1
        elif caller:
            channel._read_bytes = SEALED_REQUEST_BYTES
        channel._stall_s = stall_s
        channel._mask = EPOLLIN | EPOLLRDHUP if caller else EPOLLIN
        if tls is not None:
            channel._tls = tls._ssl_object
            channel._incoming = tls._incoming
            channel._outgoing = tls._outgoing
            channel._stream = tls
        event.events = channel._mask
        event.data.ptr = <void *>channel
        if epoll_ctl(self._epoll, EPOLL_CTL_ADD, channel.fd, &event) < 0:
            raise OSError(errno, "the socket cannot be watched")
        self._channels[channel.fd] = channel
        if tls is not None and channel._incoming.pending:
            channel._read_tls(b"")
        return channel

    cdef int _arm(self, Channel channel, uint32_t mask) except -1:
        cdef epoll_event event
        if channel._mask == mask or channel.closed or channel.eof:
            return 0
        event.events = mask
        event.data.ptr = <void *>channel
        if epoll_ctl(self._epoll, EPOLL_CTL_MOD, channel.fd, &event) < 0:
            raise OSError(errno, "the socket cannot be watched")
        channel._mask = mask
        return 0

    cdef int _forget(self, Channel channel) except -1:
        """Watch it no more."""
        cdef epoll_event event
        if self._channels.get(channel.fd) is channel:  # the number may be another's by now
            del self._channels[channel.fd]
            epoll_ctl(self._epoll, EPOLL_CTL_DEL, channel.fd, &event)
        return 0

    # deadlines

    cdef int _schedule(self, Channel channel) except -1:
        """Have it looked at when its next deadline comes."""
        cdef double at_s = min(channel._deadline_s, channel._stall_at_s)
        if at_s >= channel._heap_at_s:
            return 0  # it will be looked at before
        channel._heap_at_s = at_s
        if channel._heap_index < 0:
            channel._heap_index = len(self._heap)
            self._heap.append(channel)
        self._up(channel._heap_index)
        if at_s < self._armed_s:
            self._set_timer()
        return 0

    cdef int _unschedule(self, Channel channel) except -1:
        cdef Py_ssize_t index = channel._heap_index
        cdef Channel last
        if index < 0:
            return 0
        channel._heap_index = -1
        channel._heap_at_s = FOREVER
        last = <Channel>self._heap.pop()
        if last is not channel:
            self._heap[index] = last
            last._heap_index = index
            self._up(index)
            self._down(last._heap_index)
        return 0

    cdef int _up(self, Py_ssize_t index) except -1:
        cdef Channel channel = <Channel>self._heap[index]
        cdef Channel above
        cdef Py_ssize_t parent
        while index > 0:
            parent = (index - 1) // 2
            above = <Channel>self._heap[parent]
            if above._heap_at_s <= channel._heap_at_s:
                break
            self._heap[index] = above
            above._heap_index = index
            index = parent
        self._heap[index] = channel
        channel._heap_index = index
        return 0

    cdef int _down(self, Py_ssize_t index) except -1:
        cdef Channel channel = <Channel>self._heap[index]
        cdef Channel below
        cdef Py_ssize_t child, count = len(self._heap)
        while True:
            child = 2 * index + 1
            if child >= count:
                break
            if child + 1 < count:
                if (<Channel>self._heap[child + 1])._heap_at_s < (<Channel>self._heap[child])._heap_at_s:
                    child += 1
            below = <Channel>self._heap[child]
            if channel._heap_at_s <= below._heap_at_s:
                break
            self._heap[index] = below
            below._heap_index = index
            index = child
        self._heap[index] = channel
        channel._heap_index = index
        return 0

    cdef int _set_timer(self) except -1:
        cdef itimerspec setting
        cdef double at_s = (<Channel>self._heap[0])._heap_at_s if self._heap else FOREVER
        self._armed_s = at_s
        memset(&setting, 0, sizeof(setting))
        if at_s < FOREVER:
            at_s = max(at_s - self._offset_s, 1e-6)
            setting.it_value.tv_sec = <long>at_s
            setting.it_value.tv_nsec = <long>((at_s - <long>at_s) * 1e9)
        if timerfd_settime(self._timer, TFD_TIMER_ABSTIME, &setting, NULL) < 0:
            raise OSError(errno, "timerfd_settime")
        return 0

    cdef int _fire(self) except -1:
        """Look at every channel whose time has come."""
        cdef uint64_t expirations
        cdef double now_s = _now_s() + self._offset_s
        cdef Channel channel
        c_read(self._timer, &expirations, sizeof(expirations))
        while self._heap:
            channel = <Channel>self._heap[0]
            if channel._heap_at_s > now_s:
                break
            self._unschedule(channel)
            if channel._stall_at_s <= now_s:
                gone = channel.on_gone
                channel.abort()
                self.woken += 1
                if gone is not None:
                    gone()
            elif channel._deadline_s <= now_s:
                channel._deadline_s = FOREVER
                channel.expired = True
                if channel._task is not None:
                    channel._wake()
                elif channel.on_gone is not None and not channel._caller:
                    self.woken += 1
                    channel.on_gone()
            if not channel.closed:
                self._schedule(channel)
        self._set_timer()
        return 0


cdef class Sleep:
    """What a task awaits that waits for a channel.

    `wait_task_rescheduled` is two coroutines, a message and an outcome for each wait. The message is the same for all
    waits of a channel, so it is made once; and a task that `_wake` woke is sent None in place of an outcome.
    """

    def __await__(self):
        return self

    def __next__(self):
        if self._channel is None or self._channel._task is None:
            raise StopIteration
        return self._trap

    def send(self, outcome):
        """Trio's own: the task is cancelled."""
        outcome.unwrap()
        raise StopIteration


cdef Sleep _AWAKE = Sleep.__new__(Sleep)  # for who need not wait


cdef class Place:
    """What Trio has for its epoll while a reactor waits for it."""

    cdef Reactor _reactor
    cdef readonly object register
    cdef readonly object modify
    cdef readonly object unregister
    cdef readonly object fileno
    cdef readonly object close

    def __init__(self, Reactor reactor not None, trios):
        self._reactor = reactor
        self.register = trios.register
        self.modify = trios.modify
        self.unregister = trios.unregister
        self.fileno = trios.fileno
        self.close = trios.close

    def poll(self, double timeout_s, int max_events):
        """As the epoll's, or what is no event and not false: that the time is not over, and tasks are to be run."""
        try:
            return self._reactor._wait(timeout_s, max_events)
        except BaseException as error:
            return self._reactor._fail(error)


cdef class Woken:
    """No events, for who asks whether there were any by whether this is true."""

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration


cdef Woken _WOKEN = Woken.__new__(Woken)


cdef object _io_manager_with_a_place():
    """What waits for sockets in this run of Trio; None where it is not as we know it, or has a reactor already."""
    try:
        runner = trio._core._run.GLOBAL_RUN_CONTEXT.runner
        io_manager = runner.io_manager
        # As the guest of another loop, Trio waits in another thread.
        known = type(io_manager._epoll) is _select.epoll and not runner.is_guest
    except AttributeError:
        return None
    return io_manager if known else None


cdef class PlainFeed:
    """As `upstream.feed`; a read that only says more text is counted here, with the same effect and no call of Python.

    `scanner` is the upstream's own (`plain_scanner`).
    """

    def __init__(self, StreamScanner scanner not None, upstream):
        self._scanner = scanner
        self._upstream = upstream
        self._meter = upstream.meter
        self._permit = upstream.permit
        self._idle_s = upstream.idle_s
        self._most_output_bytes = upstream.most_output_bytes

    def __call__(self, bytes data not None, double now_s):
        if self.passes(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), now_s):
            return data
        return self._upstream.feed(data, now_s)

    cdef bint passes(self, const char *data, Py_ssize_t size, double now_s) except -1:
        cdef Said said
        cdef long long output_bytes
        if not self._scanner.passes(data, size, &said) or said.sequence_number >= 0:
            return False
        if said.semantic_events:
            output_bytes = <long long>self._meter.output_bytes + said.output_bytes
            if output_bytes > self._most_output_bytes:
                return False  # `feed` refuses it
            self._meter.output_bytes = output_bytes
            self._meter.semantic_events += said.semantic_events
            self._upstream.idle_deadline_s = now_s + self._idle_s
        elif said.output_bytes:
            return False
        self._permit.bytes_out += size
        return True


cdef class Channel:
    """One socket. Made by `Reactor.add`; whoever has it closes it.

    `eof`: the far side has ended, or `broken` off; nothing more will be read. `on_gone` is called, once, when that is
    noticed while no task waits here (for callers: in any case). `expired`: the deadline passed.
    """

    def __cinit__(self):
        self.fd = -1
        self._sealed = b""
        self._inbox = b""
        self._read_bytes = READ_BYTES
        self._read_ahead = MAX_READ_AHEAD_BYTES
        self._deadline_s = self._stall_at_s = self._heap_at_s = FOREVER
        self._heap_index = -1

    def __repr__(self):
        state = "closed" if self.closed else "broken" if self.broken else "ended" if self.eof else "open"
        return f"<Channel {self.fd} {state} unread={len(self._inbox)} unsent={self.queued_bytes}>"

    # reading

    @property
    def unread(self):
        """What has been read and not taken."""
        return self._inbox

    cpdef bytes take(self):
        """All of what has been read; b"" when there is nothing. Reading goes on."""
        cdef bytes data = self._inbox
        self._inbox = b""
        self._passed_by = False
        if not self._mask & EPOLLIN:
            self._reactor._arm(self, self._mask | EPOLLIN)
        return data

    cdef bytes take_body(self, Py_ssize_t wanted):
        """As `take`, at most so much; what is missing of it is read to where it stays, if it has come by now."""
        cdef bytes data = self.take()
        cdef bytes whole
        cdef ssize_t count
        cdef Py_ssize_t taken = PyBytes_GET_SIZE(data)
        if taken > wanted:
            self._inbox = data[wanted:]
            return data[:wanted]
        if taken == wanted or taken >= BODY_BYTES or self._tls is not None or self.eof or self.closed:
            return data
        wanted = min(wanted, BODY_BYTES)
        whole = PyBytes_FromStringAndSize(NULL, wanted)
        count = recv(self.fd, PyBytes_AS_STRING(whole) + taken, wanted - taken, MSG_DONTWAIT)
        if count <= 0:
            return data  # an end is noticed by who watches the socket
        self.received_bytes += count
        memcpy(PyBytes_AS_STRING(whole), PyBytes_AS_STRING(data), taken)
        return whole if taken + count == wanted else whole[:taken + count]

    cpdef int give_back(self, bytes data) except -1:
        """Have taken less: this is what is read next."""
        if data is None:
            raise TypeError("got None, expected bytes")
        self._inbox = data + self._inbox if self._inbox else data
        return 0

    def receive_ready(self):
        """To be awaited at once: until something happens: bytes, the end, or the deadline. It may have happened."""
        if self._inbox or self.eof or self.expired or self.closed:
            return _AWAKE
        return self._sleep(INPUT)

    cdef object _sleep(self, int waits):
        """What this task awaits, at once, to be woken by `_wake`."""
        self._waits = waits
        self._task = _current_task()
        if self._sleeping is None:
            self._sleeping = Sleep.__new__(Sleep)
            self._sleeping._channel = self
            self._sleeping._trap = _wait_task_rescheduled(self._abort).send(None)
        return self._sleeping

    def _abort(self, raise_cancel):
        self._task = None
        self._waits = NOTHING
        self._feed = self._plain = None
        return _SUCCEEDED

    def wake(self):
        """Let the task that waits here look around, although nothing happened."""
        self._wake()

    cdef int _wake(self) except -1:
        task = self._task
        if task is not None:
            self._task = None
            self._waits = NOTHING
            self._reactor.woken += 1
            _reschedule(task, None)
        return 0

    cdef int _read(self, uint32_t happened) except -1:
        cdef ssize_t count = -2
        cdef char *data = self._reactor._room
        if self._caller and PyBytes_GET_SIZE(self._inbox) > self._read_ahead:
            # Who was woken for that will soon want the rest elsewhere; only where it takes longer, reading stops.
            if self._passed_by:
                self._reactor._arm(self, self._mask & ~EPOLLIN)
            self._passed_by = True
        elif self._mask & EPOLLIN:
            count = recv(self.fd, data, self._read_bytes, MSG_DONTWAIT)
        if count > 0:
            self.received_bytes += count
            if self._tls is not None:
                self._read_tls(PyBytes_FromStringAndSize(data, count))
            elif self._feed is not None:
                self._relay(data, count)
            else:
                self._deliver(PyBytes_FromStringAndSize(data, count))
        elif count == 0:
            return self._end(False)
        elif count == -1 and errno != EAGAIN and errno != EINTR:
            return self._end(True)
        if happened & (EPOLLRDHUP | EPOLLHUP | EPOLLERR) and not self.eof and (self._caller or count == -2):
            return self._end(bool(happened & EPOLLERR))
        return 0

    cdef int _read_tls(self, bytes data) except -1:
        cdef bytes plain
        if data:
            self._incoming.write(data)
        while not self.eof and not self.closed:
            try:
                plain = self._tls.read(READ_BYTES)
            except _WantRead:
                break
            except _SSLError:
                return self._end(True)
            if not plain:
                return self._end(False)
            self._deliver(plain)
            if not self._incoming.pending and not self._tls.pending():
                break
        if self._outgoing.pending and not self.closed:
            self._flush()
        return 0

    cdef int _deliver(self, bytes data) except -1:
        if self._feed is not None:
            return self._relay_elsewhere_read(data)
        self._inbox = self._inbox + data if self._inbox else data
        if self._waits == INPUT:
            self._wake()  # and what is there is taken at once
            return 0
        if PyBytes_GET_SIZE(self._inbox) > self._read_ahead:
            self._reactor._arm(self, self._mask & ~EPOLLIN)
        if self.on_gone is not None and self._task is None and not self._caller:
            self._reactor.woken += 1
            self.on_gone()  # bytes on a connection that nobody has asked anything
        return 0

    cdef int _end(self, bint broken) except -1:
        """The far side is done, or cannot be reached any more."""
        if not self.eof:
            self.eof = True
            self.broken = broken
            self._reactor._forget(self)
            self._reactor._unschedule(self)
        if self._task is not None and not (self._caller and self.on_gone is not None):
            self._wake()
        elif self.on_gone is not None:
            gone, self.on_gone = self.on_gone, None
            self._reactor.woken += 1
            gone()
        return 0

    # writing

    def write(self, bytes first not None, bytes second not None=b"", Py_ssize_t second_from=0):
        """Send both, or keep what does not fit (`queued_bytes`); an error is noticed by whoever reads.

        The second is sent from a place in it on, so that who has changed its beginning need not copy the rest.
        """
        cdef iovec parts[2]
        cdef msghdr message
        cdef ssize_t count
        cdef Py_ssize_t size = PyBytes_GET_SIZE(first)
        if not 0 <= second_from <= PyBytes_GET_SIZE(second):
            raise ValueError("got a place outside of the second")
        if self.eof or self.closed:
            return
        if self._tls is not None:
            self._enqueue(first, 0)
            self._enqueue(second, second_from)
            if not self._mask & EPOLLOUT:  # otherwise the socket is full
                self._flush_tls()
            return
        if self._queue:
            self._enqueue(first, 0)
            self._enqueue(second, second_from)
            return
        memset(&message, 0, sizeof(message))
        parts[0].iov_base = PyBytes_AS_STRING(first)
        parts[0].iov_len = size
        parts[1].iov_base = PyBytes_AS_STRING(second) + second_from
        parts[1].iov_len = PyBytes_GET_SIZE(second) - second_from
        message.msg_iov = parts
        message.msg_iovlen = 2 if parts[1].iov_len else 1
        count = sendmsg(self.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
        if count < 0:
            if errno != EAGAIN and errno != EINTR:
                self._end(True)
                return
            count = 0
        if count < size:
            self._enqueue(first, count)
            self._enqueue(second, second_from)
        else:
            self._enqueue(second, second_from + count - size)

    async def drain(self):
        """Wait until everything is sent, or the far side is gone."""
        while self.queued_bytes and not self.eof and not self.closed:
            await self._sleep(ROOM)

    cdef int _send_chunk(self, bytes data) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef char *room = self._reactor._room
        if size > ROOM_BYTES:
            self.write(b"%x\r\n" % size + data + b"\r\n")
            return 0
        memcpy(room, PyBytes_AS_STRING(data), size)
        return self._send_in_place(room, size)

    cdef int _send_in_place(self, char *data, Py_ssize_t size) except -1:
        """Send as one chunk what stands in the reactor's room; what is around it there is lost."""
        cdef char head[18]
        cdef int head_size = write_chunk_size(head, size)
        cdef ssize_t count
        if self.eof or self.closed:
            return 0
        memcpy(data + size, b"\r\n", 2)
        data -= head_size
        memcpy(data, head, head_size)
        size += head_size + 2
        if self._queue or self._tls is not None:
            self.write(PyBytes_FromStringAndSize(data, size))
            return 0
        count = send(self.fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT)
        if count < 0:
            if errno != EAGAIN and errno != EINTR:
                return self._end(True)
            count = 0
        if count < size:
            self._enqueue(PyBytes_FromStringAndSize(data + count, size - count), 0)
        return 0

    cdef int _enqueue(self, bytes data, Py_ssize_t offset) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data) - offset
        if size <= 0:
            return 0
        if not self._queue:
            self._queue = [data]
            self._offset = offset
            if self._stall_s < FOREVER:
                self._stall_bytes = 0
                self._stall_at_s = _now_s() + self._reactor._offset_s + self._stall_s
                self._reactor._schedule(self)
            if self._tls is None:
                self._reactor._arm(self, self._mask | EPOLLOUT)
        else:
            self._queue.append(data[offset:] if offset else data)  # only of the first a part can have been sent
        self.queued_bytes += size
        return 0

    cdef int _flush(self) except -1:
        """Send what is queued, as far as it goes."""
        cdef bytes data
        cdef ssize_t count
        cdef Py_ssize_t size
        if self._tls is not None:
            return self._flush_tls()
        while self._queue:
            data = <bytes>self._queue[0]
            size = PyBytes_GET_SIZE(data) - self._offset
            count = send(self.fd, PyBytes_AS_STRING(data) + self._offset, size, MSG_NOSIGNAL | MSG_DONTWAIT)
            if count < 0:
                if errno == EAGAIN or errno == EINTR:
                    return 0
                return self._end(True)
            self._sent(count)
            if count < size:
                self._offset += count
                return 0
            self._queue.pop(0)
            self._offset = 0
        return self._drained()

    cdef int _flush_tls(self) except -1:
        """As `_flush`: plain text is encrypted a slice at a time, so that a large body is not there twice."""
        cdef bytes data, sealed
        cdef ssize_t count
        cdef Py_ssize_t size
        while True:
            sealed = self._sealed
            if not sealed:
                if self._queue:
                    data = <bytes>self._queue[0]
                    size = min(PyBytes_GET_SIZE(data) - self._offset, TLS_SLICE_BYTES)
                    try:
                        self._tls.write(memoryview(data)[self._offset:self._offset + size])
                    except _SSLError:
                        return self._end(True)
                    self._offset += size
                    self.queued_bytes -= size
                    if self._offset == PyBytes_GET_SIZE(data):
                        self._queue.pop(0)
                        self._offset = 0
                sealed = self._outgoing.read() if self._outgoing.pending else b""
                if sealed and self._stream is not None:  # Trio keeps a server's session tickets for its first write
                    sealed = (self._stream._delayed_outgoing or b"") + sealed
                    self._stream._delayed_outgoing = None
                    self._stream = None
                if not sealed:
                    break
                self.queued_bytes += PyBytes_GET_SIZE(sealed)
            size = PyBytes_GET_SIZE(sealed)
            count = send(self.fd, PyBytes_AS_STRING(sealed), size, MSG_NOSIGNAL | MSG_DONTWAIT)
            if count < 0:
                if errno != EAGAIN and errno != EINTR:
                    return self._end(True)
                count = 0
            self._sent(count)
            self._sealed = sealed[count:] if count < size else b""
            if count < size:
                self._reactor._arm(self, self._mask | EPOLLOUT)
                return 0
        return self._drained()

    cdef int _sent(self, Py_ssize_t count) except -1:
        self.queued_bytes -= count
        if self._stall_s < FOREVER:
            self._stall_bytes += count
            if self._stall_bytes >= STALL_SLICE_BYTES:
                self._stall_bytes = 0
                self._stall_at_s = _now_s() + self._reactor._offset_s + self._stall_s
        return 0

    cdef int _drained(self) except -1:
        self._stall_at_s = FOREVER
        self._reactor._arm(self, self._mask & ~EPOLLOUT)
        if self._waits == ROOM:
            self._wake()
        if self._source is not None and not self._source.closed:
            self._reactor._arm(self._source, self._source._mask | EPOLLIN)
        return 0

    # relaying

    async def relay(self, Channel target not None, decoder, feed):
        """Pass on what is read here, as chunks, to `target`, until there is something to decide; then return.

        `decoder.feed` undoes the framing and says how much it took, `decoder.done` that the body has ended; `feed` (may
        be a `PlainFeed`) says what the caller gets for the bytes, or None when the task must look. Of that read,
        nothing has been passed on then. Raises what `decoder` raises.
        """
        cdef bytes data = self._inbox
        if self.eof or self.expired or self.closed or decoder.done:
            return
        self._decoder = decoder
        self._chunks = decoder if type(decoder) is ChunkedDecoder else None
        self._plain = feed if type(feed) is PlainFeed else None
        self._feed = feed if self._plain is None else self._plain._upstream.feed
        self._target = target
        target._source = self
        try:
            if data:
                self._inbox = b""
                self._reactor._polled_s = self._reactor.now_s()
                self._relay_elsewhere_read(data)
            if self._feed is None:
                return
            self._reactor._arm(self, self._mask & ~EPOLLIN if target.queued_bytes else self._mask | EPOLLIN)
            await self._sleep(INPUT)
        finally:
            failure, self._failure = self._failure, None
            self._feed = self._plain = self._decoder = self._chunks = self._target = None
            target._source = None
            self._reactor._arm(self, self._mask | EPOLLIN)
            if failure is not None:
                raise failure

    cdef int _relay_elsewhere_read(self, bytes data) except -1:
        """As `_relay`, in parts that have room."""
        cdef Py_ssize_t at = 0, length
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        while at < size and self._feed is not None:
            length = min(size - at, READ_BYTES)
            memcpy(self._reactor._room, PyBytes_AS_STRING(data) + at, length)
            at += length
            self._relay(self._reactor._room, length)
        if at < size:
            self._inbox += data[at:]
        return 0

    cdef int _relay(self, char *data, Py_ssize_t length) except -1:
        """Pass on what stands in the reactor's room, from where it stands if nothing but its framing has to change."""
        cdef Py_ssize_t taken
        cdef Py_ssize_t size = 0
        cdef char *body = NULL
        cdef bytes payload = None
        try:
            if self._chunks is not None:
                taken = self._chunks.feed_in_place(data, length, &body, &size)
            else:
                payload, taken = self._decoder.feed(PyBytes_FromStringAndSize(data, length))
                body, size = PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload)
        except SecureLLMError as error:
            self._failure = error
            return self._stop_relaying()
        if taken < length:
            self._inbox = PyBytes_FromStringAndSize(data + taken, length - taken)  # behind the end of the body
        if size:
            if self._plain is None or not self._plain.passes(body, size, self._reactor._polled_s):
                if payload is None:
                    payload = PyBytes_FromStringAndSize(body, size)
                payload = self._feed(payload, self._reactor._polled_s)
                if payload is None:
                    return self._stop_relaying()
                if payload:
                    self._target._send_chunk(payload)
            elif payload is None:
                self._target._send_in_place(body, size)
            else:
                self._target._send_chunk(payload)
            if self._target.queued_bytes:
                self._reactor._arm(self, self._mask & ~EPOLLIN)
        if self._chunks.is_done() if self._chunks is not None else self._decoder.done:
            self._stop_relaying()
        return 0

    cdef int _stop_relaying(self) except -1:
        self._feed = self._plain = None
        return self._wake()

    # deadlines and the end

    @property
    def deadline_s(self):
        """When the task that waits here is woken (`expired`), on Trio's clock."""
        return self._deadline_s

    @deadline_s.setter
    def deadline_s(self, double at_s):
        self._deadline_s = at_s
        self.expired = False
        if at_s < self._heap_at_s and not self.closed:
            self._reactor._schedule(self)

    def detach(self):
        """Leave the socket to somebody else; nothing may be unsent."""
        self._reactor._forget(self)
        self._reactor._unschedule(self)
        self.closed = True
        self.on_gone = None
        self._sleeping = None  # it holds this channel

    def shutdown(self):
        """Send FIN; what comes in is read on, and the far side may end without being gone."""
        self._caller = False
        self.on_gone = None
        try:
            if self._tls is None:
                self.socket.shutdown(_socket.SHUT_WR)
        except OSError:
            self._end(True)

    def close(self):
        """Close the socket at once; what is unsent is lost, and a task that waits here is woken."""
        if not self.closed:
            self.detach()
            self.socket.close()
            self._queue = None
            self.queued_bytes = 0
            self._wake()

    def abort(self):
        """As `close`, with a reset."""
        if not self.closed:
            try:
                self.socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _RESET)
            except OSError as error:
                if error.errno not in (_errno.EBADF, _errno.EINVAL):
                    raise
            self.close()
