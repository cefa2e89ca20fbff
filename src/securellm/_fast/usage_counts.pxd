# Where the counts that usage is made of stand in a provider's report, dialect by dialect, and reading them from it.
# What each one means is defined in wire/usage.py.

from libc.string cimport strlen

from securellm._fast.json_walk cimport Walk, first_time, is_key, next_key, skip_value, take, take_count

cdef extern from *:
    """
    /* The counts that usage is made of, and where in a report of a dialect they stand. */
    enum count_of {
        PROMPT, COMPLETION, TOTAL, CACHED, HIT, CACHED_TOO, NUM_CACHED, MISSED, WRITTEN, WRITTEN_TOO, WRITTEN_5M,
        WRITTEN_1H, AUDIO_IN, IMAGE_IN, AUDIO_OUT, REASONING, REASONING_TOO, COUNTS
    };

    typedef struct field_of {
        const char *name;
        int count;
        const struct field_of *inner;  /* the fields of the object that stands here */
    } field_of;

    static const field_of OPENAI_PROMPT[] = {
        {"cached_tokens", CACHED}, {"audio_tokens", AUDIO_IN}, {"image_tokens", IMAGE_IN},
        {"cache_write_tokens", WRITTEN}, {NULL}};
    static const field_of OPENAI_COMPLETION[] = {
        {"reasoning_tokens", REASONING}, {"audio_tokens", AUDIO_OUT}, {NULL}};
    static const field_of OPENAI_CREATION[] = {{"ephemeral_1h_input_tokens", WRITTEN_1H}, {NULL}};
    static const field_of OPENAI_USAGE[] = {
        {"prompt_tokens", PROMPT}, {"completion_tokens", COMPLETION}, {"total_tokens", TOTAL},
        {"prompt_tokens_details", 0, OPENAI_PROMPT}, {"completion_tokens_details", 0, OPENAI_COMPLETION},
        {"prompt_cache_hit_tokens", HIT}, {"prompt_cache_miss_tokens", MISSED}, {"cached_tokens", CACHED_TOO},
        {"num_cached_tokens", NUM_CACHED}, {"cache_creation_input_tokens", WRITTEN_TOO},
        {"cache_creation", 0, OPENAI_CREATION}, {"reasoning_tokens", REASONING_TOO}, {NULL}};

    static const field_of RESPONSES_INPUT[] = {
        {"cached_tokens", CACHED}, {"audio_tokens", AUDIO_IN}, {"image_tokens", IMAGE_IN},
        {"cache_write_tokens", WRITTEN}, {NULL}};
    static const field_of RESPONSES_OUTPUT[] = {
        {"reasoning_tokens", REASONING}, {"audio_tokens", AUDIO_OUT}, {NULL}};
    static const field_of RESPONSES_USAGE[] = {
        {"input_tokens", PROMPT}, {"output_tokens", COMPLETION}, {"total_tokens", TOTAL},
        {"input_tokens_details", 0, RESPONSES_INPUT}, {"output_tokens_details", 0, RESPONSES_OUTPUT}, {NULL}};

    static const field_of ANTHROPIC_CREATION[] = {
        {"ephemeral_5m_input_tokens", WRITTEN_5M}, {"ephemeral_1h_input_tokens", WRITTEN_1H}, {NULL}};
    static const field_of ANTHROPIC_OUTPUT[] = {{"thinking_tokens", REASONING}, {NULL}};
    static const field_of ANTHROPIC_USAGE[] = {
        {"input_tokens", PROMPT}, {"output_tokens", COMPLETION}, {"cache_read_input_tokens", CACHED},
        {"cache_creation_input_tokens", WRITTEN}, {"cache_creation", 0, ANTHROPIC_CREATION},
        {"output_tokens_details", 0, ANTHROPIC_OUTPUT}, {NULL}};
    """
    enum:
        PROMPT, COMPLETION, TOTAL, CACHED, HIT, CACHED_TOO, NUM_CACHED, MISSED, WRITTEN, WRITTEN_TOO, WRITTEN_5M
        WRITTEN_1H, AUDIO_IN, IMAGE_IN, AUDIO_OUT, REASONING, REASONING_TOO, COUNTS
    ctypedef struct field_of:
        const char *name
        int count
        const field_of *inner
    const field_of OPENAI_USAGE[]
    const field_of RESPONSES_USAGE[]
    const field_of ANTHROPIC_USAGE[]


cdef inline bint take_counts(Walk *walk, const field_of *fields, long long *counts) noexcept nogil:
    """The counts of a report that was entered; whatever is no number was not reported."""
    cdef bint begun = False
    cdef const char *key
    cdef Py_ssize_t length
    cdef const field_of *field
    cdef unsigned seen = 0
    cdef int found
    while True:
        found = next_key(walk, &begun, &key, &length)
        if found <= 0:
            return found == 0
        field = fields
        while field.name != NULL and not is_key(key, length, field.name, strlen(field.name)):
            field += 1
        if field.name == NULL:
            if not skip_value(walk):
                return False
        elif not first_time(&seen, <int>(field - fields)):
            return False
        elif field.inner != NULL:
            if not (take_counts(walk, field.inner, counts) if take(walk, c"{") else skip_value(walk)):
                return False
        elif walk.at < walk.end and c"0" <= walk.at[0] <= c"9":
            counts[field.count] = take_count(walk)
            if counts[field.count] < 0:
                return False
        elif walk.at == walk.end or walk.at[0] == c"-" or not skip_value(walk):
            return False
