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

As an instrument, the reactor is called when Trio is about to wait, and waits itself: its epoll has Trio's in it. A
chunk that is passed on then costs no turn of Trio's loop, which would be several times the chunk, and a request no turn
of a task that watches sockets. It gives way when Trio has anything to do, when a task was woken, and when Trio would
have stopped waiting; Trio's own wait is then made to end at once. Trio's epoll is private to it: where it is not found,
and where another reactor has that place, a task of Trio's waits for the sockets.

There is no pure twin: what this does slower is the reference lane. An error in here is a defect; it ends the task that
runs the reactor, and with it the process.

This file is longer than others, because reactor and channel call each other within every read and write: in two
extensions each of these calls would go through a table of the other's, and their declarations would be there twice.
"""

import errno as _errno
import math
import socket as _socket
import ssl
import struct

import trio

from securellm.errors import SecureLLMError

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.math cimport ceil
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, itimerspec, timespec
from posix.unistd cimport close as c_close
from posix.unistd cimport read as c_read

from securellm._fast.http1_c cimport write_chunk_size
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
cdef char _buffer[SEALED_REQUEST_BYTES]
cdef char _frame[READ_BYTES + 64]
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
        self._trio = None if self._as_task else _trio_to_stand_in_for()
        if self._trio is None:
            while True:
                await _wait_readable(self._epoll)
                if self._poll(0) > MANY:
                    self._poll(0)
        self._watch_trio(self._trio.io_manager._epoll.fileno())
        trio.lowlevel.add_instrument(self)
        try:
            with trio.CancelScope() as self._scope:
                await trio.sleep_forever()
            if self._failure is not None:
                raise self._failure
        finally:
            trio.lowlevel.remove_instrument(self)
            epoll_ctl(self._epoll, EPOLL_CTL_DEL, self._trio_fd, NULL)
            self._trio = None

    cdef int _watch_trio(self, int fd) except -1:
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.ptr = <void *>self
        if epoll_ctl(self._epoll, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, "Trio's epoll cannot be watched")
        self._trio_fd = fd
        return 0

    def before_io_wait(self, double timeout_s):
        """Trio is about to wait for so long, or only to look: do so in its place."""
        try:
            if self._is_last():
                self._wait(timeout_s)
            else:  # others want to hear of the end of a turn before the waiting, as the audit log does
                trio.lowlevel.remove_instrument(self)
                trio.lowlevel.add_instrument(self)
                self._trio.io_manager.force_wakeup()
        except BaseException as error:  # Trio would drop the instrument and go on
            self._failure = error
            self._scope.cancel()
            self._trio.io_manager.force_wakeup()

    cdef bint _is_last(self) except -1:
        """Whether no instrument is called behind this one."""
        for instrument in reversed(self._trio.instruments["before_io_wait"]):
            return instrument is self

    cdef int _wait(self, double timeout_s) except -1:
        cdef int64_t woken = self.woken
        cdef double end_s = _now_s() + timeout_s
        cdef int wait_ms = <int>ceil(timeout_s * 1000)
        self._trio_has_something = False
        while True:
            if self._poll(wait_ms) > MANY and self.woken != woken:
                self._poll(0)
            if wait_ms == 0 or self._trio_has_something:
                return 0  # Trio's own look will end at once
            if self.woken != woken:
                break
            timeout_s = end_s - _now_s()
            if timeout_s <= 0:
                if self._trio.waiting_for_idle or self._trio.clock_autojump_threshold < FOREVER:
                    return 0  # it has to see for itself that nothing happens (in tests)
                break
            wait_ms = <int>ceil(timeout_s * 1000)
        self._trio.io_manager.force_wakeup()  # it would wait for the whole of its time now
        return 0

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
        # References first: what one channel does may close another.
        batch = []
        for index in range(count):
            if events[index].data.ptr == NULL:
                timer = True
                batch.append(None)
            elif events[index].data.ptr == <void *>self:
                self._trio_has_something = True
                batch.append(None)
            else:
                batch.append(<Channel>events[index].data.ptr)
        for index in range(count):
            if batch[index] is None:
                continue
            channel = <Channel>batch[index]
            happened = events[index].events
            if happened & EPOLLOUT and not channel.closed:
                channel._flush()
            if happened & ~EPOLLOUT and not channel.closed:
                channel._read(happened)
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


cdef object _trio_to_stand_in_for():
    """What runs Trio here; None where it is not as we know it, or where another reactor stands in for it."""
    try:
        runner = trio._core._run.GLOBAL_RUN_CONTEXT.runner
        runner.io_manager._epoll.fileno()
        runner.io_manager.force_wakeup
        runner.waiting_for_idle, runner.clock_autojump_threshold
        instruments = runner.instruments.get("before_io_wait", ())
    except AttributeError:
        return None
    return None if any(isinstance(instrument, Reactor) for instrument in instruments) else runner


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
        return self.take(data, now_s)

    cdef bytes take(self, bytes data, double now_s):
        cdef Said said
        cdef long long output_bytes
        if not self._scanner.passes(data, &said) or said.sequence_number >= 0:
            return self._upstream.feed(data, now_s)
        if said.semantic_events:
            output_bytes = <long long>self._meter.output_bytes + said.output_bytes
            if output_bytes > self._most_output_bytes:
                return self._upstream.feed(data, now_s)  # which refuses it
            self._meter.output_bytes = output_bytes
            self._meter.semantic_events += said.semantic_events
            self._upstream.idle_deadline_s = now_s + self._idle_s
        elif said.output_bytes:
            return self._upstream.feed(data, now_s)
        self._permit.bytes_out += PyBytes_GET_SIZE(data)
        return data


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
        self._feed = None
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
        if self._caller and PyBytes_GET_SIZE(self._inbox) > self._read_ahead:
            # Who was woken for that will soon want the rest elsewhere; only where it takes longer, reading stops.
            if self._passed_by:
                self._reactor._arm(self, self._mask & ~EPOLLIN)
            self._passed_by = True
        elif self._mask & EPOLLIN:
            count = recv(self.fd, _buffer, self._read_bytes, MSG_DONTWAIT)
        if count > 0:
            self.received_bytes += count
            if self._tls is None:
                self._deliver(PyBytes_FromStringAndSize(_buffer, count))
            else:
                self._read_tls(PyBytes_FromStringAndSize(_buffer, count))
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
            return self._relay(data)
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

    def write_chunk(self, bytes data not None):
        """Send as one chunk of a chunked body."""
        if data:
            self._send_frame(data)

    async def drain(self):
        """Wait until everything is sent, or the far side is gone."""
        while self.queued_bytes and not self.eof and not self.closed:
            await self._sleep(ROOM)

    cdef int _send_frame(self, bytes data) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef int head
        cdef ssize_t count
        if self.eof or self.closed:
            return 0
        if size > READ_BYTES or self._queue or self._tls is not None:
            self.write(b"%x\r\n" % size + data + b"\r\n")
            return 0
        head = write_chunk_size(_frame, size)
        memcpy(_frame + head, PyBytes_AS_STRING(data), size)
        _frame[head + size] = b"\r"
        _frame[head + size + 1] = b"\n"
        size += head + 2
        count = send(self.fd, _frame, size, MSG_NOSIGNAL | MSG_DONTWAIT)
        if count < 0:
            if errno != EAGAIN and errno != EINTR:
                return self._end(True)
            count = 0
        if count < size:
            self._enqueue(PyBytes_FromStringAndSize(_frame + count, size - count), 0)
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
        self._feed = feed
        self._target = target
        target._source = self
        try:
            if data:
                self._inbox = b""
                self._reactor._polled_s = self._reactor.now_s()
                self._relay(data)
            if self._feed is None:
                return
            self._reactor._arm(self, self._mask & ~EPOLLIN if target.queued_bytes else self._mask | EPOLLIN)
            await self._sleep(INPUT)
        finally:
            failure, self._failure = self._failure, None
            self._feed = self._decoder = self._target = None
            target._source = None
            self._reactor._arm(self, self._mask | EPOLLIN)
            if failure is not None:
                raise failure

    cdef int _relay(self, bytes data) except -1:
        cdef Py_ssize_t end
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        try:
            payload, end = self._decoder.feed(data)
        except SecureLLMError as error:
            self._failure = error
            self._feed = None
            return self._wake()
        if end < size:
            self._inbox = data[end:]  # behind the end of the body
        if payload:
            if type(self._feed) is PlainFeed:
                data = (<PlainFeed>self._feed).take(payload, self._reactor._polled_s)
            else:
                data = self._feed(payload, self._reactor._polled_s)
            if data is None:
                self._feed = None
                return self._wake()
            if data:
                self._target._send_frame(data)
                if self._target.queued_bytes:
                    self._reactor._arm(self, self._mask & ~EPOLLIN)
        if self._decoder.done:
            self._feed = None
            self._wake()
        return 0

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
