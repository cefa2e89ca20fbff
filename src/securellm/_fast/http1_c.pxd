# What the reactor calls without going through Python. Nothing here allocates, raises or touches a Python object, but
# for the functions that make the Python objects at the end. All offsets count from the `data` that was given.

from libc.stdint cimport int64_t, uint32_t

cdef enum:
    MAX_FIELDS = 256

# Why a head or a body is refused; as in http1_py.py. The functions return them negated.
cdef enum:
    NOT_HTTP = 1
    LINE_END = 2
    TOO_LARGE = 3
    TOO_MANY_FIELDS = 4
    START_LINE = 5
    VERSION = 6
    CONNECT = 7
    TARGET_BYTES = 8
    TARGET_FORM = 9
    FOLDED = 10
    FIELD_NAME = 11
    FIELD_VALUE = 12
    LENGTH_TWICE = 13
    ENCODING_TWICE = 14
    LENGTH_AND_ENCODING = 15
    ENCODING_IN_1_0 = 16
    ENCODING_OTHER = 17
    LENGTH_FORM = 18
    HOST_TWICE = 19
    HOST_MISSING = 20
    HOST_FORM = 21
    STATUS = 22
    SWITCHED = 23
    CHUNK_SIZE = 24
    CHUNK_EXTENSION = 25
    CHUNK_END = 26
    TRAILER = 27

cdef struct Field:
    uint32_t name
    uint32_t name_end
    uint32_t value
    uint32_t value_end

cdef struct Head:
    int minor
    int status  # of an answer
    uint32_t method_end  # of a request; it begins at 0
    uint32_t target
    uint32_t target_end
    int field_count
    int64_t body_bytes  # -1: chunked, or an answer that the connection ends
    bint chunked
    bint keep_alive
    bint expect_continue
    bint upgrade
    Field fields[MAX_FIELDS]

# How long the head is that begins at `data`; 0 while it is incomplete, the negated reason when it is refused.
cdef Py_ssize_t scan_request(const char *data, Py_ssize_t length, Py_ssize_t max_head_bytes, Head *head) noexcept nogil
cdef Py_ssize_t scan_response(
    const char *data, Py_ssize_t length, Py_ssize_t max_head_bytes, bint asked_head, Head *head
) noexcept nogil

# The Python objects of http1_py.py, from a scanned head.
cdef object make_request(const char *data, const Head *head)
cdef object make_response(const char *data, const Head *head)
cdef list make_headers(const char *data, const Head *head)

cdef enum ChunkState:
    READ_SIZE = 0
    READ_EXTENSION
    READ_SIZE_END
    READ_DATA
    READ_CHUNK_END
    READ_CHUNK_END_LF
    READ_TRAILER_START
    READ_TRAILER_NAME
    READ_TRAILER_VALUE
    READ_TRAILER_END
    READ_LAST
    CHUNKS_DONE

cdef struct Chunks:  # begins zeroed, but for `size`
    ChunkState state
    int64_t size  # of the chunk whose size is being read; -1 before its first digit
    int64_t left  # bytes of the chunk that have not arrived
    int extension_bytes
    int trailer_bytes

cdef void begin_chunks(Chunks *chunks) noexcept nogil

# Take bytes up to the end of the next run of the body's, which is left in `body` and `body_length` (0: no such run was
# reached); how many were taken, or the negated reason. To be called again while bytes are left and `state` is not
# CHUNKS_DONE; what stands behind that state is not looked at.
cdef Py_ssize_t next_chunk(
    Chunks *chunks, const char *data, Py_ssize_t length, const char **body, Py_ssize_t *body_length
) noexcept nogil

# Write a chunk's size and its line end to `out`, which holds at least 18 bytes; how many bytes that are.
cdef int write_chunk_size(char *out, Py_ssize_t size) noexcept nogil


cdef class ChunkedDecoder:
    cdef Chunks _chunks
    cdef bint _request

    cdef bint is_done(self) noexcept
    cdef object _fault(self, Py_ssize_t reason)
    # As `feed`, in the memory that holds the bytes: the body's are moved together where its first run stands.
    cdef Py_ssize_t feed_in_place(self, char *data, Py_ssize_t length, char **body, Py_ssize_t *size) except -1


cpdef bytes encode_request(bytes method, bytes target, list headers)
cpdef bytes encode_response(int status, list headers)
