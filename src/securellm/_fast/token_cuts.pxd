# Where a piece of text ends, for counting tokens: the published patterns of o200k_base and cl100k_base, by hand on
# valid UTF-8. There is no regular expression. The definition is `tokens_py.py`.

from libc.stdint cimport uint8_t, uint32_t

cdef extern from *:
    """
    #define LIKELY(x) __builtin_expect(!!(x), 1)
    """
    bint LIKELY(bint) noexcept nogil

cdef enum Class:  # the numbers are those of `tokens_py.CharacterClass`
    OTHER
    UPPER
    LOWER
    LETTER
    MARK
    NUMBER
    NEWLINE
    SPACE
    END  # of the text

cdef struct Classes:  # of all characters: those outside ASCII by blocks of 256
    uint8_t ascii[256]
    uint8_t index[0x1100]
    uint8_t *blocks


cdef inline uint32_t class_of(const Classes *t, const uint8_t *p, const uint8_t *end, uint32_t *width) noexcept nogil:
    cdef uint32_t lead, point
    if p >= end:
        width[0] = 0
        return END
    lead = p[0]
    if LIKELY(lead < 0x80):
        width[0] = 1
        return t.ascii[lead]
    if lead < 0xE0:
        width[0] = 2
        point = ((lead & 0x1F) << 6) | (p[1] & 0x3F)
    elif lead < 0xF0:
        width[0] = 3
        point = ((lead & 0x0F) << 12) | ((p[1] & 0x3F) << 6) | (p[2] & 0x3F)
    else:
        width[0] = 4
        point = ((lead & 0x07) << 18) | ((p[1] & 0x3F) << 12) | ((p[2] & 0x3F) << 6) | (p[3] & 0x3F)
    return t.blocks[(<uint32_t>t.index[point >> 8] << 8) | (point & 0xFF)]


cdef inline const uint8_t *after_suffix(const uint8_t *p, const uint8_t *end) noexcept nogil:
    """After 's 't 're 've 'm 'll 'd in any case, also with U+017F for the s; `p` where there is none."""
    cdef uint32_t a, b
    if p >= end or p[0] != 39 or end - p < 2:
        return p
    a = p[1] | 0x20
    if a == 115 or a == 116 or a == 109 or a == 100:  # s t m d; no sign or control becomes one of them by | 0x20
        if p[1] >= 65:
            return p + 2
    if end - p < 3:
        return p
    if p[1] == 0xC5 and p[2] == 0xBF:
        return p + 3
    b = p[2] | 0x20
    if p[1] >= 65 and p[2] >= 65:
        if (a == 114 and b == 101) or (a == 118 and b == 101) or (a == 108 and b == 108):  # re ve ll
            return p + 3
    return p


cdef inline const uint8_t *after_number(const Classes *t, const uint8_t *p, const uint8_t *end) noexcept nogil:
    cdef uint32_t width, digits = 0
    while digits < 3 and class_of(t, p, end, &width) == NUMBER:
        p += width
        digits += 1
    return p


cdef inline const uint8_t *after_signs(
    const Classes *t, const uint8_t *p, const uint8_t *end, bint slash
) noexcept nogil:
    """After all of [^\\s\\p{L}\\p{N}] and then [\\r\\n] or [\\r\\n/]."""
    cdef uint32_t kind, width
    while True:
        kind = class_of(t, p, end, &width)
        if kind != OTHER and kind != MARK:
            break
        p += width
    while p < end and (p[0] == 10 or p[0] == 13 or (slash and p[0] == 47)):
        p += 1
    return p


cdef inline const uint8_t *after_space(
    const Classes *t, const uint8_t *p, const uint8_t *end, bint whole_at_end
) noexcept nogil:
    """After a run of white space: up to its last newline, or without its last character where more text follows.

    With `whole_at_end` a run that ends the text is taken whole, newlines or not.
    """
    cdef const uint8_t *here = p
    cdef const uint8_t *newline = NULL
    cdef const uint8_t *last = p
    cdef uint32_t kind, width
    while True:
        kind = class_of(t, here, end, &width)
        if kind == SPACE:
            last = here
            here += width
        elif kind == NEWLINE:
            last = here
            here += width
            newline = here
        else:
            break
    if whole_at_end and here == end:
        return end
    if newline != NULL:
        return newline
    if here < end and last > p:
        return last
    return here


cdef inline const uint8_t *after_word(
    const Classes *t, const uint8_t *p, const uint8_t *end, bint capitals
) noexcept nogil:
    """After [Lu Lt Lm Lo M]*[Ll Lm Lo M]+, or, with `capitals`, failing that after [Lu Lt Lm Lo M]+; NULL for neither.

    Without a small letter the first ends after the last character that is in both of its sets.
    """
    cdef const uint8_t *in_both = NULL
    cdef const uint8_t *start = p
    cdef uint32_t kind, width
    while True:
        kind = class_of(t, p, end, &width)
        if kind == UPPER:
            p += width
        elif kind == LETTER or kind == MARK:
            p += width
            in_both = p
        else:
            break
    if kind == LOWER:
        while True:
            p += width
            while p < end and 97 <= p[0] <= 122:
                p += 1
            kind = class_of(t, p, end, &width)
            if kind != LOWER and kind != LETTER and kind != MARK:
                return p
    if in_both != NULL:
        return in_both
    return p if capitals and p > start else NULL


cdef inline const uint8_t *cut_o200k(const Classes *t, const uint8_t *p, const uint8_t *end) noexcept nogil:
    cdef uint32_t kind, width, next_kind, next_width
    cdef const uint8_t *after = NULL
    kind = class_of(t, p, end, &width)
    if kind == UPPER or kind == LOWER or kind == LETTER:
        return after_suffix(after_word(t, p, end, True), end)
    if kind == NUMBER:
        return after_number(t, p, end)
    if kind == NEWLINE:
        return after_space(t, p, end, False)
    next_kind = class_of(t, p + width, end, &next_width)
    if UPPER <= next_kind <= MARK:  # any character may lead a word
        after = after_word(t, p + width, end, False)
        if after == NULL and kind == MARK:  # ... unless the word needs it as its last
            after = after_word(t, p, end, False)
        if after == NULL:
            after = after_word(t, p + width, end, True)
        return after_suffix(after, end)
    if kind == MARK:
        return after_suffix(p + width, end)
    if kind == OTHER or (p[0] == 32 and next_kind == OTHER):
        return after_signs(t, p + width, end, True)
    return after_space(t, p, end, False)


cdef inline const uint8_t *after_letters(const Classes *t, const uint8_t *p, const uint8_t *end) noexcept nogil:
    cdef uint32_t kind, width
    while True:
        while p < end and 97 <= p[0] <= 122:
            p += 1
        kind = class_of(t, p, end, &width)
        if not UPPER <= kind <= LETTER:
            return p
        p += width


cdef inline const uint8_t *cut_cl100k(const Classes *t, const uint8_t *p, const uint8_t *end) noexcept nogil:
    cdef uint32_t kind, width, next_kind, next_width
    cdef const uint8_t *after = after_suffix(p, end)
    if after > p:
        return after
    kind = class_of(t, p, end, &width)
    if UPPER <= kind <= LETTER:
        return after_letters(t, p, end)
    if kind == NUMBER:
        return after_number(t, p, end)
    if kind == NEWLINE:
        return after_space(t, p, end, True)
    next_kind = class_of(t, p + width, end, &next_width)
    if UPPER <= next_kind <= LETTER:
        return after_letters(t, p + width, end)
    if kind == OTHER or kind == MARK or (p[0] == 32 and (next_kind == OTHER or next_kind == MARK)):
        return after_signs(t, p + width, end, False)
    return after_space(t, p, end, True)
