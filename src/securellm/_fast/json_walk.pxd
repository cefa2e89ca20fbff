# A walk over JSON that makes no objects, for extensions that look for a few fields. Whatever is doubtful ends the walk.
#
# Stricter than any parser it stands beside: escapes in keys, numbers that a parser might round or refuse, invalid
# UTF-8, lone surrogates and deep nesting are doubtful. So what it walks to the end, every parser accepts alike.
# Every function is given a place before a value or key, white space skipped, and leaves the place behind it, white
# space skipped again.

from libc.string cimport memcmp

from securellm._fast.long_text cimport after_certain
from securellm._fast.plain_text cimport after_plain, after_wide

cdef enum:
    DEEPEST = 32
    MAX_DIGITS = 15  # exact as a double, and as anything else

cdef struct Walk:
    const char *at
    const char *end


cdef inline void skip_space(Walk *walk) noexcept nogil:
    while walk.at < walk.end and (
        walk.at[0] == c" " or walk.at[0] == c"\n" or walk.at[0] == c"\r" or walk.at[0] == c"\t"
    ):
        walk.at += 1


cdef inline bint take(Walk *walk, char wanted) noexcept nogil:
    """Take one sign, if it is there."""
    if walk.at < walk.end and walk.at[0] == wanted:
        walk.at += 1
        skip_space(walk)
        return True
    return False


cdef inline bint take_word(Walk *walk, const char *word, Py_ssize_t length) noexcept nogil:
    """Take `null`, `true` or `false`, if it is there."""
    if walk.end - walk.at >= length and memcmp(walk.at, word, length) == 0:
        walk.at += length
        skip_space(walk)
        return True
    return False


cdef inline bint take_null(Walk *walk) noexcept nogil:
    return take_word(walk, b"null", 4)


cdef inline int next_key(Walk *walk, bint *begun, const char **key, Py_ssize_t *length) noexcept nogil:
    """Go to the value of the next key of an object that was entered: 1; 0 behind its end, -1 in doubt."""
    if take(walk, c"}"):
        return 0
    if begun[0] and not take(walk, c","):
        return -1
    begun[0] = True
    if walk.at == walk.end or walk.at[0] != c'"':
        return -1
    walk.at += 1
    key[0] = walk.at
    while walk.at < walk.end and walk.at[0] != c'"':
        if walk.at[0] == c"\\" or not 0x20 <= walk.at[0] < 0x7F:
            return -1
        walk.at += 1
    length[0] = walk.at - key[0]
    if walk.at == walk.end:
        return -1
    walk.at += 1
    skip_space(walk)
    return 1 if take(walk, c":") else -1


cdef inline int next_item(Walk *walk, bint *begun) noexcept nogil:
    """Go to the next item of an array that was entered: 1; 0 behind its end, -1 in doubt."""
    if take(walk, c"]"):
        return 0
    if begun[0] and not take(walk, c","):
        return -1
    begun[0] = True
    return 1


cdef inline int hex_value(const char *digits) noexcept nogil:
    """The value of four hexadecimal digits, -1 when they are none."""
    cdef int value = 0
    cdef int place
    cdef int digit
    for place in range(4):
        digit = digits[place]
        if c"0" <= digit <= c"9":
            digit -= c"0"
        elif c"a" <= digit | 32 <= c"f":
            digit = (digit | 32) - c"a" + 10
        else:
            return -1
        value = value * 16 + digit
    return value


cdef inline bint is_short_escape(char letter) noexcept nogil:
    """Whether a backslash and this letter are a character."""
    return (
        letter == c'"' or letter == c"\\" or letter == c"/" or letter == c"b" or letter == c"f" or letter == c"n"
        or letter == c"r" or letter == c"t"
    )


cdef inline int escape_bytes(Walk *walk) noexcept nogil:
    """How long the character is in UTF-8 whose escape begins here, and go behind it; -1 in doubt."""
    cdef int value
    cdef int low
    if walk.end - walk.at < 2:
        return -1
    walk.at += 2
    if (walk.at - 1)[0] != c"u":
        return 1 if is_short_escape((walk.at - 1)[0]) else -1
    if walk.end - walk.at < 4:
        return -1
    value = hex_value(walk.at)
    walk.at += 4
    if value < 0 or 0xDC00 <= value <= 0xDFFF:
        return -1
    if value < 0x80:
        return 1
    if value < 0x800:
        return 2
    if not 0xD800 <= value <= 0xDBFF:
        return 3
    if walk.end - walk.at < 6 or walk.at[0] != c"\\" or walk.at[1] != c"u":
        return -1
    low = hex_value(walk.at + 2)
    walk.at += 6
    return 4 if 0xDC00 <= low <= 0xDFFF else -1


cdef inline Py_ssize_t take_string(Walk *walk) noexcept nogil:
    """Take a string; how long it is in UTF-8, -1 in doubt or where there is none."""
    cdef Py_ssize_t size = 0
    cdef const char *start
    cdef unsigned char byte
    cdef int length
    if walk.at == walk.end or walk.at[0] != c'"':
        return -1
    walk.at += 1
    while True:
        start = walk.at
        walk.at = after_plain(walk.at, walk.end)
        size += walk.at - start
        if walk.at == walk.end:
            return -1
        byte = walk.at[0]
        if byte < 0x20:
            return -1
        if byte == c'"':
            walk.at += 1
            skip_space(walk)
            return size
        if byte == c"\\":
            length = escape_bytes(walk)
            if length < 0:
                return -1
            size += length
        else:
            start = after_wide(walk.at, walk.end)
            if start == NULL:
                return -1
            size += start - walk.at
            walk.at = start


cdef inline bint skip_string(Walk *walk) noexcept nogil:
    """Take a string, however long it is in UTF-8."""
    cdef const char *after
    if walk.at == walk.end or walk.at[0] != c'"':
        return False
    walk.at = after_plain(walk.at + 1, walk.end)
    while walk.at < walk.end and walk.at[0] != c'"':
        walk.at = after_certain(walk.at, walk.end)
        if walk.at == walk.end or walk.at[0] == c'"':
            break
        if walk.at[0] == c"\\":
            if escape_bytes(walk) < 0:
                return False
        elif <unsigned char>walk.at[0] >= 0x80:
            after = after_wide(walk.at, walk.end)
            if after == NULL:
                return False
            walk.at = after
        elif <unsigned char>walk.at[0] < 0x20:
            return False
        walk.at = after_plain(walk.at, walk.end)
    return take(walk, c'"')


cdef inline Py_ssize_t take_text(Walk *walk) noexcept nogil:
    """As `take_string`, where a null is as good as nothing said: 0."""
    return 0 if take_null(walk) else take_string(walk)


cdef inline long long take_count(Walk *walk) noexcept nogil:
    """Take a whole number without a sign; -1 in doubt."""
    cdef long long value = 0
    cdef const char *start = walk.at
    while walk.at < walk.end and c"0" <= walk.at[0] <= c"9":
        value = value * 10 + (walk.at[0] - c"0")
        walk.at += 1
        if walk.at - start > MAX_DIGITS:
            return -1
    if walk.at == start or (start[0] == c"0" and walk.at - start > 1):
        return -1
    if walk.at < walk.end and (walk.at[0] == c"." or walk.at[0] == c"e" or walk.at[0] == c"E"):
        return -1
    skip_space(walk)
    return value


cdef inline bint skip_number(Walk *walk) noexcept nogil:
    """Take a number that no parser finds too large or too long."""
    cdef const char *start
    if walk.at < walk.end and walk.at[0] == c"-":
        walk.at += 1
    start = walk.at
    while walk.at < walk.end and c"0" <= walk.at[0] <= c"9":
        walk.at += 1
    if walk.at == start or (start[0] == c"0" and walk.at - start > 1) or walk.at - start > MAX_DIGITS:
        return False
    if walk.at < walk.end and walk.at[0] == c".":
        walk.at += 1
        start = walk.at
        while walk.at < walk.end and c"0" <= walk.at[0] <= c"9":
            walk.at += 1
        if walk.at == start or walk.at - start > 25:
            return False
    if walk.at < walk.end and (walk.at[0] == c"e" or walk.at[0] == c"E"):
        walk.at += 1
        if walk.at < walk.end and (walk.at[0] == c"+" or walk.at[0] == c"-"):
            walk.at += 1
        start = walk.at
        while walk.at < walk.end and c"0" <= walk.at[0] <= c"9":
            walk.at += 1
        if walk.at == start or walk.at - start > 2:
            return False
    skip_space(walk)
    return True


cdef inline bint skip_scalar(Walk *walk) noexcept nogil:
    """Take a string, a number, null, true or false."""
    if walk.at == walk.end:
        return False
    if walk.at[0] == c'"':
        return skip_string(walk)
    if walk.at[0] == c"n":
        return take_null(walk)
    if walk.at[0] == c"t":
        return take_word(walk, b"true", 4)
    if walk.at[0] == c"f":
        return take_word(walk, b"false", 5)
    return skip_number(walk)


cdef inline bint skip_value(Walk *walk) noexcept nogil:
    """Take any value."""
    cdef char brackets[DEEPEST]
    cdef bint begun[DEEPEST]
    cdef int depth = 0  # of the brackets that are open
    cdef int found
    cdef const char *key
    cdef Py_ssize_t length
    while True:
        if walk.at < walk.end and (walk.at[0] == c"{" or walk.at[0] == c"["):
            if depth == DEEPEST:
                return False
            brackets[depth] = walk.at[0]
            begun[depth] = False
            depth += 1
            take(walk, walk.at[0])
        elif not skip_scalar(walk):
            return False
        while depth:
            if brackets[depth - 1] == c"{":
                found = next_key(walk, &begun[depth - 1], &key, &length)
            else:
                found = next_item(walk, &begun[depth - 1])
            if found < 0:
                return False
            if found == 1:
                break
            depth -= 1
        if depth == 0:
            return True


cdef inline bint is_key(
    const char *key, Py_ssize_t length, const char *wanted, Py_ssize_t wanted_length
) noexcept nogil:
    return length == wanted_length and memcmp(key, wanted, length) == 0


cdef inline bint first_time(unsigned *seen, int field) noexcept nogil:
    """Whether a field that matters is here for the first time."""
    cdef unsigned bit = 1U << field
    if seen[0] & bit:
        return False
    seen[0] |= bit
    return True
