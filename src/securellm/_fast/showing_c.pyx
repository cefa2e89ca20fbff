# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The compiled twin of showing_py: one pass over what was taken, and no objects but the headers.

Numbers that leave an int64, periods that no rate has, and levels of other buckets are left to the definition.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE

from securellm._fast.showing_py import CONCURRENT, REQUESTS, TOKENS
from securellm._fast.showing_py import headers_after as _defined

cdef extern from *:
    """
    typedef __int128 wide_t;
    """
    ctypedef long long wide_t

cdef enum:
    C_REQUESTS = 0
    C_TOKENS = 1
    C_CONCURRENT = 2
    # The places in a `limits.quota.Demand`.
    MEASURE = 0
    CAPACITY = 2
    LIMIT = 4
    PERIOD_US = 5
    QUOTA = 6

if (REQUESTS, TOKENS, CONCURRENT) != (C_REQUESTS, C_TOKENS, C_CONCURRENT):
    raise ImportError("the twins of showing do not agree on their constants")

cdef struct Standing:
    bint known
    long long remaining
    long long limit
    long long reset_us


cdef inline bint _is_tighter(Standing *shown, Standing *tightest) noexcept:
    """As tuples compare."""
    if not tightest.known:
        return True
    if shown.remaining != tightest.remaining:
        return shown.remaining < tightest.remaining
    if shown.limit != tightest.limit:
        return shown.limit < tightest.limit
    return shown.reset_us < tightest.reset_us


cdef inline int _fill(Standing *shown, tuple demand, long long level, long long now_us) except -1:
    """How the bucket stands: `remaining` and `reset_us` of `limits.quota.Quota`. -1 also for what no rate has."""
    cdef long long room_us = <object>PyTuple_GET_ITEM(demand, CAPACITY)
    cdef long long period_us = <object>PyTuple_GET_ITEM(demand, PERIOD_US)
    cdef long long burst = (<object>PyTuple_GET_ITEM(demand, QUOTA)).burst
    cdef wide_t remaining
    shown.known = True
    shown.limit = <object>PyTuple_GET_ITEM(demand, LIMIT)
    if period_us <= 0 or shown.limit < 0 or burst < 0 or level < 0 or now_us < 0:
        raise OverflowError
    shown.reset_us = level - now_us if level > now_us else 0
    room_us -= shown.reset_us
    shown.remaining = 0
    if room_us > 0:
        remaining = <wide_t>room_us * shown.limit / period_us
        shown.remaining = <long long>remaining if remaining < burst else burst
    return 0


cdef inline char *_digits(char *end, long long number, int least) noexcept:
    """Write a number that is not negative so that it ends before `end`, with zeros in front; where it begins."""
    while number or least > 0:
        end -= 1
        end[0] = <char>(c"0" + number % 10)
        number /= 10
        least -= 1
    return end


cdef inline bytes _number(long long number):
    cdef char text[24]
    cdef char *end = text + 24
    cdef char *start = _digits(end, number, 1)
    return PyBytes_FromStringAndSize(start, end - start)


cdef inline bytes _duration(long long duration_us):
    """As Go prints it, in milliseconds, rounded up; written from behind."""
    cdef char text[40]
    cdef char *end = text + 40
    cdef char *start = end - 1
    cdef long long left = duration_us / 1000 + (duration_us % 1000 > 0)
    cdef int fraction = left % 1000
    cdef int places = 3
    if left == 0:
        return b"0s"
    start[0] = c"s"
    if left < 1000:
        start -= 1
        start[0] = c"m"
        start = _digits(start, left, 1)
        return PyBytes_FromStringAndSize(start, end - start)
    if fraction:
        while fraction % 10 == 0:
            fraction /= 10
            places -= 1
        start = _digits(start, fraction, places) - 1
        start[0] = c"."
    left /= 1000
    start = _digits(start, left % 60, 1)
    left /= 60
    if left:
        start -= 1
        start[0] = c"m"
        start = _digits(start, left % 60, 1)
        left /= 60
        if left:
            start -= 1
            start[0] = c"h"
            start = _digits(start, left, 1)
    return PyBytes_FromStringAndSize(start, end - start)


cdef list _headers(object taken):
    cdef Standing requests
    cdef Standing tokens
    cdef Standing shown
    cdef tuple demands, levels, demand
    cdef list headers = []
    cdef long long now_us
    cdef Py_ssize_t place
    cdef int measure
    requests = tokens = Standing(False, 0, 0, 0)
    for one in taken:
        demands, levels, _, now_us = one
        if PyTuple_GET_SIZE(demands) != PyTuple_GET_SIZE(levels):
            raise OverflowError
        for place in range(PyTuple_GET_SIZE(demands)):
            demand = <tuple>PyTuple_GET_ITEM(demands, place)
            measure = <object>PyTuple_GET_ITEM(demand, MEASURE)
            if measure == C_CONCURRENT:
                continue
            _fill(&shown, demand, <object>PyTuple_GET_ITEM(levels, place), now_us)
            if measure == C_REQUESTS:
                if _is_tighter(&shown, &requests):
                    requests = shown
            elif _is_tighter(&shown, &tokens):
                tokens = shown
    if requests.known:
        headers.append((b"x-ratelimit-limit-requests", _number(requests.limit)))
        headers.append((b"x-ratelimit-remaining-requests", _number(requests.remaining)))
        headers.append((b"x-ratelimit-reset-requests", _duration(requests.reset_us)))
    if tokens.known:
        headers.append((b"x-ratelimit-limit-tokens", _number(tokens.limit)))
        headers.append((b"x-ratelimit-remaining-tokens", _number(tokens.remaining)))
        headers.append((b"x-ratelimit-reset-tokens", _duration(tokens.reset_us)))
    return headers


def headers_after(taken):
    """See showing_py."""
    try:
        return _headers(taken)
    except OverflowError:
        return _defined(taken)
