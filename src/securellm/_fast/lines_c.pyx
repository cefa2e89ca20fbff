# cython: language_level=3, wraparound=False, cdivision=True
"""The compiled twin of lines_py: writes the line of a usual request without making its record.

Whatever is not usual (a number beyond 2**53, a text of another type, a line longer than the buffer, a moment before
1970) is left to `make` and msgspec, and so is each text that is not plain: what escapes there are is said in one place.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.math cimport fabs, rint
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memcmp

import msgspec

from securellm._fast import lines_py

from securellm._fast.plain_text cimport after_plain

cdef extern from "Python.h":
    bint PyUnicode_CheckExact(object text)
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    unsigned char *PyUnicode_1BYTE_DATA(object text)
    bint PyLong_CheckExact(object number)
    int64_t PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    bint PyFloat_CheckExact(object number)
    double PyFloat_AS_DOUBLE(object number)

cdef enum Sizes:
    BUFFER_BYTES = 8192
    MAX_TEXT_CHARS = 512  # as entries.MAX_TEXT_CHARS
    WHOLE = 1 << 30  # a text that is not cut
    HASH_BYTES = 64

# Where the facts stand in the structures of chat.py and entries.py.
cdef enum UsageFacts:  # Usage
    U_INPUT_TOKENS, U_CACHE_READ_TOKENS, U_CACHE_WRITE_5M_TOKENS, U_CACHE_WRITE_1H_TOKENS, U_OUTPUT_TOKENS,
    U_REASONING_TOKENS, U_AUDIO_INPUT_TOKENS, U_AUDIO_OUTPUT_TOKENS, U_IMAGE_TOKENS, U_COUNT

cdef enum AttemptFacts:  # Attempt
    A_NUMBER, A_PROVIDER, A_MODEL, A_HTTP_STATUS, A_ERROR_CODE, A_DURATION_MS, A_USAGE, A_UPSTREAM_REQUEST_ID,
    A_SKIPPED, A_COUNT

cdef enum OutcomeFacts:  # Outcome
    O_STATUS, O_HTTP_STATUS, O_ERROR_CODE, O_ERROR_MESSAGE, O_COUNT

cdef enum HashFacts:  # Hashes
    H_REQUEST, H_ANSWER, H_CONTENT, H_REQUEST_CONTENT, H_ANSWER_CONTENT, H_COUNT

cdef enum SettlementFacts:  # Settlement
    S_REQUEST_ID, S_CLIENT_REQUEST_ID, S_ENDPOINT, S_CALLER, S_CLIENT_IP, S_REQUESTED_MODEL, S_PROVIDER, S_MODEL,
    S_STREAM, S_OUTCOME, S_ATTEMPTS, S_USAGE, S_USAGE_SOURCE, S_FINISH_REASON, S_FIRST_TOKEN_MS, S_DURATION_MS,
    S_BYTES_IN, S_BYTES_OUT, S_DROPPED, S_UPSTREAM_REQUEST_ID, S_CONTEXT_TRUNCATED, S_CONFIG_EPOCH, S_COST_NUSD,
    S_CACHE, S_SAVED_NUSD, S_OVERRUN_NUSD, S_COUNT

cdef int64_t MAX_NUMBER = 1 << 53
cdef int64_t MAX_MOMENT_US = 253_402_300_800_000_000  # the year 10000

cdef object _encode = lines_py._encode
cdef object _astuple = msgspec.structs.astuple
cdef tuple _NOT_ENCODABLE = lines_py._NOT_ENCODABLE
cdef object _sha256 = None  # OpenSSL takes milliseconds to load

FORMAT_VERSION = lines_py.FORMAT_VERSION
MAX_LINE_BYTES = lines_py.MAX_LINE_BYTES
MAX_BODY_BYTES = lines_py.MAX_BODY_BYTES
Opened = lines_py.Opened
encode_body = lines_py.encode_body
place_body = lines_py.place_body
note = lines_py.note


cdef inline tuple _facts(object structure, Py_ssize_t count):
    """The fields of a structure, so that each is had by its place: to look them up by name took most of the time."""
    cdef tuple facts = _astuple(structure)
    if PyTuple_GET_SIZE(facts) != count:
        raise TypeError(f"got {PyTuple_GET_SIZE(facts)} fields, expected {count}")
    return facts


cdef inline object _fact(tuple facts, Py_ssize_t place):
    return <object>PyTuple_GET_ITEM(facts, place)


cdef struct Out:
    char *start
    char *at
    char *end
    bint unusual  # leave it to `make`


cdef inline void _raw(Out *out, const char *data, Py_ssize_t size) noexcept nogil:
    if size > out.end - out.at:
        out.unusual = True
        return
    memcpy(out.at, data, size)
    out.at += size


cdef inline void _name(Out *out, const char *name, Py_ssize_t size) noexcept nogil:
    """The name of a field; `name` has the quotes and the colon."""
    if out.at != out.start and (out.at - 1)[0] != 0x7B:  # {
        _raw(out, b",", 1)
    _raw(out, name, size)


cdef int _text(Out *out, object value, Py_ssize_t most) except -1:
    """A text, cut at so many characters."""
    cdef Py_ssize_t size
    cdef const char *data
    cdef char *into
    cdef bytes encoded
    if not PyUnicode_CheckExact(value):
        out.unusual = True
        return 0
    size = PyUnicode_GET_LENGTH(value)
    if PyUnicode_IS_COMPACT_ASCII(value):
        size = min(size, most)
        if size + 2 > out.end - out.at:
            out.unusual = True
            return 0
        data = <const char *>PyUnicode_1BYTE_DATA(value)
        if after_plain(data, data + size) == data + size:
            into = out.at
            into[0] = 0x22
            memcpy(into + 1, data, size)
            into[size + 1] = 0x22
            out.at += size + 2
            return 0
    encoded = _encode(value[:most] if size > most else value)
    _raw(out, PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded))
    return 0


cdef void _digits(Out *out, int64_t value, int width) noexcept nogil:
    """A number that is not negative, with zeros before it up to `width` digits."""
    cdef char digits[24]
    cdef int at = 24
    while value or at == 24 or 24 - at < width:
        at -= 1
        digits[at] = 0x30 + <char>(value % 10)
        value //= 10
    _raw(out, digits + at, 24 - at)


cdef int _number(Out *out, object value) except -1:
    cdef int overflow = 0
    cdef int64_t number
    if not PyLong_CheckExact(value):
        out.unusual = True
        return 0
    number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow or number > MAX_NUMBER or number < -MAX_NUMBER:
        out.unusual = True
        return 0
    if number < 0:
        _raw(out, b"-", 1)
        number = -number
    _digits(out, number, 1)
    return 0


cdef void _decimal(Out *out, int64_t value, int64_t unit, int places) noexcept nogil:
    """As record.decimal: the shortest text of `value` / `unit`."""
    cdef int64_t fraction
    if value < 0:
        _raw(out, b"-", 1)
        value = -value
    _digits(out, value // unit, 1)
    fraction = value % unit
    if fraction:
        while fraction % 10 == 0:
            fraction //= 10
            places -= 1
        _raw(out, b".", 1)
        _digits(out, fraction, places)


cdef int _milliseconds(Out *out, object value) except -1:
    """Rounded to microseconds, halves to even, as `round` does."""
    cdef double us
    if not PyFloat_CheckExact(value):
        out.unusual = True
        return 0
    us = rint(PyFloat_AS_DOUBLE(value) * 1000.0)
    if not fabs(us) < MAX_NUMBER:  # neither is nan
        out.unusual = True
        return 0
    _decimal(out, <int64_t>us, 1000, 3)
    return 0


cdef int _timestamp(Out *out, object moment_us) except -1:
    """As record.timestamp."""
    cdef int overflow = 0
    cdef int64_t us, seconds, second, days, era, day_of_era, year_of_era, day_of_year, month_from_march, month
    if not PyLong_CheckExact(moment_us):
        out.unusual = True
        return 0
    us = PyLong_AsLongLongAndOverflow(moment_us, &overflow)
    if overflow or us < 0 or us >= MAX_MOMENT_US:
        out.unusual = True
        return 0
    seconds = us // 1_000_000
    second = seconds % 86_400
    days = seconds // 86_400 + 719_468  # since 0000-03-01
    era = days // 146_097
    day_of_era = days % 146_097
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_from_march = (5 * day_of_year + 2) // 153
    month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    _raw(out, b'"timestamp":"', 13)
    _digits(out, era * 400 + year_of_era + (month <= 2), 4)
    _raw(out, b"-", 1)
    _digits(out, month, 2)
    _raw(out, b"-", 1)
    _digits(out, day_of_year - (153 * month_from_march + 2) // 5 + 1, 2)
    _raw(out, b"T", 1)
    _digits(out, second // 3600, 2)
    _raw(out, b":", 1)
    _digits(out, second // 60 % 60, 2)
    _raw(out, b":", 1)
    _digits(out, second % 60, 2)
    _raw(out, b".", 1)
    _digits(out, us % 1_000_000, 6)
    _raw(out, b'Z"', 2)
    return 0


cdef inline int _text_field(Out *out, const char *name, Py_ssize_t size, object value, Py_ssize_t most) except -1:
    if value is not None:
        _name(out, name, size)
        _text(out, value, most)
    return 0


cdef inline int _number_field(Out *out, const char *name, Py_ssize_t size, object value) except -1:
    if value is not None:
        _name(out, name, size)
        _number(out, value)
    return 0


cdef inline int _milliseconds_field(Out *out, const char *name, Py_ssize_t size, object value) except -1:
    if value is not None:
        _name(out, name, size)
        _milliseconds(out, value)
    return 0


cdef inline int _flag_field(Out *out, const char *name, Py_ssize_t size, object value) except -1:
    if value is True:
        _name(out, name, size)
        _raw(out, b"true", 4)
    elif value is False:
        _name(out, name, size)
        _raw(out, b"false", 5)
    elif value is not None:
        out.unusual = True
    return 0


cdef int64_t _bucket(Out *out, const char *name, Py_ssize_t size, object value) except? -1:
    """One bucket of usage, unless it is 0; how many tokens it has."""
    cdef int overflow = 0
    cdef int64_t tokens
    if not PyLong_CheckExact(value):
        out.unusual = True
        return 0
    tokens = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow or tokens < 0 or tokens > MAX_NUMBER // 16:  # so that sums are usual, too
        out.unusual = True
        return 0
    if tokens:
        _name(out, name, size)
        _digits(out, tokens, 1)
    return tokens


cdef struct Written:  # a usage, in the line
    char *start
    char *end


cdef int _usage(Out *out, object usage, bint sums, Written *written) except -1:
    """The field `usage`, and before it the sums of its buckets where they are wanted."""
    cdef char buffer[512]
    cdef Out buckets
    cdef int64_t prompt, completion
    cdef tuple facts = _facts(usage, U_COUNT)
    buckets.start = buckets.at = buffer
    buckets.end = buffer + 512
    buckets.unusual = False
    _raw(&buckets, b'{', 1)
    prompt = _bucket(&buckets, b'"input_tokens":', 15, _fact(facts, U_INPUT_TOKENS))
    prompt += _bucket(&buckets, b'"cache_read_tokens":', 20, _fact(facts, U_CACHE_READ_TOKENS))
    prompt += _bucket(&buckets, b'"cache_write_5m_tokens":', 24, _fact(facts, U_CACHE_WRITE_5M_TOKENS))
    prompt += _bucket(&buckets, b'"cache_write_1h_tokens":', 24, _fact(facts, U_CACHE_WRITE_1H_TOKENS))
    completion = _bucket(&buckets, b'"output_tokens":', 16, _fact(facts, U_OUTPUT_TOKENS))
    _bucket(&buckets, b'"reasoning_tokens":', 19, _fact(facts, U_REASONING_TOKENS))
    prompt += _bucket(&buckets, b'"audio_input_tokens":', 21, _fact(facts, U_AUDIO_INPUT_TOKENS))
    completion += _bucket(&buckets, b'"audio_output_tokens":', 22, _fact(facts, U_AUDIO_OUTPUT_TOKENS))
    prompt += _bucket(&buckets, b'"image_tokens":', 15, _fact(facts, U_IMAGE_TOKENS))
    _raw(&buckets, b'}', 1)
    if buckets.unusual:
        out.unusual = True
        return 0
    if sums:
        _name(out, b'"prompt_tokens":', 16)
        _digits(out, prompt, 1)
        _name(out, b'"completion_tokens":', 20)
        _digits(out, completion, 1)
        _name(out, b'"total_tokens":', 15)
        _digits(out, prompt + completion, 1)
    _name(out, b'"usage":', 8)
    written.start = out.at
    _raw(out, buckets.start, buckets.at - buckets.start)
    written.end = out.at
    return 0


cdef int _attempts(Out *out, tuple attempts, tuple costs_nusd, Written *last_usage) except -1:
    """The field `attempts`; `last_usage` is the answer's, and so the last attempt's."""
    cdef Written written
    cdef Py_ssize_t number, count = PyTuple_GET_SIZE(attempts)
    cdef tuple facts
    cdef object usage, skipped
    if PyTuple_GET_SIZE(costs_nusd) != count:
        out.unusual = True
        return 0
    _name(out, b'"attempts":', 11)
    _raw(out, b"[", 1)
    for number in range(count):
        facts = _facts(<object>PyTuple_GET_ITEM(attempts, number), A_COUNT)
        if number:
            _raw(out, b",", 1)
        _raw(out, b"{", 1)
        _number_field(out, b'"number":', 9, _fact(facts, A_NUMBER))
        _text_field(out, b'"provider":', 11, _fact(facts, A_PROVIDER), WHOLE)
        _text_field(out, b'"model":', 8, _fact(facts, A_MODEL), MAX_TEXT_CHARS)
        _number_field(out, b'"http_status":', 14, _fact(facts, A_HTTP_STATUS))
        _text_field(out, b'"error_code":', 13, _fact(facts, A_ERROR_CODE), MAX_TEXT_CHARS)
        skipped = _fact(facts, A_SKIPPED)
        if skipped is None:
            _milliseconds_field(out, b'"duration_ms":', 14, _fact(facts, A_DURATION_MS))
        if number == count - 1:
            if last_usage.start is not NULL:
                _name(out, b'"usage":', 8)
                _raw(out, last_usage.start, last_usage.end - last_usage.start)
        else:
            usage = _fact(facts, A_USAGE)
            if usage is not None:
                _usage(out, usage, False, &written)
        _number_field(out, b'"cost_nusd":', 12, <object>PyTuple_GET_ITEM(costs_nusd, number))
        _text_field(out, b'"upstream_request_id":', 22, _fact(facts, A_UPSTREAM_REQUEST_ID), MAX_TEXT_CHARS)
        _text_field(out, b'"skipped":', 10, skipped, WHOLE)
        _raw(out, b"}", 1)
    _raw(out, b"]", 1)
    return 0


cdef int _caller(Out *out, object caller) except -1:
    if caller is not None:
        _text_field(out, b'"user_id":', 10, caller.user_id, WHOLE)
        _text_field(out, b'"key_id":', 9, caller.key_id, WHOLE)
    return 0


cpdef object client_request_id(list headers):
    """See lines_py."""
    cdef tuple field
    cdef bytes name
    for field in headers:
        name = field[0]
        if PyBytes_GET_SIZE(name) == 12 and memcmp(PyBytes_AS_STRING(name), b"x-request-id", 12) == 0:
            return (<bytes?>field[1]).decode("latin-1")
    return None


cdef int _intent(
    Out *out, object call, object caller, object requested_model, object stream, object provider, object model,
    object epoch, object now_us,
) except -1:
    _timestamp(out, now_us)
    _raw(out, b',"event_type":"request_received"', 32)
    _text_field(out, b'"request_id":', 13, call.request_id, WHOLE)
    _text_field(out, b'"client_request_id":', 20, client_request_id(call.headers), MAX_TEXT_CHARS)
    _text_field(out, b'"epoch":', 8, epoch, WHOLE)
    _caller(out, caller)
    _text_field(out, b'"client_ip":', 12, call.client_ip, WHOLE)
    _text_field(out, b'"endpoint":', 11, call.endpoint._value_, WHOLE)
    _text_field(out, b'"requested_model":', 18, requested_model, MAX_TEXT_CHARS)
    _text_field(out, b'"provider":', 11, provider, WHOLE)
    _text_field(out, b'"model":', 8, model, MAX_TEXT_CHARS)
    _flag_field(out, b'"stream":', 9, stream)
    _raw(out, b"}", 1)
    return 0


cdef int _closing(
    Out *out, object settlement, tuple costs_nusd, object price_table, object hashes, object now_us
) except -1:
    cdef tuple facts = _facts(settlement, S_COUNT)
    cdef tuple outcome = _facts(_fact(facts, S_OUTCOME), O_COUNT)
    cdef tuple hashed = _facts(hashes, H_COUNT)
    cdef object status = _fact(outcome, O_STATUS)._value_
    cdef object usage = _fact(facts, S_USAGE)
    cdef object cost_nusd = _fact(facts, S_COST_NUSD)
    cdef object saved_nusd = _fact(facts, S_SAVED_NUSD)
    cdef tuple attempts
    cdef Written written
    cdef int overflow = 0
    cdef int64_t nusd
    written.start = written.end = NULL
    _timestamp(out, now_us)
    if status == "success":
        _raw(out, b',"event_type":"response_sent"', 29)
    else:
        _raw(out, b',"event_type":"request_failed"', 30)
    _text_field(out, b'"request_id":', 13, _fact(facts, S_REQUEST_ID), WHOLE)
    _text_field(out, b'"client_request_id":', 20, _fact(facts, S_CLIENT_REQUEST_ID), MAX_TEXT_CHARS)
    _text_field(out, b'"epoch":', 8, _fact(facts, S_CONFIG_EPOCH), WHOLE)
    _caller(out, _fact(facts, S_CALLER))
    _text_field(out, b'"client_ip":', 12, _fact(facts, S_CLIENT_IP), WHOLE)
    _text_field(out, b'"endpoint":', 11, _fact(facts, S_ENDPOINT)._value_, WHOLE)
    _text_field(out, b'"requested_model":', 18, _fact(facts, S_REQUESTED_MODEL), MAX_TEXT_CHARS)
    _text_field(out, b'"provider":', 11, _fact(facts, S_PROVIDER), WHOLE)
    _text_field(out, b'"model":', 8, _fact(facts, S_MODEL), MAX_TEXT_CHARS)
    _flag_field(out, b'"stream":', 9, _fact(facts, S_STREAM))
    _text_field(out, b'"status":', 9, status, WHOLE)
    _number_field(out, b'"http_status":', 14, _fact(outcome, O_HTTP_STATUS))
    _text_field(out, b'"error_code":', 13, _fact(outcome, O_ERROR_CODE), MAX_TEXT_CHARS)
    _text_field(out, b'"error_message":', 16, _fact(outcome, O_ERROR_MESSAGE), MAX_TEXT_CHARS)
    if usage is not None:
        _usage(out, usage, True, &written)
    _text_field(out, b'"usage_source":', 15, _fact(facts, S_USAGE_SOURCE), WHOLE)
    if cost_nusd is not None:
        if not PyLong_CheckExact(cost_nusd):
            out.unusual = True
            return 0
        nusd = PyLong_AsLongLongAndOverflow(cost_nusd, &overflow)
        if overflow or nusd > MAX_NUMBER or nusd < -MAX_NUMBER:
            out.unusual = True
            return 0
        _name(out, b'"estimated_cost_usd":', 21)
        _decimal(out, nusd, 1_000_000_000, 9)
        _number_field(out, b'"cost_nusd":', 12, cost_nusd)
    if cost_nusd is not None or saved_nusd is not None:
        _text_field(out, b'"price_table":', 14, price_table, WHOLE)
    _text_field(out, b'"finish_reason":', 16, _fact(facts, S_FINISH_REASON), MAX_TEXT_CHARS)
    _milliseconds_field(out, b'"duration_ms":', 14, _fact(facts, S_DURATION_MS))
    _milliseconds_field(out, b'"first_token_ms":', 17, _fact(facts, S_FIRST_TOKEN_MS))
    _number_field(out, b'"bytes_in":', 11, _fact(facts, S_BYTES_IN))
    _number_field(out, b'"bytes_out":', 12, _fact(facts, S_BYTES_OUT))
    _text_field(out, b'"cache":', 8, _fact(facts, S_CACHE), WHOLE)
    _text_field(out, b'"upstream_request_id":', 22, _fact(facts, S_UPSTREAM_REQUEST_ID), MAX_TEXT_CHARS)
    if _fact(facts, S_DROPPED):
        out.unusual = True
        return 0
    if _fact(facts, S_CONTEXT_TRUNCATED):
        _name(out, b'"context_truncated":', 20)
        _raw(out, b"true", 4)
    _text_field(out, b'"request_sha256":', 17, _fact(hashed, H_REQUEST), WHOLE)
    _text_field(out, b'"answer_sha256":', 16, _fact(hashed, H_ANSWER), WHOLE)
    _text_field(out, b'"content":', 10, _fact(hashed, H_CONTENT), WHOLE)
    _text_field(out, b'"request_content_sha256":', 25, _fact(hashed, H_REQUEST_CONTENT), WHOLE)
    _text_field(out, b'"answer_content_sha256":', 24, _fact(hashed, H_ANSWER_CONTENT), WHOLE)
    attempts = <tuple?>_fact(facts, S_ATTEMPTS)
    if attempts:
        _attempts(out, attempts, costs_nusd, &written)
    elif costs_nusd:
        out.unusual = True
    _number_field(out, b'"saved_nusd":', 13, saved_nusd)
    _number_field(out, b'"overrun_nusd":', 15, _fact(facts, S_OVERRUN_NUSD))
    _raw(out, b"}", 1)
    return 0


def intent_body(make, call, caller, requested_model, stream, provider, model, epoch, now_us):
    """See lines_py."""
    cdef char buffer[BUFFER_BYTES]
    cdef Out out
    out.start = out.at = buffer
    out.end = buffer + BUFFER_BYTES
    out.unusual = False
    try:
        _intent(&out, call, caller, requested_model, stream, provider, model, epoch, now_us)
    except _NOT_ENCODABLE:
        out.unusual = True
    if out.unusual:
        return encode_body(make(call, caller, requested_model, stream, provider, model, epoch, now_us))
    return PyBytes_FromStringAndSize(out.start, out.at - out.start)


def closing_body(make, settlement, tuple costs_nusd not None, price_table, hashes, now_us):
    """See lines_py."""
    cdef char buffer[BUFFER_BYTES]
    cdef Out out
    out.start = out.at = buffer
    out.end = buffer + BUFFER_BYTES
    out.unusual = False
    try:
        _closing(&out, settlement, costs_nusd, price_table, hashes, now_us)
    except _NOT_ENCODABLE:
        out.unusual = True
    if out.unusual:
        return encode_body(make(settlement, costs_nusd, price_table, hashes, now_us))
    return PyBytes_FromStringAndSize(out.start, out.at - out.start)


def place(
    queue not None,
    list batch not None,
    list lines not None,
    dict opened not None,
    tuple chain not None,
    str file not None,
    Py_ssize_t offset,
    Py_ssize_t until_offset,
    Py_ssize_t most_lines,
):
    """See lines_py."""
    global _sha256
    cdef char buffer[256]
    cdef Out head
    cdef int64_t slot = chain[0], seq = chain[1]
    cdef str prev = chain[2]
    cdef str event_type
    cdef object entry, request_id, found, popleft = queue.popleft
    cdef bytes body, line
    cdef char *into
    cdef Py_ssize_t size
    if _sha256 is None:
        import hashlib

        _sha256 = hashlib.sha256
    head.start = buffer
    head.end = buffer + 256
    head.unusual = False
    while offset < until_offset and len(lines) < most_lines and queue:
        entry = queue[0]
        found = entry.body
        if found is None:
            break
        body = <bytes?>found
        popleft()
        seq += 1
        if not PyUnicode_IS_COMPACT_ASCII(prev) or PyUnicode_GET_LENGTH(prev) != HASH_BYTES:
            raise ValueError("got a hash that is not 64 hex digits")
        head.at = buffer
        _raw(&head, b'{"v":1,"seq":', 13)
        _digits(&head, seq, 1)
        _raw(&head, b',"slot":', 8)
        _digits(&head, slot, 1)
        _raw(&head, b',"prev":"', 9)
        _raw(&head, <const char *>PyUnicode_1BYTE_DATA(prev), HASH_BYTES)
        _raw(&head, b'",', 2)
        size = head.at - head.start
        line = PyBytes_FromStringAndSize(NULL, size + PyBytes_GET_SIZE(body))
        into = PyBytes_AS_STRING(line)
        memcpy(into, head.start, size)
        memcpy(into + size, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
        prev = _sha256(line).hexdigest()
        batch.append(entry)
        lines.append(line)
        event_type = entry.event_type
        request_id = entry.request_id
        if request_id is not None:
            if event_type == "request_received":
                opened[request_id] = (file, offset, seq, prev)
            elif event_type == "response_sent" or event_type == "request_failed":
                opened.pop(request_id, None)
        offset += PyBytes_GET_SIZE(line) + 1
    return seq, prev, offset
