# cython: language_level=3, boundscheck=False, wraparound=False
"""The compiled twin of members_py: the same walk, with memcmp in place of objects for every key and value."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memcmp

import msgspec

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef object _decode = msgspec.json.Decoder(str).decode


cdef inline Py_ssize_t _after_space(const char *text, Py_ssize_t size, Py_ssize_t at) noexcept nogil:
    while at < size and (text[at] == 0x20 or text[at] == 0x0A or text[at] == 0x0D or text[at] == 0x09):
        at += 1
    return at


cdef Py_ssize_t _after_string(const char *text, Py_ssize_t size, Py_ssize_t at, bint *escaped) noexcept nogil:
    """The place after the string that begins at `at`."""
    escaped[0] = False
    at += 1
    while at < size:
        if text[at] == 0x22:
            return at + 1
        if text[at] == 0x5C:
            escaped[0] = True
            at += 1
        at += 1
    return size


cdef bint _same_value(const char *text, Py_ssize_t size, Py_ssize_t at, object raw, Py_ssize_t *length) except -1:
    """Whether the bytes at `at` are those of `raw`, whose length is left in `length`."""
    cdef Py_buffer view
    cdef bint same
    PyObject_GetBuffer(raw, &view, PyBUF_SIMPLE)
    length[0] = view.len
    same = view.len <= size - at and memcmp(text + at, view.buf, view.len) == 0
    PyBuffer_Release(&view)
    return same


def locate(bytes body not None, dict members not None, Py_ssize_t start=0):
    """See members_py."""
    cdef const char *text = PyBytes_AS_STRING(body)
    cdef const char *name_text
    cdef Py_ssize_t size = PyBytes_GET_SIZE(body)
    cdef Py_ssize_t at, first_member, key_at, key_end, length = 0, name_size, number = 0
    cdef bint escaped
    cdef dict spans = {}
    at = first_member = _after_space(text, size, start) + 1
    for name, raw in members.items():
        at = _after_space(text, size, at)
        if at >= size or text[at] == 0x7D:
            return spans, first_member, None
        if number:
            at = _after_space(text, size, at + 1)
        number += 1
        key_at = at
        key_end = _after_string(text, size, key_at, &escaped)
        at = _after_space(text, size, _after_space(text, size, key_end) + 1)
        if escaped:
            key = _decode(body[key_at:key_end])
            if key != name:
                return spans, first_member, key
        else:
            name_text = PyUnicode_AsUTF8AndSize(name, &name_size)
            if name_size != key_end - key_at - 2 or memcmp(name_text, text + key_at + 1, name_size) != 0:
                return spans, first_member, _decode(body[key_at:key_end])
        if not _same_value(text, size, at, raw, &length):
            return spans, first_member, name
        spans[name] = (at, at + length)
        at += length
    at = _after_space(text, size, at)
    if at >= size or text[at] == 0x7D:
        return spans, first_member, None
    if number:
        at = _after_space(text, size, at + 1)
    key_end = _after_string(text, size, at, &escaped)
    return spans, first_member, _decode(body[at:key_end])
