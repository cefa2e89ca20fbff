# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The compiled twin of `tokens_py.py`, which is the definition and says why long pieces are counted exactly.

A scanner written by hand (`token_cuts.pxd`) cuts the UTF-8 of the text where the published pattern does.
A piece is looked up in a cache of fixed size, then among the tokens, then merged. The keys of pieces up to 16 bytes are
the bytes themselves in two words, so that nothing rests on a hash being unique. Tokens stand in an open hash table of
one word each (rank, length, place of the bytes, some bits of the hash), behind a filter of one bit a hash that answers
most of the look-ups that fail. Merging uses fixed room on the stack and allocates nothing.

Texts above RELEASE_BYTES are counted without the GIL. Whoever counts takes the caches from a list and puts them back,
so that threads never share them; there are as many as were ever in use at once, KEPT_CACHES at most.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from securellm._fast.token_cuts cimport LIKELY, Classes, cut_cl100k, cut_o200k
from securellm._fast.tokens_py import OVERLAP_BYTES, WINDOW_BYTES

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* The first bytes of a text are the low ones of a word, on every machine. */
    static inline uint64_t load8(const uint8_t *p) {
        uint64_t word;
        memcpy(&word, p, 8);
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
    #endif
        return word;
    }

    /* The first n of them, 1 <= n <= 8. */
    static inline uint64_t first(uint64_t word, uint32_t n) {
        return word & (~(uint64_t)0 >> (64 - 8 * n));
    }

    static inline uint64_t hash16(uint64_t low, uint64_t high, uint32_t n) {
        uint64_t h = (low ^ ((uint64_t)n << 59)) * 0x9e3779b97f4a7c15u;
        h ^= (high + (h >> 29)) * 0xc2b2ae3d27d4eb4fu;
        h ^= h >> 32;
        h *= 0xd6e8feb86659fd93u;
        return h ^ (h >> 29);
    }

    /* The least of 16 numbers, four at a time: compilers turn this into whatever the machine has. */
    typedef int32_t four __attribute__((vector_size(16)));
    static inline four less(four a, four b) {
        four which = a < b;
        return (a & which) | (b & ~which);
    }
    static inline int32_t least16(const int32_t *keys) {
        four a, b, c, d;
        memcpy(&a, keys, 16);
        memcpy(&b, keys + 4, 16);
        memcpy(&c, keys + 8, 16);
        memcpy(&d, keys + 12, 16);
        a = less(less(a, b), less(c, d));
        int32_t m = a[0] < a[1] ? a[0] : a[1], n = a[2] < a[3] ? a[2] : a[3];
        return m < n ? m : n;
    }
    """
    uint64_t load8(const uint8_t *) noexcept nogil
    uint64_t first(uint64_t, uint32_t) noexcept nogil
    uint64_t hash16(uint64_t, uint64_t, uint32_t) noexcept nogil
    int32_t least16(const int32_t *) noexcept nogil

cdef enum:
    NONE = 0xFFFFFFF  # no such token; above all ranks
    DEAD = 0x7FFFFFFF  # no such pair; above all keys
    PLACE_BITS = 10  # a place in a window
    WINDOW = 1 << PLACE_BITS
    GROUP = 16  # keys whose least is remembered
    GROUPS = 64  # in a window
    LONGEST = 128  # bytes of a token
    RANK_BITS = 18
    OFFSET_BITS = 22
    TAG_BITS = 16
    FILTER_WORDS = 1 << 15
    SHORT_PIECES = 1 << 14
    LONG_PIECES = 1 << 12
    LONG_BYTES = 56
    RELEASE_BYTES = 16 * 1024
    KEPT_CACHES = 4

assert WINDOW_BYTES == WINDOW == GROUPS * GROUP


cdef struct ShortPiece:  # up to 16 bytes; length 0 where there is none
    uint64_t low
    uint64_t high
    uint32_t length
    uint32_t tokens

cdef struct LongPiece:
    uint32_t length
    uint32_t tokens
    uint8_t text[LONG_BYTES]

cdef struct Tables:
    uint64_t *slots  # a token each, 0 for none: rank | length | offset | tag
    uint64_t mask
    uint64_t *filter
    uint8_t *text  # of all tokens, with room behind for whole words to be read
    uint32_t *pairs  # rank of the token of two bytes
    Classes classes
    uint32_t longest
    uint32_t window
    uint32_t overlap


cdef struct Text:
    const uint8_t *start
    Py_ssize_t size


cdef class _Caches:
    """What is known of pieces that have come before; its room never grows."""

    cdef ShortPiece *short_pieces
    cdef LongPiece *long_pieces

    def __cinit__(self):
        self.short_pieces = <ShortPiece *>calloc(SHORT_PIECES, sizeof(ShortPiece))
        self.long_pieces = <LongPiece *>calloc(LONG_PIECES, sizeof(LongPiece))
        if self.short_pieces == NULL or self.long_pieces == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.short_pieces)
        free(self.long_pieces)


cdef class TokenCounter:
    """Counts the tokens of texts in one encoding; threads may share it."""

    cdef Tables _tables
    cdef bint _o200k
    cdef list _caches

    def __cinit__(
        self,
        str encoding not None,
        bytes vocabulary not None,
        bytes classes not None,
        *,
        int window_bytes=WINDOW_BYTES,
        int overlap_bytes=OVERLAP_BYTES,
    ):
        if not 0 < overlap_bytes < window_bytes <= WINDOW:
            raise ValueError(f"got an overlap of {overlap_bytes} bytes in windows of {window_bytes}")
        if encoding not in ("o200k_base", "cl100k_base"):
            raise KeyError(encoding)
        self._o200k = encoding == "o200k_base"
        self._caches = []
        self._tables.window = window_bytes
        self._tables.overlap = overlap_bytes
        self._fill_classes(classes)
        self._fill_tokens(vocabulary)

    def __dealloc__(self):
        free(self._tables.slots)
        free(self._tables.filter)
        free(self._tables.text)
        free(self._tables.pairs)
        free(self._tables.classes.blocks)

    def count(self, str text not None):
        """How many tokens the text has."""
        cdef Py_ssize_t size
        cdef const uint8_t *start
        cdef int64_t tokens
        cdef _Caches caches
        text = _utf8(text, &start, &size)
        caches = self._caches.pop() if self._caches else _Caches()
        if size > RELEASE_BYTES:
            with nogil:
                tokens = self._count(caches, start, start + size)
        else:
            tokens = self._count(caches, start, start + size)
        if len(self._caches) < KEPT_CACHES:
            self._caches.append(caches)
        return tokens

    def count_all(self, list texts not None):
        """How many tokens the texts have, each by itself; without the GIL when together they are large."""
        cdef Py_ssize_t number = len(texts), place, total = 0
        cdef Text *where = <Text *>malloc((number + 1) * sizeof(Text))
        cdef int64_t tokens = 0
        cdef list held = []  # what `where` points into
        cdef _Caches caches
        if where == NULL:
            raise MemoryError
        try:
            for place in range(number):
                held.append(_utf8(texts[place], &where[place].start, &where[place].size))
                total += where[place].size
            caches = self._caches.pop() if self._caches else _Caches()
            if total > RELEASE_BYTES:
                with nogil:
                    for place in range(number):
                        tokens += self._count(caches, where[place].start, where[place].start + where[place].size)
            else:
                for place in range(number):
                    tokens += self._count(caches, where[place].start, where[place].start + where[place].size)
        finally:
            free(where)
        if len(self._caches) < KEPT_CACHES:
            self._caches.append(caches)
        return tokens

    def count_prefixes(self, bytes piece not None):
        """The tokens of bytes that are not cut by the pattern, without windows: what the rare case falls back to."""
        cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(piece)
        cdef const uint8_t *end = start + PyBytes_GET_SIZE(piece)
        cdef int64_t tokens
        with nogil:
            tokens = _count_prefixes(&self._tables, start, end)
        return tokens

    cdef int64_t _count(self, _Caches caches, const uint8_t *p, const uint8_t *end) noexcept nogil:
        cdef const Tables *t = &self._tables
        cdef const uint8_t *piece
        cdef int64_t tokens = 0
        while p < end:
            piece = p
            p = cut_o200k(&t.classes, p, end) if self._o200k else cut_cl100k(&t.classes, p, end)
            tokens += _count_piece(t, caches.short_pieces, caches.long_pieces, piece, <uint64_t>(p - piece), end)
        return tokens

    cdef int _fill_classes(self, bytes table) except -1:
        cdef const uint8_t *given = <const uint8_t *>PyBytes_AS_STRING(table)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(table) - 0x1100
        cdef Classes *classes = &self._tables.classes
        cdef int place
        if size <= 0 or size % 256 or max(table[:0x1100]) * 256 >= size:
            raise ValueError("not a table of classes")
        classes.blocks = <uint8_t *>malloc(size)
        if classes.blocks == NULL:
            raise MemoryError
        memcpy(classes.index, given, 0x1100)
        memcpy(classes.blocks, given + 0x1100, size)
        for place in range(256):
            classes.ascii[place] = classes.blocks[(<uint32_t>classes.index[0] << 8) | place]
        return 0

    cdef int _fill_tokens(self, bytes vocabulary) except -1:
        cdef const uint8_t *given = <const uint8_t *>PyBytes_AS_STRING(vocabulary)
        cdef uint64_t number = int.from_bytes(vocabulary[:4], "little")
        cdef uint64_t size = PyBytes_GET_SIZE(vocabulary)
        cdef uint64_t slots = 1, rank, offset = 0
        cdef Tables *t = &self._tables
        if number >= 1 << RANK_BITS or size < 4 + number:
            raise ValueError("not a vocabulary")
        for rank in range(number):
            if not 0 < given[4 + rank] <= LONGEST:
                raise ValueError("not a vocabulary")
            offset += given[4 + rank]
        size -= 4 + number
        if size != offset or not 0 < size < 1 << OFFSET_BITS:
            raise ValueError("not a vocabulary")
        offset = 0
        while slots < number * 3 // 2:
            slots *= 2
        t.mask = slots - 1
        t.slots = <uint64_t *>calloc(slots, sizeof(uint64_t))
        t.filter = <uint64_t *>calloc(FILTER_WORDS, sizeof(uint64_t))
        t.pairs = <uint32_t *>malloc(65536 * sizeof(uint32_t))
        t.text = <uint8_t *>calloc(size + 16, 1)
        if t.slots == NULL or t.filter == NULL or t.pairs == NULL or t.text == NULL:
            raise MemoryError
        memcpy(t.text, given + 4 + number, size)
        for rank in range(65536):
            t.pairs[rank] = NONE
        with nogil:
            for rank in range(number):
                _put(t, rank, given[4 + rank], offset)
                offset += given[4 + rank]
        return 0


cdef str _utf8(str text, const uint8_t **start, Py_ssize_t *size):
    """The text whose UTF-8 this is: the given one, but for lone surrogates."""
    if text is None:
        raise TypeError("got None, expected a text")
    try:
        start[0] = <const uint8_t *>PyUnicode_AsUTF8AndSize(text, size)
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        start[0] = <const uint8_t *>PyUnicode_AsUTF8AndSize(text, size)
    return text


cdef void _put(Tables *t, uint64_t rank, uint32_t length, uint64_t offset) noexcept nogil:
    cdef const uint8_t *p = t.text + offset
    cdef uint64_t low, high, h, place
    if length > t.longest:
        t.longest = length
    if length == 2:
        t.pairs[p[0] | (<uint32_t>p[1] << 8)] = <uint32_t>rank
    h = _hash(p, length, p + length + 16, &low, &high)  # there is room behind every token
    t.filter[h >> 49] |= <uint64_t>1 << ((h >> 43) & 63)
    place = h & t.mask
    while t.slots[place]:
        place = (place + 1) & t.mask
    t.slots[place] = (
        rank
        | (<uint64_t>length << RANK_BITS)
        | (offset << (RANK_BITS + 8))
        | ((h >> (64 - TAG_BITS)) << (64 - TAG_BITS))
    )


# --- one piece: look up, or merge ---


cdef inline uint64_t _hash(
    const uint8_t *p, uint32_t n, const uint8_t *end, uint64_t *low, uint64_t *high
) noexcept nogil:
    """The hash of n >= 1 bytes; of up to 16 also the bytes themselves. Nothing at or after `end` is read."""
    cdef uint8_t copy[16]
    cdef uint64_t h
    cdef uint32_t done
    if n > 16:
        h = n
        done = 0
        while done + 16 < n:
            h = hash16(load8(p + done) ^ h, load8(p + done + 8) + h, 16)
            done += 16
        return hash16(load8(p + n - 16) ^ h, load8(p + n - 8) + h, 17)
    if LIKELY(p + 16 <= end):
        if n <= 8:
            low[0] = first(load8(p), n)
            high[0] = 0
        else:
            low[0] = load8(p)
            high[0] = first(load8(p + 8), n - 8)
    else:
        memset(copy, 0, 16)
        memcpy(copy, p, n)
        low[0] = load8(copy)
        high[0] = load8(copy + 8)
    return hash16(low[0], high[0], n)


cdef inline uint32_t _find(
    const Tables *t, const uint8_t *p, uint32_t n, uint64_t h, uint64_t low, uint64_t high
) noexcept nogil:
    """The rank of these bytes, whose hash is `h`, or NONE."""
    cdef uint64_t place = h & t.mask, slot
    cdef const uint8_t *text
    cdef uint64_t wanted = ((h >> (64 - TAG_BITS)) << (64 - TAG_BITS)) | (<uint64_t>n << RANK_BITS)
    cdef uint64_t compared = ~((((<uint64_t>1 << OFFSET_BITS) - 1) << (RANK_BITS + 8)) | ((1 << RANK_BITS) - 1))
    if not (t.filter[h >> 49] >> ((h >> 43) & 63)) & 1:
        return NONE
    while True:
        slot = t.slots[place]
        if slot == 0:
            return NONE
        if slot & compared == wanted:
            text = t.text + ((slot >> (RANK_BITS + 8)) & ((1 << OFFSET_BITS) - 1))
            if n <= 8:
                if first(load8(text), n) == low:
                    return slot & ((1 << RANK_BITS) - 1)
            elif n <= 16:
                if load8(text) == low and first(load8(text + 8), n - 8) == high:
                    return slot & ((1 << RANK_BITS) - 1)
            elif memcmp(text, p, n) == 0:
                return slot & ((1 << RANK_BITS) - 1)
        place = (place + 1) & t.mask


cdef inline uint32_t _rank(const Tables *t, const uint8_t *p, uint32_t n, const uint8_t *end) noexcept nogil:
    cdef uint64_t low = 0, high = 0, h
    if n > t.longest:
        return NONE
    h = _hash(p, n, end, &low, &high)
    return _find(t, p, n, h, low, high)


cdef inline int64_t _count_piece(
    const Tables *t, ShortPiece *short_pieces, LongPiece *long_pieces, const uint8_t *p, uint64_t n, const uint8_t *end
) noexcept nogil:
    cdef uint64_t low = 0, high = 0, h
    cdef ShortPiece *known
    cdef LongPiece *same
    cdef uint16_t follows[WINDOW]
    if n <= 16:
        h = _hash(p, <uint32_t>n, end, &low, &high)
        known = &short_pieces[(h >> 40) & (SHORT_PIECES - 1)]
        if LIKELY(known.low == low and known.high == high and known.length == n):
            return known.tokens
        known.low = low
        known.high = high
        known.length = <uint32_t>n
        known.tokens = 1
        if _find(t, p, <uint32_t>n, h, low, high) == NONE:
            known.tokens = _merge(t, p, <uint32_t>n, end, follows)
        return known.tokens
    if n <= LONG_BYTES:
        h = _hash(p, <uint32_t>n, end, &low, &high)
        same = &long_pieces[(h >> 40) & (LONG_PIECES - 1)]
        if same.length == n and memcmp(same.text, p, n) == 0:
            return same.tokens
        same.length = <uint32_t>n
        memcpy(same.text, p, n)
        same.tokens = 1
        if _find(t, p, <uint32_t>n, h, low, high) == NONE:
            same.tokens = _merge(t, p, <uint32_t>n, end, follows)
        return same.tokens
    if n <= t.longest and _rank(t, p, <uint32_t>n, end) != NONE:
        return 1
    if n <= t.window:
        return _merge(t, p, <uint32_t>n, end, follows)
    return _count_long(t, p, p + n)


cdef inline int32_t _key(
    const Tables *t, const uint8_t *p, uint32_t left, uint32_t right, const uint8_t *end
) noexcept nogil:
    cdef uint32_t rank = _rank(t, p + left, right - left, end)
    return DEAD if rank == NONE else <int32_t>(rank << PLACE_BITS | left)


cdef uint32_t _merge(
    const Tables *t, const uint8_t *p, uint32_t n, const uint8_t *end, uint16_t *follows
) noexcept nogil:
    """How many tokens n <= WINDOW bytes merge to; `follows` is then, for each token's first place, where it ends."""
    # keys[i]: rank of the part at i with its neighbour, then i, so that the least is the leftmost of the lowest rank.
    cdef int32_t keys[WINDOW]
    cdef int32_t least[GROUPS]
    cdef uint16_t precedes[WINDOW + 1]
    cdef uint32_t place, gone, after, left, rank, group, parts = n
    cdef uint32_t groups = (n + GROUP - 1) // GROUP
    cdef int32_t key, other
    for place in range(n - 1):
        rank = t.pairs[p[place] | (<uint32_t>p[place + 1] << 8)]
        keys[place] = DEAD if rank == NONE else <int32_t>(rank << PLACE_BITS | place)
        follows[place] = place + 1
        precedes[place + 1] = place
    follows[n - 1] = n
    for place in range(n - 1, groups * GROUP):
        keys[place] = DEAD
    for group in range(groups):
        least[group] = least16(keys + group * GROUP)
    for group in range(groups, (groups + GROUP - 1) // GROUP * GROUP):
        least[group] = DEAD
    while True:
        key = least[0]
        if groups > 1:
            group = 0
            while group < groups:
                other = least16(least + group)
                if other < key:
                    key = other
                group += GROUP
        if key == DEAD:
            return parts
        place = key & (WINDOW - 1)
        gone = follows[place]
        after = follows[gone]
        follows[place] = after
        keys[gone] = DEAD
        parts -= 1
        if after < n:
            precedes[after] = place
            keys[place] = _key(t, p, place, follows[after], end)
        else:
            keys[place] = DEAD
        group = place // GROUP
        if gone // GROUP != group:
            least[gone // GROUP] = least16(keys + (gone // GROUP) * GROUP)
        if place > 0:
            left = precedes[place]
            keys[left] = _key(t, p, left, after, end)
            if left // GROUP != group:
                least[left // GROUP] = least16(keys + (left // GROUP) * GROUP)
        least[group] = least16(keys + group * GROUP)


# --- pieces longer than a window: see the definition ---


cdef bint _stand(
    const Tables *t, const uint8_t *border, uint32_t before, uint32_t after, const uint8_t *end
) noexcept nogil:
    cdef uint16_t follows[2 * LONGEST]
    if before == 0:
        return _merge(t, border, after, end, follows) == 1
    return _merge(t, border - before, before + after, end, follows) == 2 and follows[0] == before


cdef int64_t _count_long(const Tables *t, const uint8_t *p, const uint8_t *end) noexcept nogil:
    cdef uint16_t follows[WINDOW]
    cdef uint16_t borders[WINDOW + 1]
    cdef uint16_t earlier[WINDOW + 1]
    cdef const uint8_t *start = p
    cdef int64_t tokens = 0
    cdef uint32_t size, last, at, old, length, before = 0, earlier_last = 0, cut
    cdef bint joined
    while True:
        size = t.window if end - start > t.window else <uint32_t>(end - start)
        last = _merge(t, start, size, end, follows)
        borders[0] = 0
        for at in range(last):
            borders[at + 1] = follows[borders[at]]
        at = 0  # the first border of the chain that goes on
        if before:
            old = 0
            joined = False
            while old <= earlier_last and at < last:
                if earlier[old] < borders[at]:
                    old += 1
                elif earlier[old] > borders[at]:
                    at += 1
                else:
                    length = earlier[old] - earlier[old - 1] if old else before
                    if _stand(t, start + borders[at], length, borders[at + 1] - borders[at], end):
                        joined = True
                        tokens += old
                        break
                    old += 1
                    at += 1
            if not joined:
                return _count_prefixes(t, p, end)
        if start + size == end:
            return tokens + last - at
        cut = last
        while cut > at and borders[cut] + t.overlap > size:
            cut -= 1
        if cut == at:
            return _count_prefixes(t, p, end)
        tokens += cut - at
        before = borders[cut] - borders[cut - 1]
        earlier_last = last - cut
        for old in range(earlier_last + 1):
            earlier[old] = borders[cut + old] - borders[cut]
        start += borders[cut]


cdef int64_t _count_prefixes(const Tables *t, const uint8_t *p, const uint8_t *end) noexcept nogil:
    # Of the last prefixes, in a ring: how many tokens, and the length of the last.
    cdef int64_t counts[2 * LONGEST]
    cdef uint32_t lengths[2 * LONGEST]
    cdef uint64_t size = <uint64_t>(end - p), done, earlier
    cdef uint32_t length
    counts[0] = 0
    lengths[0] = 0
    for done in range(1, size + 1):
        length = t.longest if done > t.longest else <uint32_t>done
        while length:
            earlier = (done - length) % (2 * LONGEST)
            if _rank(t, p + done - length, length, end) != NONE and _stand(
                t, p + done - length, lengths[earlier], length, end
            ):
                counts[done % (2 * LONGEST)] = counts[earlier] + 1
                lengths[done % (2 * LONGEST)] = length
                break
            length -= 1
    return counts[size % (2 * LONGEST)]
