# Which events of a stream say no more than some text, and how much; for the scanner in sse_c.pyx.
#
# Each function is given a walk into the event's JSON, behind the first brace, and leaves it at the end. True: the event
# is plain, and is added to `said` as the relay of its dialect (wire/scan_*.py) would count it. False: doubtful, and
# `said` is of no use. A field that matters and comes twice is doubtful, as is whatever is not known here.

from libc.string cimport memcmp

from securellm._fast.json_walk cimport (
    Walk, is_key, next_item, next_key, skip_value, take, take_count, take_null, take_string, take_text,
)

cdef struct Said:
    Py_ssize_t semantic_events
    Py_ssize_t output_bytes
    long long sequence_number  # the last one, -1 where there was none


cdef inline bint _function(Walk *walk, Said *said) noexcept nogil:
    cdef bint begun = False, has_name = False, has_arguments = False
    cdef const char *key
    cdef Py_ssize_t length
    cdef Py_ssize_t size
    cdef int found
    while True:
        found = next_key(walk, &begun, &key, &length)
        if found <= 0:
            return found == 0
        size = 0
        if is_key(key, length, b"name", 4):
            if has_name:
                return False
            has_name = True
            size = take_text(walk)
        elif is_key(key, length, b"arguments", 9):
            if has_arguments:
                return False
            has_arguments = True
            size = take_text(walk)
        elif not skip_value(walk):
            return False
        if size < 0:
            return False
        said.output_bytes += size


cdef inline bint _tool_calls(Walk *walk, Said *said, bint *semantic) noexcept nogil:
    cdef bint begun = False, inner, has_function
    cdef const char *key
    cdef Py_ssize_t length
    cdef int found
    if not take(walk, c"["):
        return False
    while True:
        found = next_item(walk, &begun)
        if found <= 0:
            return found == 0
        semantic[0] = True
        inner = has_function = False
        if not take(walk, c"{"):
            return False
        while True:
            found = next_key(walk, &inner, &key, &length)
            if found < 0:
                return False
            if found == 0:
                break
            if is_key(key, length, b"function", 8):
                if has_function or not (take_null(walk) or (take(walk, c"{") and _function(walk, said))):
                    return False
                has_function = True
            elif not skip_value(walk):
                return False


cdef inline bint _delta(Walk *walk, Said *said, bint *semantic) noexcept nogil:
    """Text, reasoning under one of its names, refusal, tool calls; anything else that is not null is doubtful."""
    cdef bint begun = False
    cdef const char *key
    cdef Py_ssize_t length
    cdef Py_ssize_t content = -1, refusal = -1, reasoning_content = -1, reasoning = -1
    cdef bint has_calls = False
    cdef Py_ssize_t *into
    cdef int found
    while True:
        found = next_key(walk, &begun, &key, &length)
        if found < 0:
            return False
        if found == 0:
            break
        into = NULL
        if is_key(key, length, b"content", 7):
            into = &content
        elif is_key(key, length, b"reasoning_content", 17):
            into = &reasoning_content
        elif is_key(key, length, b"reasoning", 9):
            into = &reasoning
        elif is_key(key, length, b"refusal", 7):
            into = &refusal
        if into != NULL:
            if into[0] >= 0:
                return False
            into[0] = take_text(walk)
            if into[0] < 0:
                return False
        elif is_key(key, length, b"role", 4):
            if not skip_value(walk):
                return False
        elif take_null(walk):
            pass
        elif has_calls or not is_key(key, length, b"tool_calls", 10) or not _tool_calls(walk, said, semantic):
            return False
        else:
            has_calls = True
    if reasoning_content <= 0:
        reasoning_content = reasoning
    if content > 0:
        said.output_bytes += content
        semantic[0] = True
    if refusal > 0:
        said.output_bytes += refusal
        semantic[0] = True
    if reasoning_content > 0:
        said.output_bytes += reasoning_content
        semantic[0] = True
    return True


cdef inline bint _choice(Walk *walk, Said *said, bint *semantic) noexcept nogil:
    cdef bint begun = False, has_delta = False, has_text = False
    cdef const char *key
    cdef Py_ssize_t length
    cdef Py_ssize_t size
    cdef int found
    while True:
        found = next_key(walk, &begun, &key, &length)
        if found <= 0:
            return found == 0
        if is_key(key, length, b"delta", 5):
            if has_delta or not (take_null(walk) or (take(walk, c"{") and _delta(walk, said, semantic))):
                return False
            has_delta = True
        elif is_key(key, length, b"text", 4):
            size = take_text(walk)
            if has_text or size < 0:
                return False
            has_text = True
            said.output_bytes += size
            semantic[0] |= size > 0
        elif is_key(key, length, b"finish_reason", 13):
            if not take_null(walk):
                return False
        elif not skip_value(walk):
            return False


cdef inline bint _choices(Walk *walk, Said *said) noexcept nogil:
    cdef bint begun = False, semantic = False
    cdef int found
    if not take(walk, c"["):
        return False
    while True:
        found = next_item(walk, &begun)
        if found <= 0:
            said.semantic_events += semantic
            return found == 0
        if not take(walk, c"{") or not _choice(walk, said, &semantic):
            return False


cdef inline bint openai_chunk(Walk *walk, bint identified, Said *said) noexcept nogil:
    """A chunk without usage or error, whose choices have not finished."""
    cdef bint begun = False, has_choices = False
    cdef const char *key
    cdef Py_ssize_t length
    cdef int found
    while True:
        found = next_key(walk, &begun, &key, &length)
        if found <= 0:
            return found == 0 and has_choices
        if is_key(key, length, b"choices", 7):
            if has_choices or not _choices(walk, said):
                return False
            has_choices = True
        elif is_key(key, length, b"usage", 5) or is_key(key, length, b"error", 5) or is_key(key, length, b"x_groq", 6):
            if not take_null(walk):
                return False
        elif not identified and (is_key(key, length, b"id", 2) or is_key(key, length, b"model", 5)):
            return False
        elif not skip_value(walk):
            return False


cdef enum Word:
    OTHER_WORD
    BLOCK_DELTA
    PING
    BLOCK_STOP
    TEXT_DELTA
    THINKING_DELTA
    JSON_DELTA


cdef inline bint _is_quoted(
    const char *start, const char *end, Py_ssize_t length, const char *wanted, Py_ssize_t wanted_length
) noexcept nogil:
    """Whether a string that was taken is exactly that, without escapes."""
    return length == wanted_length and memcmp(start, wanted, length) == 0 and start[length] == c'"'


cdef inline bint _take_word(Walk *walk, Word *word) noexcept nogil:
    """Take a string that may be one of those we know."""
    cdef const char *start = walk.at + 1
    cdef Py_ssize_t length = take_string(walk)
    if length < 0:
        return False
    word[0] = OTHER_WORD
    if _is_quoted(start, walk.end, length, b"content_block_delta", 19):
        word[0] = BLOCK_DELTA
    elif _is_quoted(start, walk.end, length, b"text_delta", 10):
        word[0] = TEXT_DELTA
    elif _is_quoted(start, walk.end, length, b"input_json_delta", 16):
        word[0] = JSON_DELTA
    elif _is_quoted(start, walk.end, length, b"thinking_delta", 14):
        word[0] = THINKING_DELTA
    elif _is_quoted(start, walk.end, length, b"ping", 4):
        word[0] = PING
    elif _is_quoted(start, walk.end, length, b"content_block_stop", 18):
        word[0] = BLOCK_STOP
    return True


cdef inline Py_ssize_t _anthropic_delta(Walk *walk) noexcept nogil:
    """How much text a delta holds; -1 in doubt."""
    cdef bint begun = False, has_type = False
    cdef const char *key
    cdef Py_ssize_t length
    cdef Py_ssize_t text = -1, thinking = -1, partial_json = -1
    cdef Py_ssize_t *into
    cdef Word word = OTHER_WORD
    cdef int found
    while True:
        found = next_key(walk, &begun, &key, &length)
        if found < 0:
            return -1
        if found == 0:
            break
        into = NULL
        if is_key(key, length, b"text", 4):
            into = &text
        elif is_key(key, length, b"thinking", 8):
            into = &thinking
        elif is_key(key, length, b"partial_json", 12):
            into = &partial_json
        if into != NULL:
            if into[0] >= 0:
                return -1
            into[0] = take_text(walk)
            if into[0] < 0:
                return -1
        elif is_key(key, length, b"type", 4):
            if has_type or not _take_word(walk, &word):
                return -1
            has_type = True
        elif not skip_value(walk):
            return -1
    if word == TEXT_DELTA:
        return max(text, 0)
    if word == THINKING_DELTA:
        return max(thinking, 0)
    if word == JSON_DELTA:
        return max(partial_json, 0)
    return -1


cdef inline bint anthropic_event(Walk *walk, Said *said) noexcept nogil:
    """More text, thinking or tool input; a ping; the end of a block."""
    cdef bint begun = False, has_type = False, has_delta = False
    cdef const char *key
    cdef Py_ssize_t length
    cdef Py_ssize_t size = -1
    cdef Word word = OTHER_WORD
    cdef int found
    while True:
        found = next_key(walk, &begun, &key, &length)
        if found < 0:
            return False
        if found == 0:
            break
        if is_key(key, length, b"type", 4):
            if has_type or not _take_word(walk, &word):
                return False
            has_type = True
        elif is_key(key, length, b"delta", 5):
            if has_delta or not take(walk, c"{"):
                return False
            has_delta = True
            size = _anthropic_delta(walk)
            if size < 0:
                return False
        elif not skip_value(walk):
            return False
    if word == BLOCK_DELTA and size >= 0:
        said.output_bytes += size
        said.semantic_events += size > 0
        return True
    return word == PING or word == BLOCK_STOP


cdef inline bint responses_event(Walk *walk, Said *said) noexcept nogil:
    """A `….delta` whose delta is text."""
    cdef bint begun = False, is_delta = False, has_type = False
    cdef const char *key
    cdef const char *start
    cdef Py_ssize_t length
    cdef Py_ssize_t size = -1
    cdef int found
    while True:
        found = next_key(walk, &begun, &key, &length)
        if found < 0:
            return False
        if found == 0:
            break
        if is_key(key, length, b"type", 4):
            start = walk.at + 1
            length = take_string(walk)
            if has_type or length < 0:
                return False
            has_type = True
            is_delta = length > 6 and start[length] == c'"' and memcmp(start + length - 6, b".delta", 6) == 0
        elif is_key(key, length, b"delta", 5):
            if size >= 0:
                return False
            size = take_string(walk)
            if size < 0:
                return False
        elif is_key(key, length, b"sequence_number", 15):
            if said.sequence_number >= 0:
                return False
            said.sequence_number = take_count(walk)
            if said.sequence_number < 0:
                return False
        elif is_key(key, length, b"response", 8):
            if not take_null(walk):
                return False
        elif not skip_value(walk):
            return False
    if not is_delta or size < 0:
        return False
    said.output_bytes += size
    said.semantic_events += size > 0
    return True
