# cython: boundscheck=False, wraparound=False, cdivision=True
"""The compiled twin of `gcra_py.py`, which is the definition: same names, same answers. May only be faster.

Numbers arrive as Python's, of any size, and are brought into 0 .. MAX_US before anything is done with them; from there
on no sum or difference leaves an int64, and the one product is taken in 128 bits. `Table` reads and writes its words
with atomic instructions, and whoever decides has put its number into the header's lock word by compare-and-exchange.
A worker that waits for it yields the processor; after a millisecond it asks whether the owner lives, and takes the
word over from a dead one, and after a quarter of a second from any: it is stopped. The GIL is held meanwhile, since a
decision takes less time than letting go of it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.dict cimport PyDict_DelItem, PyDict_GetItem, PyDict_SetItem
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.limits cimport LLONG_MAX
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from securellm._fast.gcra_py import (
    CONCURRENT,
    FORGOTTEN_WORD,
    GROUP,
    HEADER_WORDS,
    LOCK_WORD,
    MAX_US,
    MOST_DEBT,
    REQUESTS,
    ROW_WORDS,
    TOKENS,
    amount_back,
    table_bytes,
)

cdef extern from *:
    """
    #include <sched.h>
    #include <time.h>

    typedef __int128 wide_t;

    static inline uint64_t word_load(uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
    static inline void word_store(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
    static inline int word_exchange(uint64_t *word, uint64_t expected, uint64_t value) {
        return __atomic_compare_exchange_n(word, &expected, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    }
    static inline int64_t monotonic_us(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
    }
    """
    ctypedef long long wide_t
    uint64_t word_load(uint64_t *word) nogil
    void word_store(uint64_t *word, uint64_t value) nogil
    int word_exchange(uint64_t *word, uint64_t expected, uint64_t value) nogil
    int64_t monotonic_us() nogil
    int sched_yield() nogil

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object value, int *overflow) except? -1

__all__ = [
    "CONCURRENT", "FORGOTTEN_WORD", "GROUP", "HEADER_WORDS", "IMPLEMENTATION", "LOCK_WORD", "MAX_US", "MOST_DEBT",
    "REQUESTS", "ROW_WORDS", "TOKENS", "Table", "amount_back", "charge", "cost_of", "give_back", "give_back_all",
    "returned_of", "table_bytes", "take", "take_all",
]

IMPLEMENTATION = "compiled"

cdef enum:
    C_REQUESTS = 0
    C_CONCURRENT = 2
    C_MOST_DEBT = 60
    C_HEADER_WORDS = 512
    C_LOCK_WORD = 8
    C_FORGOTTEN_WORD = 9
    C_GROUP = 16
    C_ROW_WORDS = 3
    BRIEF_TRIES = 200
    ASK_AFTER_US = 1000
    TAKE_AFTER_US = 250000

cdef int64_t TOP_US = (<int64_t>1 << 53) - 1

if (CONCURRENT, REQUESTS, HEADER_WORDS, LOCK_WORD, FORGOTTEN_WORD, GROUP, ROW_WORDS, MAX_US, MOST_DEBT) != (
    C_CONCURRENT, C_REQUESTS, C_HEADER_WORDS, C_LOCK_WORD, C_FORGOTTEN_WORD, C_GROUP, C_ROW_WORDS, TOP_US, C_MOST_DEBT
):
    raise ImportError("the twins of gcra do not agree on their constants")


cdef inline int64_t _us(object value) except -1:
    """The number, brought into 0 .. MAX_US."""
    cdef int overflow = 0
    cdef long long found = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow:
        return 0 if overflow < 0 else TOP_US
    if found < 0:
        return 0
    return found if found < TOP_US else TOP_US


cdef inline int64_t _take(int64_t tat_us, int64_t now_us, int64_t cost_us, int64_t capacity_us) noexcept:
    cdef int64_t base_us = tat_us if tat_us > now_us else now_us
    cdef int64_t room_us = capacity_us - (base_us - now_us)
    if cost_us > room_us:
        return -min(cost_us - room_us, TOP_US)
    if cost_us > TOP_US - base_us:
        return -TOP_US
    return base_us + cost_us


cdef inline int64_t _charge(int64_t tat_us, int64_t now_us, int64_t cost_us) noexcept:
    return min(max(tat_us, now_us) + cost_us, TOP_US)


cdef inline int64_t _give_back(int64_t tat_us, int64_t now_us, int64_t cost_us, int64_t until_us) noexcept:
    cdef int64_t left_us = max(until_us - now_us, <int64_t>0)
    return max(tat_us - min(cost_us, left_us), <int64_t>0)


cdef inline int64_t _cost_of(int64_t amount, int64_t limit, int64_t period_us) noexcept:
    cdef wide_t whole = <wide_t>amount * period_us
    if limit < 1:
        limit = 1
    whole += limit - 1
    if whole <= <wide_t>LLONG_MAX:  # as it nearly always is: far cheaper
        return min(<int64_t>whole / limit, TOP_US)
    whole = whole / limit
    return <int64_t>whole if whole < <wide_t>TOP_US else TOP_US


cdef inline int64_t _returned_of(int64_t amount, int64_t limit, int64_t period_us) noexcept:
    cdef wide_t whole = <wide_t>amount * period_us / (limit if limit > 1 else 1)
    return <int64_t>whole if whole < <wide_t>TOP_US else TOP_US


def take(tat_us, now_us, cost_us, capacity_us):
    """The new TAT when the cost is granted; when it is refused, the negative of the time until it fits."""
    return _take(_us(tat_us), _us(now_us), _us(cost_us), _us(capacity_us))


def charge(tat_us, now_us, cost_us):
    """The new TAT when the cost is taken whatever the bucket holds: it may go into debt."""
    return _charge(_us(tat_us), _us(now_us), _us(cost_us))


def give_back(tat_us, now_us, cost_us, until_us):
    """The new TAT when a cost comes back from a grant that had made the TAT `until_us`."""
    return _give_back(_us(tat_us), _us(now_us), _us(cost_us), _us(until_us))


def cost_of(amount, limit, period_us):
    """What `amount` costs where `limit` are granted in `period_us`, rounded up."""
    return _cost_of(_us(amount), _us(limit), _us(period_us))


def returned_of(amount, limit, period_us):
    """What `amount` gives back where `limit` are granted in `period_us`, rounded down."""
    return _returned_of(_us(amount), _us(limit), _us(period_us))


cdef struct Asked:
    long measure
    PyObject *bucket
    int64_t capacity
    int64_t cost_us


cdef inline tuple _cell(object given):
    cdef tuple cell = <tuple>given if isinstance(given, tuple) else ()
    if PyTuple_GET_SIZE(cell) < 6:
        raise TypeError("expected a cell: measure, bucket, capacity, cost, limit, period")
    return cell


cdef inline int _read(object given, int64_t tokens, Asked *asked) except -1:
    """A cell's fields, by their places."""
    cdef tuple cell = _cell(given)
    asked.measure = <object>PyTuple_GET_ITEM(cell, 0)
    asked.bucket = PyTuple_GET_ITEM(cell, 1)
    asked.capacity = _us(<object>PyTuple_GET_ITEM(cell, 2))
    if asked.measure == C_REQUESTS:
        asked.cost_us = _us(<object>PyTuple_GET_ITEM(cell, 3))
    elif asked.measure != C_CONCURRENT:
        asked.cost_us = _cost_of(tokens, _us(<object>PyTuple_GET_ITEM(cell, 4)), _us(<object>PyTuple_GET_ITEM(cell, 5)))
    return 0


def take_all(dict tats_us not None, dict counts not None, tuple cells not None, tokens, now_us):
    """Grant all cells and return what the buckets are at, TATs and counts of CONCURRENT; or none, and return None."""
    cdef int64_t now = _us(now_us)
    cdef int64_t asked_tokens = _us(tokens)
    cdef int64_t level
    cdef Py_ssize_t place
    cdef Asked asked
    cdef PyObject *found
    cdef list levels = []
    for cell in cells:
        _read(cell, asked_tokens, &asked)
        if asked.measure == C_CONCURRENT:
            found = PyDict_GetItem(counts, <object>asked.bucket)
            level = (_us(<object>found) if found is not NULL else 0) + 1
            if level > asked.capacity:
                return None
        else:
            found = PyDict_GetItem(tats_us, <object>asked.bucket)
            level = _take(_us(<object>found) if found is not NULL else 0, now, asked.cost_us, asked.capacity)
            if level < 0:
                return None
        levels.append(level)
    for place in range(PyList_GET_SIZE(levels)):
        found = PyTuple_GET_ITEM(cells, place)  # which was read above
        kept = counts if <long><object>PyTuple_GET_ITEM(<object>found, 0) == C_CONCURRENT else tats_us
        PyDict_SetItem(kept, <object>PyTuple_GET_ITEM(<object>found, 1), <object>PyList_GET_ITEM(levels, place))
    return tuple(levels)


cdef struct Back:
    PyObject *bucket
    bint is_count
    int64_t charged_us  # what is taken more
    int64_t returned_us
    int64_t level


cdef struct Unused:
    int64_t tokens
    int64_t over_tokens  # were used and not taken
    bint requests


cdef inline int _read_unused(object tokens, object requests, Unused *unused) except -1:
    unused.tokens = _us(tokens)
    unused.over_tokens = _us(-tokens) if unused.tokens == 0 else 0
    unused.requests = requests
    return 0


cdef inline int _check_pairs(tuple cells, tuple levels) except -1:
    if PyTuple_GET_SIZE(cells) != PyTuple_GET_SIZE(levels):
        raise ValueError("expected a level for each cell")
    return 0


cdef inline int _read_back(tuple cells, tuple levels, Py_ssize_t place, Unused *unused, Back *back) except -1:
    """What comes back to a cell's bucket."""
    cdef tuple cell = _cell(<object>PyTuple_GET_ITEM(cells, place))
    cdef long measure = <object>PyTuple_GET_ITEM(cell, 0)
    cdef int64_t limit, period_us, amount
    back.bucket = PyTuple_GET_ITEM(cell, 1)
    back.is_count = measure == C_CONCURRENT
    back.charged_us = back.returned_us = back.level = 0
    if back.is_count or (measure == C_REQUESTS and not unused.requests):
        return 0
    limit = _us(<object>PyTuple_GET_ITEM(cell, 4))
    period_us = _us(<object>PyTuple_GET_ITEM(cell, 5))
    amount = 1 if measure == C_REQUESTS else unused.tokens
    if amount:
        back.level = _us(<object>PyTuple_GET_ITEM(levels, place))
        back.returned_us = _returned_of(amount, limit, period_us)
    elif unused.over_tokens:
        back.charged_us = _cost_of(min(unused.over_tokens, limit * C_MOST_DEBT, TOP_US), limit, period_us)
    return 0


def give_back_all(
    dict tats_us not None, dict counts not None, tuple cells not None, tuple levels not None, tokens, now_us, requests
):
    """Return to the buckets that `take_all` left at `levels`: `tokens`, the count of CONCURRENT, `requests` if told."""
    cdef int64_t now = _us(now_us)
    cdef int64_t level
    cdef Py_ssize_t place
    cdef Unused unused
    cdef Back back
    cdef PyObject *found
    _read_unused(tokens, requests, &unused)
    _check_pairs(cells, levels)
    for place in range(PyTuple_GET_SIZE(cells)):
        _read_back(cells, levels, place, &unused, &back)
        if back.is_count:
            found = PyDict_GetItem(counts, <object>back.bucket)
            if found is not NULL:
                level = _us(<object>found) - 1
                if level > 0:
                    PyDict_SetItem(counts, <object>back.bucket, level)
                else:
                    PyDict_DelItem(counts, <object>back.bucket)
        elif back.charged_us:
            found = PyDict_GetItem(tats_us, <object>back.bucket)
            level = _charge(_us(<object>found) if found is not NULL else 0, now, back.charged_us)
            PyDict_SetItem(tats_us, <object>back.bucket, level)
        elif back.returned_us:
            found = PyDict_GetItem(tats_us, <object>back.bucket)
            if found is not NULL:
                level = _give_back(_us(<object>found), now, back.returned_us, back.level)
                PyDict_SetItem(tats_us, <object>back.bucket, level)


cdef class Table:
    """Buckets in memory that `workers` processes share; this one is `worker`, from 1."""

    cdef Py_buffer _buffer
    cdef bint _open
    cdef uint64_t *_words
    cdef Py_ssize_t _length
    cdef Py_ssize_t _groups
    cdef Py_ssize_t _count_groups
    cdef Py_ssize_t _counts_at
    cdef Py_ssize_t _count_words
    cdef Py_ssize_t _own
    cdef uint64_t _worker
    cdef object _is_alive

    def __cinit__(
        self, memory, Py_ssize_t rows, Py_ssize_t count_rows, Py_ssize_t workers, Py_ssize_t worker, acquire, release,
        is_alive
    ):
        PyObject_GetBuffer(memory, &self._buffer, PyBUF_SIMPLE | PyBUF_WRITABLE)
        self._open = True
        self._words = <uint64_t *>self._buffer.buf
        self._groups = rows // C_GROUP
        self._count_groups = count_rows // C_GROUP
        self._counts_at = C_HEADER_WORDS + rows * C_ROW_WORDS
        self._count_words = 2 + workers
        self._length = self._counts_at + count_rows * self._count_words
        self._own = 1 + worker
        self._worker = worker
        self._is_alive = is_alive
        if self._buffer.len < self._length * 8 or not 1 <= worker <= workers or rows < C_GROUP or count_rows < C_GROUP:
            raise ValueError("the memory does not hold such a table")

    def __dealloc__(self):
        self.close()

    def close(self):
        """Let go of the memory."""
        if self._open:
            self._open = False
            PyBuffer_Release(&self._buffer)

    def take(self, tuple cells not None, tokens, now_us):
        """Grant all and return what the buckets are at, as `take_all`; else a list of what they were and are at."""
        cdef int64_t now = _us(now_us)
        cdef int64_t asked_tokens = _us(tokens)
        cdef int64_t level
        cdef Py_ssize_t place
        cdef Asked asked
        cdef list before = []
        cdef list levels = []
        cdef bint granted = True
        self._acquire()
        try:
            for cell in cells:
                _read(cell, asked_tokens, &asked)
                level = self._level(&asked)
                before.append(level)
                if granted:
                    if asked.measure == C_CONCURRENT:
                        level = level + 1
                        granted = level <= asked.capacity
                    else:
                        level = _take(level, now, asked.cost_us, asked.capacity)
                        granted = level >= 0
                    levels.append(level)
            if not granted:
                return before
            for place in range(PyList_GET_SIZE(levels)):
                _read(<object>PyTuple_GET_ITEM(cells, place), asked_tokens, &asked)
                if asked.measure == C_CONCURRENT:
                    self._enter(<object>asked.bucket)
                else:
                    self._write(<object>asked.bucket, _us(<object>PyList_GET_ITEM(levels, place)), now)
        finally:
            self._release()
        return tuple(levels)

    def levels(self, tuple cells not None):
        """What the buckets are at."""
        cdef Asked asked
        cdef list levels = []
        self._acquire()
        try:
            for cell in cells:
                _read(cell, 0, &asked)
                levels.append(self._level(&asked))
        finally:
            self._release()
        return levels

    def give_back(self, tuple cells not None, tuple levels not None, tokens, now_us, requests):
        """As `give_back_all`; of a count only what this worker holds."""
        cdef int64_t now = _us(now_us)
        cdef Py_ssize_t at, place
        cdef uint64_t held
        cdef uint64_t *tat_us
        cdef Unused unused
        cdef Back back
        _read_unused(tokens, requests, &unused)
        _check_pairs(cells, levels)
        self._acquire()
        try:
            for place in range(PyTuple_GET_SIZE(cells)):
                _read_back(cells, levels, place, &unused, &back)
                if back.is_count:
                    at = self._find_count(<object>back.bucket)
                    held = word_load(&self._words[at + self._own]) if at else 0
                    if held:
                        word_store(&self._words[at + self._own], held - 1)
                elif back.charged_us:
                    self._write(
                        <object>back.bucket, _charge(self._tat_us(<object>back.bucket), now, back.charged_us), now
                    )
                elif back.returned_us:
                    at = self._find(<object>back.bucket)
                    if at:
                        tat_us = &self._words[at + 2]
                        word_store(tat_us, _give_back(<int64_t>word_load(tat_us), now, back.returned_us, back.level))
        finally:
            self._release()

    def forget_worker(self, Py_ssize_t worker):
        """Give back whatever a worker holds of any count: it is dead, or has just begun."""
        cdef Py_ssize_t at
        if not 1 <= worker <= self._count_words - 2:
            raise ValueError("no such worker")
        self._acquire()
        try:
            for at in range(self._counts_at, self._length, self._count_words):
                if self._words[at + 1 + worker]:
                    word_store(&self._words[at + 1 + worker], 0)
        finally:
            self._release()

    def used(self, now_us):
        """How many rows are in use. Looks at every one."""
        cdef int64_t now = _us(now_us)
        cdef Py_ssize_t at
        cdef Py_ssize_t found = 0
        self._check()
        for at in range(C_HEADER_WORDS, self._counts_at, C_ROW_WORDS):
            found += <int64_t>word_load(&self._words[at + 2]) > now
        for at in range(self._counts_at, self._length, self._count_words):
            found += self._count(at) > 0
        return found

    @property
    def forgotten(self):
        """How many buckets lost their row before they were full, or had to go without one."""
        self._check()
        return word_load(&self._words[C_FORGOTTEN_WORD])

    cdef int _check(self) except -1:
        if not self._open:
            raise ValueError("the table is closed")
        return 0

    cdef int _acquire(self) except -1:
        self._check()
        if not word_exchange(&self._words[C_LOCK_WORD], 0, self._worker):
            self._wait()
        return 0

    cdef int _wait(self) except -1:
        """Another worker decides: wait for it, or take over from it."""
        cdef uint64_t *lock = &self._words[C_LOCK_WORD]
        cdef uint64_t owner
        cdef uint64_t last_owner = 0
        cdef int64_t now_us
        cdef int64_t since_us = 0
        cdef int64_t asked_us = 0
        cdef unsigned int tries = 0
        while True:
            owner = word_load(lock)
            if owner == 0 or owner == self._worker:  # it is ours where we are in the place of one that was killed
                if word_exchange(lock, owner, self._worker):
                    return 0
                continue
            tries += 1
            if tries % BRIEF_TRIES:
                sched_yield()
                continue
            now_us = monotonic_us()
            if owner != last_owner:
                last_owner = owner
                since_us = asked_us = now_us
            elif now_us - since_us >= TAKE_AFTER_US:
                if word_exchange(lock, owner, self._worker):
                    return 0
            elif now_us - asked_us >= ASK_AFTER_US:
                asked_us = now_us
                if not self._is_alive(owner) and word_exchange(lock, owner, self._worker):
                    return 0

    cdef void _release(self) noexcept:
        # Where another has taken it over from us, it stays that one's.
        word_exchange(&self._words[C_LOCK_WORD], self._worker, 0)

    cdef int64_t _level(self, Asked *asked) except -1:
        cdef Py_ssize_t at
        if asked.measure != C_CONCURRENT:
            return self._tat_us(<object>asked.bucket)
        at = self._find_count(<object>asked.bucket)
        return self._count(at) if at else 0

    cdef int64_t _count(self, Py_ssize_t at) noexcept:
        cdef Py_ssize_t place
        cdef int64_t count = 0
        for place in range(at + 2, at + self._count_words):
            count += <int64_t>word_load(&self._words[place])
        return count

    cdef int64_t _tat_us(self, object bucket) except -1:
        cdef Py_ssize_t at = self._find(bucket)
        return min(<int64_t>word_load(&self._words[at + 2]), TOP_US) if at else 0

    cdef int _halves(self, object bucket, uint64_t *halves) except -1:
        if not isinstance(bucket, bytes) or PyBytes_GET_SIZE(bucket) != 16:
            raise ValueError("a bucket's name has 16 bytes")
        memcpy(halves, PyBytes_AS_STRING(bucket), 16)
        return 0

    cdef Py_ssize_t _find(self, object bucket) except -1:
        cdef uint64_t halves[2]
        cdef Py_ssize_t at, start
        self._halves(bucket, halves)
        start = C_HEADER_WORDS + <Py_ssize_t>(halves[0] % <uint64_t>self._groups) * C_GROUP * C_ROW_WORDS
        for at in range(start, start + C_GROUP * C_ROW_WORDS, C_ROW_WORDS):
            if self._words[at] == halves[0] and self._words[at + 1] == halves[1]:
                return at
        return 0

    cdef Py_ssize_t _find_count(self, object bucket) except -1:
        cdef uint64_t halves[2]
        cdef Py_ssize_t at, start
        self._halves(bucket, halves)
        start = self._count_start(halves[0])
        for at in range(start, start + C_GROUP * self._count_words, self._count_words):
            if self._words[at] == halves[0] and self._words[at + 1] == halves[1]:
                return at
        return 0

    cdef Py_ssize_t _count_start(self, uint64_t low) noexcept:
        return self._counts_at + <Py_ssize_t>(low % <uint64_t>self._count_groups) * C_GROUP * self._count_words

    cdef int _write(self, object bucket, int64_t tat_us, int64_t now_us) except -1:
        """Keep the TAT, in a row that is free or else that of the bucket which is nearest to full."""
        cdef uint64_t halves[2]
        cdef Py_ssize_t other, start
        cdef Py_ssize_t at = self._find(bucket)
        if not at:
            self._halves(bucket, halves)
            start = C_HEADER_WORDS + <Py_ssize_t>(halves[0] % <uint64_t>self._groups) * C_GROUP * C_ROW_WORDS
            at = start
            for other in range(start, start + C_GROUP * C_ROW_WORDS, C_ROW_WORDS):
                if self._words[other + 2] < self._words[at + 2]:
                    at = other
            if <int64_t>self._words[at + 2] > now_us:
                word_store(&self._words[C_FORGOTTEN_WORD], self._words[C_FORGOTTEN_WORD] + 1)
            word_store(&self._words[at + 2], 0)
            word_store(&self._words[at], halves[0])
            word_store(&self._words[at + 1], halves[1])
        word_store(&self._words[at + 2], <uint64_t>tat_us)
        return 0

    cdef int _enter(self, object bucket) except -1:
        """One more of what this worker holds; where no row is free it goes without."""
        cdef uint64_t halves[2]
        cdef Py_ssize_t other, start
        cdef Py_ssize_t at = self._find_count(bucket)
        if not at:
            self._halves(bucket, halves)
            start = self._count_start(halves[0])
            for other in range(start, start + C_GROUP * self._count_words, self._count_words):
                if self._count(other) == 0:
                    word_store(&self._words[other], halves[0])
                    word_store(&self._words[other + 1], halves[1])
                    at = other
                    break
        if not at:
            word_store(&self._words[C_FORGOTTEN_WORD], self._words[C_FORGOTTEN_WORD] + 1)
            return 0
        word_store(&self._words[at + self._own], word_load(&self._words[at + self._own]) + 1)
        return 0
