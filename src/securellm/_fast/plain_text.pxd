# Looking through text many bytes at a time, for extensions: where a run of plain characters ends, or one of characters
# outside ASCII. With SSE2 16 bytes at a time, elsewhere 8; the last few one by one, so that nothing behind the end is
# read.

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #endif

    #if !defined(__SSE2__)
    /* Whether 8 bytes are plain. A carry may mark a byte beside one that is not: such a word is not plain anyhow. */
    static inline int securellm_is_plain_word(const char *at)
    {
        const uint64_t ones = ~(uint64_t)0 / 255;
        uint64_t word, quoted, escaped;
        memcpy(&word, at, 8);
        quoted = word ^ ones * '"';
        escaped = word ^ ones * 0x5C;
        return ((word | (word - ones * 0x20) | (quoted - ones) | (escaped - ones)) & ones * 0x80) == 0;
    }
    #endif

    /* The first byte in at..end that is a quote, a backslash, a control character or outside ASCII; else end. */
    static inline const char *securellm_after_plain(const char *at, const char *end)
    {
        unsigned char byte;
    #if defined(__SSE2__)
        const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8(0x5C), space = _mm_set1_epi8(0x20);
        while (end - at >= 16) {
            const __m128i block = _mm_loadu_si128((const __m128i *)at);
            /* Compared as signed numbers: what is outside ASCII is below the space, too. */
            const int found = _mm_movemask_epi8(_mm_or_si128(
                _mm_or_si128(_mm_cmpeq_epi8(block, quote), _mm_cmpeq_epi8(block, backslash)),
                _mm_cmplt_epi8(block, space)));
            if (found)
                return at + __builtin_ctz((unsigned)found);
            at += 16;
        }
    #endif
        for (; at < end; at++) {
    #if !defined(__SSE2__)
            while (end - at >= 8 && securellm_is_plain_word(at))
                at += 8;
            if (at == end)
                break;
    #endif
            byte = (unsigned char)*at;
            if (byte == '"' || byte == 0x5C || byte < 0x20 || byte >= 0x80)
                break;
        }
        return at;
    }

    /* The place behind a run of characters outside ASCII; NULL when they are not valid UTF-8 (RFC 3629). */
    static inline const char *securellm_after_wide(const char *at, const char *end)
    {
        while (at < end && (unsigned char)*at >= 0x80) {
            const unsigned char *byte = (const unsigned char *)at;
            uint32_t value;
            if (end - at >= 3 && (byte[0] & 0xF0) == 0xE0) {
                if ((byte[1] & 0xC0) != 0x80 || (byte[2] & 0xC0) != 0x80)
                    return NULL;
                value = (uint32_t)(byte[0] & 0x0F) << 12 | (uint32_t)(byte[1] & 0x3F) << 6 | (byte[2] & 0x3F);
                if (value < 0x800 || (value >= 0xD800 && value <= 0xDFFF))
                    return NULL;
                at += 3;
            } else if (end - at >= 2 && byte[0] >= 0xC2 && byte[0] <= 0xDF) {
                if ((byte[1] & 0xC0) != 0x80)
                    return NULL;
                at += 2;
            } else if (end - at >= 4 && byte[0] >= 0xF0 && byte[0] <= 0xF4) {
                if ((byte[1] & 0xC0) != 0x80 || (byte[2] & 0xC0) != 0x80 || (byte[3] & 0xC0) != 0x80)
                    return NULL;
                value = (uint32_t)(byte[0] & 0x07) << 18 | (uint32_t)(byte[1] & 0x3F) << 12;
                if (value < 0x10000 || value > 0x10FFFF)
                    return NULL;
                at += 4;
            } else {
                return NULL;
            }
        }
        return at;
    }
    """
    const char *after_plain "securellm_after_plain"(const char *at, const char *end) noexcept nogil
    const char *after_wide "securellm_after_wide"(const char *at, const char *end) noexcept nogil
