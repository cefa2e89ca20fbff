# cython: language_level=3, boundscheck=False, wraparound=False
"""The compiled twin of members_py: the same walk, with memcmp in place of objects for every key and value; and a survey
in one pass, by the walk that gives up where anything is doubtful (`json_walk.pxd`).
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Size
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memchr, memcmp

import msgspec

from securellm._fast.json_walk cimport (
    DEEPEST, Walk, is_key, next_item, next_key, skip_space, skip_string, skip_value, take,
)
from securellm._fast.members_py import IMAGE, TEXT, Survey

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef object _new_tuple = tuple.__new__  # as Survey._make does it; calling Survey takes as long as walking a small body
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


cdef enum:
    MAX_MEMBERS = 1024  # of a body that is surveyed; beyond it peeking refuses
    C_TEXT = 0
    C_IMAGE = 1
    C_UNKNOWN = 2

if (TEXT, IMAGE) != (C_TEXT, C_IMAGE):
    raise ImportError("the twins of members do not agree on their constants")

cdef struct Inventory:
    Py_ssize_t images
    Py_ssize_t image_bytes
    bint windowed
    int depth  # of the arrays of parts that were entered
    const char *type  # of the part before, as its neighbours are mostly of the same kind
    Py_ssize_t type_size
    int kind


cdef inline Py_ssize_t _length_of_value(const char *start, const char *after) noexcept nogil:
    """The bytes of the value that a walk has gone over, which has skipped the white space behind it as well."""
    cdef char last
    while after > start:
        last = (after - 1)[0]
        if not (last == c" " or last == c"\n" or last == c"\r" or last == c"\t"):
            break
        after -= 1
    return after - start


cdef inline bint _take_word(Walk *walk, const char **word, Py_ssize_t *length) noexcept nogil:
    """Take a string without escapes, and leave where its text is; False in doubt. Each may be there once only."""
    cdef const char *start = walk.at
    if word[0] != NULL or not skip_string(walk):
        return False
    word[0] = start + 1
    length[0] = _length_of_value(start, walk.at) - 2
    return memchr(word[0], c"\\", length[0]) == NULL


cdef inline bint _take_value(Walk *walk, const char **value, Py_ssize_t *length) noexcept nogil:
    """Take any value, and leave where it is; False in doubt. Each may be there once only."""
    cdef const char *start = walk.at
    if value[0] != NULL or not skip_value(walk):
        return False
    value[0] = start
    length[0] = _length_of_value(start, walk.at)
    return True


cdef inline bint _is_data_url(const char *value, Py_ssize_t length) noexcept nogil:
    return length >= 6 and memcmp(value, b'"data:', 6) == 0


cdef Py_ssize_t _source_bytes(const char *value, Py_ssize_t length) noexcept nogil:
    """The bytes of an image that an object of its part holds, -1 in doubt. The object was walked over already."""
    cdef const char *type = NULL
    cdef const char *data = NULL
    cdef const char *url = NULL
    cdef const char *key = NULL
    cdef Py_ssize_t type_size = 0, data_size = 0, url_size = 0, key_size = 0
    cdef bint begun = False, taken
    cdef int found
    cdef Walk walk
    walk.at, walk.end = value, value + length
    take(&walk, c"{")
    while True:
        found = next_key(&walk, &begun, &key, &key_size)
        if found <= 0:
            break
        if is_key(key, key_size, b"type", 4):
            taken = _take_word(&walk, &type, &type_size)
        elif is_key(key, key_size, b"data", 4):
            taken = _take_value(&walk, &data, &data_size)
        elif is_key(key, key_size, b"url", 3):
            taken = _take_value(&walk, &url, &url_size)
        else:
            taken = skip_value(&walk)
        if not taken:
            return -1
    if found < 0:
        return -1
    if type != NULL and is_key(type, type_size, b"base64", 6):
        return data_size
    return url_size if url != NULL and _is_data_url(url, url_size) else 0


cdef Py_ssize_t _image_bytes(
    const char *source, Py_ssize_t source_size, const char *url, Py_ssize_t url_size
) noexcept nogil:
    """The bytes of an image that a part holds, 0 for one that it names, -1 in doubt."""
    if source != NULL and source[0] == c"{":
        return _source_bytes(source, source_size)
    if source != NULL and _is_data_url(source, source_size):
        return source_size
    if url != NULL and url[0] == c"{":
        return _source_bytes(url, url_size)
    return url_size if url != NULL and _is_data_url(url, url_size) else 0


cdef bint _take_turn(Walk *walk, Inventory *inventory, dict kinds) except -1:
    """Take a message, an item or a part, with the parts in it; False in doubt."""
    cdef const char *type = NULL
    cdef const char *content = NULL
    cdef const char *output = NULL
    cdef const char *source = NULL
    cdef const char *image_url = NULL
    cdef const char *key = NULL
    cdef Py_ssize_t key_size = 0, type_size = 0, source_size = 0, url_size = 0, image_bytes
    cdef bint begun = False, taken
    cdef int found
    if not take(walk, c"{"):
        return False
    while True:
        found = next_key(walk, &begun, &key, &key_size)
        if found <= 0:
            break
        if is_key(key, key_size, b"type", 4):
            taken = _take_word(walk, &type, &type_size)
        elif is_key(key, key_size, b"content", 7):
            taken = _take_parts(walk, &content, inventory, kinds)
        elif is_key(key, key_size, b"output", 6):
            taken = _take_parts(walk, &output, inventory, kinds)
        elif is_key(key, key_size, b"source", 6):
            taken = _take_value(walk, &source, &source_size)
        elif is_key(key, key_size, b"image_url", 9):
            taken = _take_value(walk, &image_url, &url_size)
        else:
            taken = skip_value(walk)
        if not taken:
            return False
    if found < 0:
        return False
    if type == NULL:
        return True  # a message as most are: what it holds is text, or was counted
    if inventory.type == NULL or not is_key(type, type_size, inventory.type, inventory.type_size):
        known = kinds.get(PyUnicode_DecodeUTF8(type, type_size, NULL))
        inventory.type, inventory.type_size = type, type_size
        inventory.kind = C_UNKNOWN if known is None else known
    if inventory.kind == C_UNKNOWN:
        inventory.windowed = True
    elif inventory.kind == C_IMAGE:
        image_bytes = _image_bytes(source, source_size, image_url, url_size)
        if image_bytes < 0:
            return False
        inventory.images += 1
        inventory.image_bytes += image_bytes
    return True


cdef bint _take_parts(Walk *walk, const char **value, Inventory *inventory, dict kinds) except -1:
    """Take what a turn holds: parts, where it is an array; False in doubt. Each may be there once only."""
    if value[0] != NULL:
        return False
    value[0] = walk.at
    if walk.at < walk.end and walk.at[0] == c"[":
        return _take_turns(walk, inventory, kinds)
    return skip_value(walk)


cdef bint _take_turns(Walk *walk, Inventory *inventory, dict kinds) except -1:
    """Take an array of turns or parts; False in doubt."""
    cdef bint begun = False
    cdef int found
    if inventory.depth == DEEPEST:
        return False
    inventory.depth += 1
    take(walk, c"[")
    while True:
        found = next_item(walk, &begun)
        if found <= 0:
            break
        if not _take_turn(walk, inventory, kinds):
            return False
    inventory.depth -= 1
    return found == 0


cdef bint _take_tools(Walk *walk, list types) except -1:
    """Take an array of tools, and add the type of each; False in doubt."""
    cdef const char *type
    cdef const char *key = NULL
    cdef Py_ssize_t key_size = 0, type_size = 0
    cdef bint begun = False, entered
    cdef int found
    take(walk, c"[")
    while True:
        found = next_item(walk, &begun)
        if found <= 0:
            return found == 0
        if not take(walk, c"{"):
            return False
        type = NULL
        entered = False
        while True:
            found = next_key(walk, &entered, &key, &key_size)
            if found < 0:
                return False
            if found == 0:
                break
            if is_key(key, key_size, b"type", 4):
                if not _take_word(walk, &type, &type_size):
                    return False
            elif not skip_value(walk):
                return False
        types.append("" if type == NULL else PyUnicode_DecodeUTF8(type, type_size, NULL))


def survey(bytes body not None, frozenset turns not None, dict kinds not None):
    """See members_py."""
    cdef const char *text = PyBytes_AS_STRING(body)
    cdef const char *key = NULL
    cdef const char *start
    cdef Py_ssize_t key_size = 0, first_member, begin
    cdef bint begun = False, taken
    cdef int found
    cdef dict spans = {}
    cdef list tool_types = None
    cdef Inventory inventory
    cdef Walk walk
    inventory.images = inventory.image_bytes = 0
    inventory.windowed = False
    inventory.depth = 0
    inventory.type = NULL
    inventory.type_size = 0
    inventory.kind = C_UNKNOWN
    walk.at, walk.end = text, text + PyBytes_GET_SIZE(body)
    skip_space(&walk)
    first_member = walk.at - text + 1
    if not take(&walk, c"{"):
        return None
    while True:
        found = next_key(&walk, &begun, &key, &key_size)
        if found < 0:
            return None
        if found == 0:
            break
        name = PyUnicode_DecodeUTF8(key, key_size, NULL)
        start = walk.at
        if start < walk.end and start[0] == c"[" and name in turns:
            taken = _take_turns(&walk, &inventory, kinds)
        elif start < walk.end and start[0] == c"[" and is_key(key, key_size, b"tools", 5):
            tool_types = []
            taken = _take_tools(&walk, tool_types)
        else:
            taken = skip_value(&walk)
        if not taken or name in spans or PyDict_Size(spans) == MAX_MEMBERS:
            return None
        begin = start - text
        spans[name] = (begin, begin + _length_of_value(start, walk.at))
    if walk.at != walk.end:
        return None
    return _new_tuple(
        Survey, (spans, first_member, inventory.images, inventory.image_bytes, inventory.windowed, tool_types)
    )
