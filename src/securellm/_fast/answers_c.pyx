# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The compiled twin of answers_py: one walk over the JSON of a whole answer.

What each field means is defined in wire/scan_*.py, and how usage is counted in wire/usage.py. Whatever is doubtful ends
the walk, and the answer is decoded there: JSON that is not what json_walk.pxd takes, a field that matters and comes
twice or with a value of a kind it does not have, an error, a count that is not a plain number.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memchr, memcmp, strlen

from securellm._fast.json_walk cimport (
    DEEPEST, Walk, first_time, is_key, next_item, next_key, skip_space, skip_value, take, take_null, take_string,
)
from securellm._fast.usage_counts cimport (
    ANTHROPIC_USAGE, AUDIO_IN, AUDIO_OUT, CACHED, CACHED_TOO, COMPLETION, COUNTS, HIT, IMAGE_IN, MISSED, NUM_CACHED,
    OPENAI_USAGE, PROMPT, REASONING, REASONING_TOO, RESPONSES_USAGE, TOTAL, WRITTEN, WRITTEN_1H, WRITTEN_5M,
    WRITTEN_TOO, field_of, take_counts,
)

import msgspec

from securellm.chat import Usage

cdef object _encode = msgspec.json.encode
cdef object _decode = msgspec.json.decode

cdef struct Text:
    const char *start  # NULL where there was no string with something in it
    Py_ssize_t length

cdef struct Answer:
    Text id
    Text model
    Text finish
    Text native_finish
    Text status  # of Responses
    Py_ssize_t output_bytes
    bint called  # a function is among the output of Responses
    bint has_usage
    long long counts[COUNTS]  # -1 where none was reported


cdef bint _word(Walk *walk, Text *text) noexcept:
    """A string that is kept as it stands, without escapes; anything else that is no string is as good as nothing."""
    cdef const char *start = walk.at + 1
    cdef Py_ssize_t length
    text.start = NULL
    if walk.at == walk.end or walk.at[0] != c'"':
        return skip_value(walk)
    length = take_string(walk)
    if length < 0 or start[length] != c'"' or memchr(start, c"\\", length) != NULL:
        return False
    if length:
        text.start = start
        text.length = length
    return True


cdef bint _is(Text *text, const char *word) noexcept:
    return text.start != NULL and text.length == <Py_ssize_t>strlen(word) and memcmp(text.start, word, text.length) == 0


cdef object _str(Text *text):
    return None if text.start == NULL else PyUnicode_DecodeUTF8(text.start, text.length, NULL)


cdef Py_ssize_t _text(Walk *walk, int depth) noexcept:
    """`text_bytes` of wire/scan.py; -1 in doubt."""
    cdef bint begun = False
    cdef const char *key
    cdef Py_ssize_t length, size, total = 0
    cdef unsigned seen = 0
    cdef int found
    if walk.at == walk.end or depth == DEEPEST:
        return -1
    if walk.at[0] == c'"':
        return take_string(walk)
    if take(walk, c"["):
        while True:
            found = next_item(walk, &begun)
            if found <= 0:
                return -1 if found else total
            size = _text(walk, depth + 1)
            if size < 0:
                return -1
            total += size
    if take(walk, c"{"):
        while True:
            found = next_key(walk, &begun, &key, &length)
            if found <= 0:
                return -1 if found else total
            size = _text_member(walk, key, length, &seen, depth + 1)
            if size < 0:
                return -1
            total += size
    return 0 if skip_value(walk) else -1


cdef Py_ssize_t _text_member(
    Walk *walk, const char *key, Py_ssize_t length, unsigned *seen, int depth
) noexcept:
    """What a member of an object with text in it adds to the text; -1 in doubt."""
    cdef int field
    if is_key(key, length, b"text", 4):
        field = 31
    elif is_key(key, length, b"thinking", 8):
        field = 30
    elif is_key(key, length, b"refusal", 7):
        field = 29
    elif is_key(key, length, b"arguments", 9):
        field = 28
    elif is_key(key, length, b"transcript", 10):
        field = 27
    else:
        return 0 if skip_value(walk) else -1
    return _text(walk, depth) if first_time(seen, field) else -1


cdef bint _usage(Walk *walk, const field_of *fields, Answer *answer) noexcept:
    cdef int count
    if not take(walk, c"{"):
        return skip_value(walk)
    answer.has_usage = True
    for count in range(COUNTS):
        answer.counts[count] = -1
    return take_counts(walk, fields, answer.counts)


cdef bint _function(Walk *walk, Answer *answer) noexcept:
    """A function that is called: its name and arguments are output."""
    cdef bint begun = False
    cdef const char *key
    cdef Py_ssize_t length, size
    cdef unsigned seen = 0
    cdef int found
    if not take(walk, c"{"):
        return skip_value(walk)
    while True:
        found = next_key(walk, &begun, &key, &length)
        if found <= 0:
            return found == 0
        if is_key(key, length, b"name", 4):
            size = _text(walk, 0) if first_time(&seen, 0) else -1
        elif is_key(key, length, b"arguments", 9):
            size = _text(walk, 0) if first_time(&seen, 1) else -1
        else:
            size = 0 if skip_value(walk) else -1
        if size < 0:
            return False
        answer.output_bytes += size


cdef bint _tool_call(Walk *walk, Answer *answer) noexcept:
    cdef bint begun = False
    cdef const char *key
    cdef Py_ssize_t length
    cdef unsigned seen = 0
    cdef int found
    if not take(walk, c"{"):
        return skip_value(walk)
    while True:
        found = next_key(walk, &begun, &key, &length)
        if found <= 0:
            return found == 0
        if is_key(key, length, b"function", 8):
            if not first_time(&seen, 0) or not _function(walk, answer):
                return False
        elif not skip_value(walk):
            return False


ctypedef bint (*take_item)(Walk *, Answer *) noexcept


cdef bint _each(Walk *walk, Answer *answer, take_item item) noexcept:
    """Every item of an array; anything else has none."""
    cdef bint begun = False
    cdef int found
    if not take(walk, c"["):
        return skip_value(walk)
    while True:
        found = next_item(walk, &begun)
        if found <= 0:
            return found == 0
        if not item(walk, answer):
            return False


cdef bint _openai_message(Walk *walk, Answer *answer) noexcept:
    cdef bint begun = False
    cdef const char *key
    cdef Py_ssize_t length, size, reasoning_content = 0, reasoning = 0
    cdef unsigned seen = 0
    cdef int found
    if not take(walk, c"{"):
        return skip_value(walk)
    while True:
        found = next_key(walk, &begun, &key, &length)
        if found < 0:
            return False
        if found == 0:
            break
        size = 0
        if is_key(key, length, b"content", 7):
            size = _text(walk, 0) if first_time(&seen, 0) else -1
        elif is_key(key, length, b"refusal", 7):
            size = _text(walk, 0) if first_time(&seen, 1) else -1
        elif is_key(key, length, b"audio", 5):
            size = _text(walk, 0) if first_time(&seen, 2) else -1
        elif is_key(key, length, b"reasoning_content", 17):  # only whether it is empty text can be told
            size = reasoning_content = _string_or_null(walk) if first_time(&seen, 3) else -1
        elif is_key(key, length, b"reasoning", 9):
            size = reasoning = _text(walk, 0) if first_time(&seen, 4) else -1
        elif is_key(key, length, b"tool_calls", 10):
            if not first_time(&seen, 5) or not _each(walk, answer, _tool_call):
                return False
        elif is_key(key, length, b"function_call", 13):
            if not first_time(&seen, 6) or not _function(walk, answer):
                return False
        elif not skip_value(walk):
            return False
        if size < 0:
            return False
        answer.output_bytes += size
    if reasoning_content:
        answer.output_bytes -= reasoning  # the same under two names
    return True


cdef inline Py_ssize_t _string_or_null(Walk *walk) noexcept:
    return 0 if take_null(walk) else take_string(walk)


cdef bint _openai_choice(Walk *walk, Answer *answer) noexcept:
    cdef bint begun = False
    cdef const char *key
    cdef Py_ssize_t length, size
    cdef Text finish
    cdef Text native_finish
    cdef unsigned seen = 0
    cdef int found
    if not take(walk, c"{"):
        return skip_value(walk)
    finish.start = native_finish.start = NULL
    while True:
        found = next_key(walk, &begun, &key, &length)
        if found < 0:
            return False
        if found == 0:
            break
        if is_key(key, length, b"message", 7):
            if not first_time(&seen, 0) or not _openai_message(walk, answer):
                return False
        elif is_key(key, length, b"text", 4):
            size = _text(walk, 0) if first_time(&seen, 1) else -1
            if size < 0:
                return False
            answer.output_bytes += size
        elif is_key(key, length, b"finish_reason", 13):
            if not first_time(&seen, 2) or not _word(walk, &finish):
                return False
        elif is_key(key, length, b"native_finish_reason", 20):
            if not first_time(&seen, 3) or not _word(walk, &native_finish):
                return False
        elif not skip_value(walk):
            return False
    if finish.start != NULL:
        answer.finish = finish
        answer.native_finish = finish if native_finish.start == NULL else native_finish
    return True


cdef bint _openai(Walk *walk, Answer *answer) noexcept:
    """A chat completion, a completion, embeddings."""
    cdef bint begun = False
    cdef const char *key
    cdef Py_ssize_t length
    cdef unsigned seen = 0
    cdef int found
    while True:
        found = next_key(walk, &begun, &key, &length)
        if found <= 0:
            return found == 0
        if is_key(key, length, b"id", 2):
            if not first_time(&seen, 0) or not _word(walk, &answer.id):
                return False
        elif is_key(key, length, b"model", 5):
            if not first_time(&seen, 1) or not _word(walk, &answer.model):
                return False
        elif is_key(key, length, b"choices", 7):
            if not first_time(&seen, 2) or not _each(walk, answer, _openai_choice):
                return False
        elif is_key(key, length, b"usage", 5):
            if not first_time(&seen, 3) or not _usage(walk, OPENAI_USAGE, answer):
                return False
        elif is_key(key, length, b"error", 5) or is_key(key, length, b"x_groq", 6):
            if not take_null(walk):
                return False
        elif not skip_value(walk):
            return False


cdef bint _anthropic_block(Walk *walk, Answer *answer) noexcept:
    cdef bint begun = False
    cdef const char *key
    cdef const char *input_at = NULL
    cdef const char *input_end = NULL
    cdef Py_ssize_t length, size, name = 0
    cdef unsigned seen = 0
    cdef int found
    if not take(walk, c"{"):
        return skip_value(walk)
    while True:
        found = next_key(walk, &begun, &key, &length)
        if found < 0:
            return False
        if found == 0:
            break
        size = 0
        if is_key(key, length, b"name", 4):
            name = _text(walk, 0) if first_time(&seen, 0) else -1
            if name < 0:
                return False
        elif is_key(key, length, b"input", 5):
            input_at = walk.at
            if not first_time(&seen, 1) or not skip_value(walk):
                return False
            input_end = walk.at
        else:
            size = _text_member(walk, key, length, &seen, 0)
        if size < 0:
            return False
        answer.output_bytes += size
    if input_at != NULL:
        size = _encoded_bytes(input_at, input_end)
        if size < 0:
            return False
        answer.output_bytes += name + size
    return True


cdef Py_ssize_t _encoded_bytes(const char *start, const char *end) noexcept:
    """How long a value is as we would write it; -1 in doubt."""
    try:
        return len(_encode(_decode(start[:end - start])))
    except Exception:
        return -1


cdef bint _anthropic(Walk *walk, Answer *answer) noexcept:
    """A message."""
    cdef bint begun = False
    cdef const char *key
    cdef Py_ssize_t length
    cdef Text kind
    cdef unsigned seen = 0
    cdef int found
    while True:
        found = next_key(walk, &begun, &key, &length)
        if found <= 0:
            answer.native_finish = answer.finish
            return found == 0
        if is_key(key, length, b"id", 2):
            if not first_time(&seen, 0) or not _word(walk, &answer.id):
                return False
        elif is_key(key, length, b"model", 5):
            if not first_time(&seen, 1) or not _word(walk, &answer.model):
                return False
        elif is_key(key, length, b"content", 7):
            if not first_time(&seen, 2) or not _each(walk, answer, _anthropic_block):
                return False
        elif is_key(key, length, b"usage", 5):
            if not first_time(&seen, 3) or not _usage(walk, ANTHROPIC_USAGE, answer):
                return False
        elif is_key(key, length, b"stop_reason", 11):
            if not first_time(&seen, 4) or not _word(walk, &answer.finish):
                return False
        elif is_key(key, length, b"type", 4):
            if not first_time(&seen, 5) or not _word(walk, &kind) or _is(&kind, b"error"):
                return False
        elif not skip_value(walk):
            return False


cdef bint _responses_item(Walk *walk, Answer *answer) noexcept:
    cdef bint begun = False
    cdef const char *key
    cdef Py_ssize_t length, size
    cdef Text kind
    cdef unsigned seen = 0
    cdef int found
    if not take(walk, c"{"):
        return skip_value(walk)
    while True:
        found = next_key(walk, &begun, &key, &length)
        if found <= 0:
            return found == 0
        size = 0
        if is_key(key, length, b"type", 4):
            if not first_time(&seen, 0) or not _word(walk, &kind):
                return False
            answer.called |= _is(&kind, b"function_call")
        elif is_key(key, length, b"content", 7):
            size = _text(walk, 0) if first_time(&seen, 1) else -1
        elif is_key(key, length, b"summary", 7):
            size = _text(walk, 0) if first_time(&seen, 2) else -1
        elif is_key(key, length, b"name", 4):
            size = _text(walk, 0) if first_time(&seen, 3) else -1
        elif is_key(key, length, b"arguments", 9):
            size = _text(walk, 0) if first_time(&seen, 4) else -1
        elif not skip_value(walk):
            return False
        if size < 0:
            return False
        answer.output_bytes += size


cdef bint _responses(Walk *walk, Answer *answer) noexcept:
    """A response that was completed; one that was not has its reasons decoded."""
    cdef bint begun = False
    cdef const char *key
    cdef Py_ssize_t length
    cdef unsigned seen = 0
    cdef int found
    while True:
        found = next_key(walk, &begun, &key, &length)
        if found <= 0:
            return found == 0 and _is(&answer.native_finish, b"completed")
        if is_key(key, length, b"id", 2):
            if not first_time(&seen, 0) or not _word(walk, &answer.id):
                return False
        elif is_key(key, length, b"model", 5):
            if not first_time(&seen, 1) or not _word(walk, &answer.model):
                return False
        elif is_key(key, length, b"output", 6):
            if not first_time(&seen, 2) or not _each(walk, answer, _responses_item):
                return False
        elif is_key(key, length, b"usage", 5):
            if not first_time(&seen, 3) or not _usage(walk, RESPONSES_USAGE, answer):
                return False
        elif is_key(key, length, b"status", 6):
            if not first_time(&seen, 4) or not _word(walk, &answer.native_finish):
                return False
        elif is_key(key, length, b"error", 5):
            if not take_null(walk):
                return False
        elif not skip_value(walk):
            return False


cdef inline long long _known(long long count) noexcept:
    return count if count > 0 else 0


cdef inline long long _either(long long count, long long otherwise) noexcept:
    return count if count >= 0 else otherwise


cdef object _inclusive(long long *counts):
    """`_from_inclusive` of wire/usage.py, in whose order every part is taken out of the whole."""
    cdef long long cached = _either(
        counts[CACHED], _either(counts[HIT], _either(counts[CACHED_TOO], counts[NUM_CACHED]))
    )
    cdef long long completion = _known(counts[COMPLETION])
    cdef long long total = _known(counts[TOTAL])
    cdef long long prompt = counts[PROMPT]
    cdef long long unaccounted, read, wrote, wrote_1h, audio, image, audio_out, output, reasoning
    if prompt < 0:
        prompt = _known(cached) + counts[MISSED] if counts[MISSED] >= 0 else max(total - completion, <long long>0)
    unaccounted = max(total - prompt - completion, <long long>0)
    if unaccounted == counts[AUDIO_IN]:
        prompt += unaccounted
        unaccounted = 0
    read = min(_known(cached), prompt)
    wrote = min(_known(_either(counts[WRITTEN], counts[WRITTEN_TOO])), prompt - read)
    audio = min(_known(counts[AUDIO_IN]), prompt - read - wrote)
    image = min(_known(counts[IMAGE_IN]), prompt - read - wrote - audio)
    audio_out = min(_known(counts[AUDIO_OUT]), completion)
    output = completion - audio_out + unaccounted
    wrote_1h = min(_known(counts[WRITTEN_1H]), wrote)
    reasoning = min(max(_known(_either(counts[REASONING], counts[REASONING_TOO])), unaccounted), output)
    return Usage(
        prompt - read - wrote - audio - image, read, wrote - wrote_1h, wrote_1h, output, reasoning, audio, audio_out,
        image,
    )


cdef object _exclusive(long long *counts):
    """`usage_from_anthropic` of wire/usage.py."""
    cdef long long written_1h = _known(counts[WRITTEN_1H])
    cdef long long written = _either(counts[WRITTEN], _known(counts[WRITTEN_5M]) + written_1h)
    cdef long long output = _known(counts[COMPLETION])
    written_1h = min(written_1h, written)
    return Usage(
        _known(counts[PROMPT]), _known(counts[CACHED]), written - written_1h, written_1h, output,
        min(_known(counts[REASONING]), output),
    )


def read(str dialect not None, bytes body not None):
    """See answers_py."""
    cdef Walk walk
    cdef Answer answer
    cdef object usage = None
    cdef object finish
    walk.at = PyBytes_AS_STRING(body)
    walk.end = walk.at + PyBytes_GET_SIZE(body)
    answer.id.start = answer.model.start = answer.finish.start = answer.native_finish.start = NULL
    answer.output_bytes = 0
    answer.called = answer.has_usage = False
    skip_space(&walk)
    if not take(&walk, c"{"):
        return None
    if dialect == "openai":
        if not _openai(&walk, &answer) or walk.at != walk.end:
            return None
        finish = _str(&answer.finish)
    elif dialect == "anthropic":
        if not _anthropic(&walk, &answer) or walk.at != walk.end:
            return None
        finish = _str(&answer.finish)
    elif dialect == "responses":
        if not _responses(&walk, &answer) or walk.at != walk.end:
            return None
        finish = "tool_calls" if answer.called else "stop"
    else:
        return None
    if answer.has_usage:
        usage = _exclusive(answer.counts) if dialect == "anthropic" else _inclusive(answer.counts)
    return (
        _str(&answer.id), _str(&answer.model), usage, answer.output_bytes, finish, _str(&answer.native_finish)
    )
