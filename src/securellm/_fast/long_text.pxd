# Going over a string of JSON that has escapes or characters outside ASCII, 64 bytes at a time, for extensions: what
# `plain_text.pxd` stops at every few bytes. Needs AVX2; where there is none nothing is gone over, and the caller does
# all of it one by one. Only what is certain is gone over; it stops before whatever may be wrong, and judges nothing.
#
# UTF-8 is checked as by J. Keiser and D. Lemire, "Validating UTF-8 in less than one instruction per byte" (2021): three
# nibbles of two neighbours (the whole of the first, the upper one of the second) each say which errors are possible,
# and an error is what all three say.

cdef extern from *:
    """
    #include <stdint.h>
    #if defined(__x86_64__) && defined(__GNUC__)
    #define SECURELLM_AVX2 1
    #include <immintrin.h>

    /* What a byte may be in an escape, as bits that both of its nibbles must agree on. */
    #define SECURELLM_HEX_DIGIT 0x01  /* 0-9 */
    #define SECURELLM_HEX_LETTER 0x02 /* a-f, in either case */
    #define SECURELLM_SHORT_2 0x04    /* " and / */
    #define SECURELLM_SHORT_5 0x08    /* the backslash */
    #define SECURELLM_SHORT_6 0x10    /* b, f, n */
    #define SECURELLM_SHORT_7 0x20    /* r, t */
    #define SECURELLM_LETTER_U 0x40
    #define SECURELLM_LETTER_D 0x80   /* in either case; U+D800 to U+DFFF are halves of pairs */
    #define SECURELLM_LAST_4 0x04     /* C-F, in either case: where the second digit is looked at alone */
    #define SECURELLM_HEX (SECURELLM_HEX_DIGIT | SECURELLM_HEX_LETTER)
    #define SECURELLM_SHORT (SECURELLM_SHORT_2 | SECURELLM_SHORT_5 | SECURELLM_SHORT_6 | SECURELLM_SHORT_7)

    /* Errors of two bytes in a row; the last is one unless a character of three or four bytes has come that far. */
    #define SECURELLM_CUT 0x01         /* a first byte, and no continuation behind it */
    #define SECURELLM_STRAY 0x02       /* a continuation behind ASCII */
    #define SECURELLM_LONG_3 0x04      /* E0 80-9F: fits two bytes */
    #define SECURELLM_BEYOND 0x08      /* F4 90-BF, F5-FF: beyond U+10FFFF */
    #define SECURELLM_SURROGATE 0x10   /* ED A0-BF */
    #define SECURELLM_LONG_2 0x20      /* C0, C1: fits one byte */
    #define SECURELLM_LONG_4 0x40      /* F0 80-8F: fits three bytes; and F5-FF with the same second byte */
    #define SECURELLM_CONTINUED 0x80
    #define SECURELLM_ANY_LOW (SECURELLM_CUT | SECURELLM_STRAY | SECURELLM_CONTINUED)
    #define SECURELLM_F5_UP (SECURELLM_ANY_LOW | SECURELLM_BEYOND | SECURELLM_LONG_4)
    #define SECURELLM_CONTINUATION (SECURELLM_STRAY | SECURELLM_LONG_2 | SECURELLM_CONTINUED)

    #define SECURELLM_ON_AVX2 static inline __attribute__((target("avx2")))
    #define SECURELLM_TWICE(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p) \\
        _mm256_setr_epi8((char)(a), (char)(b), (char)(c), (char)(d), (char)(e), (char)(f), (char)(g), (char)(h), \\
                         (char)(i), (char)(j), (char)(k), (char)(l), (char)(m), (char)(n), (char)(o), (char)(p), \\
                         (char)(a), (char)(b), (char)(c), (char)(d), (char)(e), (char)(f), (char)(g), (char)(h), \\
                         (char)(i), (char)(j), (char)(k), (char)(l), (char)(m), (char)(n), (char)(o), (char)(p))

    SECURELLM_ON_AVX2 uint64_t securellm_bits(__m256i low, __m256i high)
    {
        return (uint32_t)_mm256_movemask_epi8(low) | (uint64_t)(uint32_t)_mm256_movemask_epi8(high) << 32;
    }

    SECURELLM_ON_AVX2 __m256i securellm_upper_nibbles(__m256i block)
    {
        return _mm256_and_si256(_mm256_srli_epi16(block, 4), _mm256_set1_epi8(0x0F));
    }

    /* The classes that both nibbles of a byte agree on. */
    SECURELLM_ON_AVX2 __m256i securellm_classes(__m256i block, __m256i by_upper, __m256i by_lower)
    {
        return _mm256_and_si256(
            _mm256_shuffle_epi8(by_upper, securellm_upper_nibbles(block)),
            _mm256_shuffle_epi8(by_lower, _mm256_and_si256(block, _mm256_set1_epi8(0x0F))));
    }

    /* What each byte may be in an escape. A byte outside ASCII is nothing. */
    SECURELLM_ON_AVX2 __m256i securellm_escape_classes(__m256i block)
    {
        const __m256i by_upper = SECURELLM_TWICE(
            0, 0, SECURELLM_SHORT_2, SECURELLM_HEX_DIGIT, SECURELLM_HEX_LETTER | SECURELLM_LETTER_D, SECURELLM_SHORT_5,
            SECURELLM_HEX_LETTER | SECURELLM_LETTER_D | SECURELLM_SHORT_6, SECURELLM_SHORT_7 | SECURELLM_LETTER_U,
            0, 0, 0, 0, 0, 0, 0, 0);
        const __m256i by_lower = SECURELLM_TWICE(
            SECURELLM_HEX_DIGIT, SECURELLM_HEX,
            SECURELLM_HEX | SECURELLM_SHORT_2 | SECURELLM_SHORT_6 | SECURELLM_SHORT_7, SECURELLM_HEX,
            SECURELLM_HEX | SECURELLM_LETTER_D | SECURELLM_SHORT_7, SECURELLM_HEX | SECURELLM_LETTER_U,
            SECURELLM_HEX | SECURELLM_SHORT_6, SECURELLM_HEX_DIGIT, SECURELLM_HEX_DIGIT, SECURELLM_HEX_DIGIT,
            0, 0, SECURELLM_SHORT_5, 0, SECURELLM_SHORT_6, SECURELLM_SHORT_2);
        return securellm_classes(block, by_upper, by_lower);
    }

    SECURELLM_ON_AVX2 uint64_t securellm_of_class(__m256i low, __m256i high, int classes)
    {
        const __m256i wanted = _mm256_set1_epi8((char)classes), zero = _mm256_setzero_si256();
        return ~securellm_bits(_mm256_cmpeq_epi8(_mm256_and_si256(low, wanted), zero),
                               _mm256_cmpeq_epi8(_mm256_and_si256(high, wanted), zero));
    }

    /* Where escapes begin whose 64 bytes begin outside one: within a run of backslashes at every second. */
    SECURELLM_ON_AVX2 uint64_t securellm_escape_starts(uint64_t backslashes)
    {
        const uint64_t even = 0x5555555555555555u;
        const uint64_t firsts = backslashes & ~(backslashes << 1);
        const uint64_t carried = backslashes + (firsts & even); /* the runs that begin at an even place are cleared */
        return (backslashes & ~carried & even) | (backslashes & carried & ~even);
    }

    /* Of the good escapes whose first digit is D, those that are half of a pair of surrogates and stand alone. */
    SECURELLM_ON_AVX2 uint64_t securellm_unpaired(__m256i low, __m256i high, uint64_t with_d)
    {
        const __m256i by_upper = SECURELLM_TWICE(
            0, 0, 0, SECURELLM_HEX_DIGIT, SECURELLM_HEX_LETTER | SECURELLM_LAST_4, 0,
            SECURELLM_HEX_LETTER | SECURELLM_LAST_4, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        const __m256i by_lower = SECURELLM_TWICE(
            0, SECURELLM_HEX_LETTER, SECURELLM_HEX_LETTER, SECURELLM_LAST_4, SECURELLM_LAST_4, SECURELLM_LAST_4,
            SECURELLM_LAST_4, 0, SECURELLM_HEX_DIGIT, SECURELLM_HEX_DIGIT, 0, 0, 0, 0, 0, 0);
        const __m256i low_classes = securellm_classes(low, by_upper, by_lower);
        const __m256i high_classes = securellm_classes(high, by_upper, by_lower);
        const uint64_t leading = with_d & securellm_of_class(low_classes, high_classes, SECURELLM_HEX) >> 3;
        const uint64_t trailing = with_d & securellm_of_class(low_classes, high_classes, SECURELLM_LAST_4) >> 3;
        return (leading & ~(trailing >> 6)) | (trailing & ~(leading << 6));
    }

    /* Escapes that are not known to be good within these 64 bytes: wrong, cut, or of surrogates. */
    SECURELLM_ON_AVX2 uint64_t securellm_doubtful_escapes(__m256i low, __m256i high, uint64_t starts)
    {
        const __m256i low_classes = securellm_escape_classes(low), high_classes = securellm_escape_classes(high);
        const uint64_t brief = securellm_of_class(low_classes, high_classes, SECURELLM_SHORT);
        const uint64_t others = starts & ~(brief >> 1);
        uint64_t hex, good, with_d;
        if (!others)
            return 0;
        hex = securellm_of_class(low_classes, high_classes, SECURELLM_HEX);
        good = others & securellm_of_class(low_classes, high_classes, SECURELLM_LETTER_U) >> 1;
        good &= hex >> 2 & hex >> 3 & hex >> 4 & hex >> 5;
        with_d = good & securellm_bits(low_classes, high_classes) >> 2; /* the upper bit is that of D */
        return (others & ~good) | (with_d ? securellm_unpaired(low, high, with_d) : 0);
    }

    /* Errors of UTF-8 in 32 bytes, as bytes that are not 0. The three others begin 1 to 3 places before it. */
    SECURELLM_ON_AVX2 __m256i securellm_utf8_errors(__m256i block, __m256i before_1, __m256i before_2, __m256i before_3)
    {
        const __m256i by_upper = SECURELLM_TWICE(
            SECURELLM_STRAY, SECURELLM_STRAY, SECURELLM_STRAY, SECURELLM_STRAY,
            SECURELLM_STRAY, SECURELLM_STRAY, SECURELLM_STRAY, SECURELLM_STRAY,
            SECURELLM_CONTINUED, SECURELLM_CONTINUED, SECURELLM_CONTINUED, SECURELLM_CONTINUED,
            SECURELLM_CUT | SECURELLM_LONG_2, SECURELLM_CUT, SECURELLM_CUT | SECURELLM_LONG_3 | SECURELLM_SURROGATE,
            SECURELLM_CUT | SECURELLM_BEYOND | SECURELLM_LONG_4);
        const __m256i by_lower = SECURELLM_TWICE(
            SECURELLM_ANY_LOW | SECURELLM_LONG_2 | SECURELLM_LONG_3 | SECURELLM_LONG_4,
            SECURELLM_ANY_LOW | SECURELLM_LONG_2, SECURELLM_ANY_LOW, SECURELLM_ANY_LOW,
            SECURELLM_ANY_LOW | SECURELLM_BEYOND, SECURELLM_F5_UP, SECURELLM_F5_UP, SECURELLM_F5_UP,
            SECURELLM_F5_UP, SECURELLM_F5_UP, SECURELLM_F5_UP, SECURELLM_F5_UP,
            SECURELLM_F5_UP, SECURELLM_F5_UP | SECURELLM_SURROGATE, SECURELLM_F5_UP, SECURELLM_F5_UP);
        const __m256i by_next = SECURELLM_TWICE(
            SECURELLM_CUT, SECURELLM_CUT, SECURELLM_CUT, SECURELLM_CUT,
            SECURELLM_CUT, SECURELLM_CUT, SECURELLM_CUT, SECURELLM_CUT,
            SECURELLM_CONTINUATION | SECURELLM_LONG_3 | SECURELLM_LONG_4,
            SECURELLM_CONTINUATION | SECURELLM_LONG_3 | SECURELLM_BEYOND,
            SECURELLM_CONTINUATION | SECURELLM_SURROGATE | SECURELLM_BEYOND,
            SECURELLM_CONTINUATION | SECURELLM_SURROGATE | SECURELLM_BEYOND,
            SECURELLM_CUT, SECURELLM_CUT, SECURELLM_CUT, SECURELLM_CUT);
        const __m256i pairs = _mm256_and_si256(
            securellm_classes(before_1, by_upper, by_lower),
            _mm256_shuffle_epi8(by_next, securellm_upper_nibbles(block)));
        /* E0 and above two places before, F0 and above three places before: the upper bit is set. */
        const __m256i further = _mm256_or_si256(
            _mm256_subs_epu8(before_2, _mm256_set1_epi8(0xE0 - 0x80)),
            _mm256_subs_epu8(before_3, _mm256_set1_epi8(0xF0 - 0x80)));
        return _mm256_xor_si256(pairs, _mm256_and_si256(further, _mm256_set1_epi8((char)SECURELLM_CONTINUED)));
    }

    /* Errors of UTF-8 in 64 bytes that begin a character; in `cut` the last character, when it goes beyond them. */
    SECURELLM_ON_AVX2 uint64_t securellm_wide_errors(const char *at, __m256i low, __m256i high, uint64_t *cut)
    {
        const __m256i above = _mm256_permute2x128_si256(low, low, 0x08); /* nothing, and the lower half */
        const __m256i low_errors = securellm_utf8_errors(
            low, _mm256_alignr_epi8(low, above, 15), _mm256_alignr_epi8(low, above, 14),
            _mm256_alignr_epi8(low, above, 13));
        const __m256i high_errors = securellm_utf8_errors(
            high, _mm256_loadu_si256((const __m256i *)(at + 31)), _mm256_loadu_si256((const __m256i *)(at + 30)),
            _mm256_loadu_si256((const __m256i *)(at + 29)));
        const __m256i zero = _mm256_setzero_si256();
        *cut = (uint64_t)((unsigned char)at[63] >= 0xC0) << 63 | (uint64_t)((unsigned char)at[62] >= 0xE0) << 62
            | (uint64_t)((unsigned char)at[61] >= 0xF0) << 61;
        return ~securellm_bits(_mm256_cmpeq_epi8(low_errors, zero), _mm256_cmpeq_epi8(high_errors, zero));
    }

    static __attribute__((target("avx2"))) const char *securellm_after_blocks(const char *at, const char *end)
    {
        const __m256i quote = _mm256_set1_epi8('"'), backslash = _mm256_set1_epi8(0x5C);
        const __m256i last_control = _mm256_set1_epi8(0x1F);
        while (end - at >= 64) {
            const __m256i low = _mm256_loadu_si256((const __m256i *)at);
            const __m256i high = _mm256_loadu_si256((const __m256i *)(at + 32));
            const uint64_t backslashes =
                securellm_bits(_mm256_cmpeq_epi8(low, backslash), _mm256_cmpeq_epi8(high, backslash));
            const uint64_t wide = securellm_bits(low, high);
            uint64_t quotes = securellm_bits(_mm256_cmpeq_epi8(low, quote), _mm256_cmpeq_epi8(high, quote));
            uint64_t stops = securellm_bits(_mm256_cmpeq_epi8(_mm256_min_epu8(low, last_control), low),
                                            _mm256_cmpeq_epi8(_mm256_min_epu8(high, last_control), high));
            int place;
            if (backslashes) {
                const uint64_t starts = securellm_escape_starts(backslashes);
                quotes &= ~(starts << 1);
                stops |= securellm_doubtful_escapes(low, high, starts);
            }
            stops |= quotes;
            if (wide) {
                uint64_t cut, errors = securellm_wide_errors(at, low, high, &cut);
                stops |= cut;
                if (stops)
                    errors &= (uint64_t)2 * (stops & -stops) - 1; /* up to the first stop */
                if (errors)
                    return at;
            }
            if (!stops) {
                at += 64;
                continue;
            }
            place = __builtin_ctzll(stops);
            at += place;
            if (place == 0 || quotes >> place & 1)
                return at;
        }
        return at;
    }
    #endif

    /* As far as a string is certain to go on, from a place in it that is no part of an escape or a character: the place
       of its closing quote, or of something that must be looked at, which may be good as well. */
    static inline const char *securellm_after_certain(const char *at, const char *end)
    {
    #if defined(SECURELLM_AVX2)
        if (end - at >= 64 && __builtin_cpu_supports("avx2"))
            return securellm_after_blocks(at, end);
    #endif
        return at;
    }
    """
    const char *after_certain "securellm_after_certain"(const char *at, const char *end) noexcept nogil
