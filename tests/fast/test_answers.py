"""Whole answers read by the compiled twin against their definition, which decodes them: the same is learnt of each."""

import json
import os
import random
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rig.replay import load_recordings
from securellm.chat import Dialect, Endpoint
from securellm.errors import SecureLLMError
from securellm.wire.scan import ScanningRelay
from securellm.wire.scan_anthropic import AnthropicScan
from securellm.wire.scan_openai import OpenAIScan
from securellm.wire.scan_responses import ResponsesScan

TWIN = "answers"
EXAMPLES = max(50, int(120 * float(os.environ.get("SECURELLM_TEST_SCALE", "1"))))
RELAYS: dict[Dialect, type[ScanningRelay]] = {
    Dialect.OPENAI: OpenAIScan,
    Dialect.ANTHROPIC: AnthropicScan,
    Dialect.RESPONSES: ResponsesScan,
}

# Answers of the usual shapes, and of the unusual ones that are still plain. Every one is read without being decoded.
PLAIN: dict[Dialect, list[str]] = {
    Dialect.OPENAI: [
        '{"id":"c1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":'
        '"assistant","content":"Gr\u00fc\\u00dfe \\ud83d\\ude80","refusal":null,"annotations":[]},"logprobs":null,'
        '"finish_reason":"stop"}],"usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,'
        '"prompt_tokens_details":{"cached_tokens":4,"audio_tokens":2},"completion_tokens_details":{"reasoning_tokens":'
        '5,"audio_tokens":1}},"service_tier":"default","system_fingerprint":null}\n',
        ' { "id" : "c1" , "choices" : [ { "finish_reason" : "function_call" , "native_finish_reason" : "x" , "message"'
        ' : { "function_call" : { "name" : "f" , "arguments" : "{}" } , "reasoning" : "why" , "reasoning_content" : '
        '"why?" , "tool_calls" : [ { "function" : { "name" : "g" , "arguments" : "{\\"a\\":1}" } } , null , { } ] } } '
        ', { "text" : "more" , "finish_reason" : "length" } , { "finish_reason" : null } ] , "usage" : { } } ',
        '{"object":"list","data":[{"embedding":[-0.006929283495992422,-1.5e-05,0]}],"model":"e","usage":'
        '{"prompt_tokens":8,"total_tokens":8}}',
        '{"id":"","model":7,"choices":[{"message":{"content":[{"type":"text","text":"a"},"b",["c",{"thinking":"d"}]],'
        '"audio":{"transcript":"e"}}}],"usage":{"prompt_cache_hit_tokens":3,"prompt_cache_miss_tokens":5,'
        '"total_tokens":20,"cache_creation":{"ephemeral_1h_input_tokens":2},"cache_creation_input_tokens":3}}',
        '{"choices":null,"usage":null,"error":null,"x_groq":null}',
        '{"usage":{"prompt_tokens":null,"completion_tokens":"7","total_tokens":true,"prompt_tokens_details":[1]}}',
    ],
    Dialect.ANTHROPIC: [
        '{"id":"m1","type":"message","role":"assistant","model":"m","content":[{"type":"thinking","thinking":"hm",'
        '"signature":"s"},{"type":"text","text":"Gr\u00fc\u00dfe"},{"type":"tool_use","id":"t","name":"f","input":'
        '{"a" : "\\u00fc", "b":[1.50, 1]}}],"stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":9,'
        '"cache_creation_input_tokens":7,"cache_read_input_tokens":3,"cache_creation":{"ephemeral_5m_input_tokens":5,'
        '"ephemeral_1h_input_tokens":2},"output_tokens":10,"output_tokens_details":{"thinking_tokens":4}}}',
        '{"input_tokens":14}',
        '{"content":[null,{"name":"not counted"},{"name":"n","input":null}],"usage":{"cache_creation":'
        '{"ephemeral_5m_input_tokens":5}}}',
    ],
    Dialect.RESPONSES: [
        '{"id":"r1","object":"response","created_at":1,"status":"completed","error":null,"incomplete_details":null,'
        '"model":"m","output":[{"type":"reasoning","summary":[{"type":"summary_text","text":"so"}]},{"type":"message",'
        '"content":[{"type":"output_text","text":"Gr\u00fc\u00dfe","annotations":[]}]}],"usage":{"input_tokens":36,'
        '"input_tokens_details":{"cached_tokens":6},"output_tokens":87,"output_tokens_details":{"reasoning_tokens":8},'
        '"total_tokens":123}}',
        '{"status":"completed","output":[{"type":"function_call","name":"f","arguments":"{}"},3]}',
    ],
}
DOUBTFUL: dict[Dialect, list[str]] = {
    Dialect.OPENAI: [
        '{"error":{"message":"m"}}',
        '{"x_groq":{"usage":{"prompt_tokens":1}}}',
        '{"id":"a","id":"b"}',
        '{"i\\u0064":"a"}',
        '{"id":"\\""}',
        '{"model":"a\\"b"}',
        '{"usage":{"prompt_tokens":1,"prompt_tokens":2}}',
        '{"usage":{"prompt_tokens":1.0}}',
        '{"usage":{"prompt_tokens":-1}}',
        '{"usage":{"prompt_tokens":9007199254740993}}',
        '{"choices":[{"message":{"content":"a","content":"b"}}]}',
        '{"choices":[{"message":{"reasoning_content":["a"],"reasoning":"b"}}]}',
        '{"choices":[{"message":{"content":"\\ud800"}}]}',
        "[]",
        "{}x",
        "{",
        "",
        '{"choices":' + "[" * 100 + "]" * 100 + "}",
        '{"choices":[{"message":{"content":' + "[" * 100 + "]" * 100 + "}}]}",
    ],
    Dialect.ANTHROPIC: [
        '{"type":"error","error":{"type":"api_error","message":"m"}}',
        '{"content":[{"input":"\\ud800"}]}',
    ],
    Dialect.RESPONSES: [
        '{"status":"failed","error":{"code":"server_error","message":"m"}}',
        '{"status":"incomplete","incomplete_details":{"reason":"max_output_tokens"}}',
        '{"output":[]}',
    ],
}

WORDS = ["", "a", "Gr\u00fc\u00dfe \U0001f680", 'a"b\\c\n', "\x7f", "stop", "length", "error", "completed", "failed"]
WORDS += ["incomplete", "function_call", "max_output_tokens", "tool_use", "message"]
NUMBERS = ["0", "-0", "-0.0", "7", "-7", "61", "109", "1.5", "48.0", "1e2", "1E400", "true", "null", '"7"', "[]", "{}"]
NUMBERS += ["9" * 15, "9" * 16, "9" * 40, str(2**53), str(2**53 + 1), "01", "1.", "-"]
NAMES = {
    Dialect.OPENAI: [
        "id", "model", "choices", "usage", "error", "x_groq", "message", "text", "finish_reason", "content",
        "native_finish_reason", "reasoning", "reasoning_content", "refusal", "tool_calls", "function", "name",
        "arguments", "function_call", "audio", "transcript", "x",
    ],
    Dialect.ANTHROPIC: [
        "type", "id", "model", "content", "stop_reason", "usage", "error", "text", "thinking", "input", "name", "x",
    ],
    Dialect.RESPONSES: [
        "id", "model", "status", "error", "incomplete_details", "reason", "output", "type", "content", "summary",
        "text", "refusal", "name", "arguments", "usage", "created_at", "x",
    ],
}  # fmt: skip
COUNTS = {
    Dialect.OPENAI: [
        "prompt_tokens", "completion_tokens", "total_tokens", "prompt_cache_hit_tokens", "prompt_cache_miss_tokens",
        "cached_tokens", "num_cached_tokens", "cache_creation_input_tokens", "reasoning_tokens",
    ],
    Dialect.ANTHROPIC: ["input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"],
    Dialect.RESPONSES: ["input_tokens", "output_tokens", "total_tokens"],
}  # fmt: skip
DETAILS = {
    Dialect.OPENAI: {
        "prompt_tokens_details": ["cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens"],
        "completion_tokens_details": ["audio_tokens", "reasoning_tokens"],
        "cache_creation": ["ephemeral_1h_input_tokens"],
    },
    Dialect.ANTHROPIC: {
        "cache_creation": ["ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"],
        "output_tokens_details": ["thinking_tokens"],
    },
    Dialect.RESPONSES: {
        "input_tokens_details": ["cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens"],
        "output_tokens_details": ["audio_tokens", "reasoning_tokens"],
    },
}
ANSWERS = {
    Dialect.OPENAI: '{"id":"c","model":"m","choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"usage":%s}',
    Dialect.ANTHROPIC: '{"type":"message","content":[{"type":"text","text":"a"}],"stop_reason":"end_turn","usage":%s}',
    Dialect.RESPONSES: '{"status":"completed","output":[{"type":"message","content":"a"}],"usage":%s}',
}

SHAPES = {
    Dialect.OPENAI: [
        '{"choices":[{"message":%s,"finish_reason":"stop"}]}',
        '{"choices":[{"message":{"reasoning_content":%s,"reasoning":"abc","content":"d"}}]}',
        '{"choices":[{"message":{"reasoning_content":"","reasoning":%s}}]}',
        '{"choices":[{"message":{"tool_calls":[{"function":%s}]}}]}',
        '{"choices":[{"message":{"content":%s,"function_call":{"name":"f","arguments":"{}"}}}]}',
        '{"choices":[{"finish_reason":%s,"native_finish_reason":"a"},{"text":"b"}]}',
        '{"choices":[{"native_finish_reason":%s,"finish_reason":"length","text":"b"}]}',
        '{"choices":[%s],"error":null}',
        '{"choices":%s}',
        '{"error":%s,"choices":[{"text":"a"}]}',
        '{"id":%s,"model":"m","choices":[]}',
    ],
    Dialect.ANTHROPIC: [
        '{"content":[{"type":"tool_use","name":"f","input":%s}]}',
        '{"content":[{"name":%s,"input":{}}]}',
        '{"content":[%s]}',
        '{"content":%s}',
        '{"type":%s,"error":{"message":"m"}}',
        '{"stop_reason":%s,"id":"i"}',
    ],
    Dialect.RESPONSES: [
        '{"status":"completed","output":[{"type":"message","content":%s}]}',
        '{"status":"completed","output":[{"type":%s,"arguments":"{}"}]}',
        '{"status":"completed","output":[%s]}',
        '{"status":"completed","output":%s}',
        '{"status":%s,"incomplete_details":{"reason":"content_filter"}}',
        '{"status":"completed","error":%s}',
        '{"status":"completed","model":%s,"id":"i"}',
    ],
}
ODD = ["nul", "NaN", '"a', '"\\ud800"', '"\\x"', '"\\/"', '"\x01"', ""]

small = st.integers(0, 40).map(str)
counts = st.one_of(small, small, small, st.sampled_from(NUMBERS))


def _object(members: st.SearchStrategy[list[tuple[str, str]]]) -> st.SearchStrategy[str]:
    return members.map(lambda pairs: "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in pairs) + "}")


def usages(dialect: Dialect) -> st.SearchStrategy[str]:
    """Reports with any of the fields that count: present, missing, null, twice, and what is no count."""
    fields = [st.tuples(st.sampled_from([*COUNTS[dialect], "x"]), counts)]
    for name, inner in DETAILS[dialect].items():
        details = _object(st.lists(st.tuples(st.sampled_from([*inner, "x"]), counts), max_size=5))
        fields.append(st.tuples(st.just(name), details | st.sampled_from(["null", "3", "[]"])))
    pairs = st.lists(st.one_of(fields[0], *fields), max_size=9)
    once = pairs.map(lambda found: list(dict(found).items()))
    return _object(once | once | once | pairs)


@st.composite
def texts(draw: st.DrawFn, dialect: Dialect, depth: int = 0) -> str:
    """JSON of the names that matter, in any nesting, nearly always well-formed."""
    chance = draw(st.integers(0, 99))
    if chance < 30 or depth == 4:
        return json.dumps(draw(st.sampled_from(WORDS)), ensure_ascii=chance % 2 == 0)
    if chance < 40:
        return draw(st.sampled_from(NUMBERS))
    if chance < 42:
        return draw(st.sampled_from(ODD))
    if chance < 55:
        return "[" + ",".join(draw(texts(dialect, depth + 1)) for _ in range(chance % 3)) + "]"
    names = draw(st.lists(st.sampled_from(NAMES[dialect]), max_size=5, unique=chance < 97))
    keys = [json.dumps(name) if chance < 98 else f'"\\u{ord(name[0]):04x}{name[1:]}"' for name in names]
    return "{" + ", ".join(f"{key} :{draw(texts(dialect, depth + 1))}" for key in keys) + "}"


@st.composite
def likely(draw: st.DrawFn, dialect: Dialect) -> str:
    """The shapes of answers, with something of the above in them."""
    text = draw(texts(dialect))
    return draw(st.sampled_from([*SHAPES[dialect], "%s"])) % text


def learnt(dialect: Dialect, twin: ModuleType, body: bytes) -> tuple[Any, ...]:
    """Everything that a relay has learnt of an answer."""
    relay = RELAYS[dialect](hide_usage=False, request_id="r", model="p/m", created_s=5, read=twin.read)
    try:
        assert relay.whole(body) is body
    except SecureLLMError as error:
        return type(error), error.message
    failure = relay.failure and (type(relay.failure), relay.failure.status, relay.failure.message)
    return (failure, relay.terminal, *(getattr(relay.meter, name) for name in relay.meter.__slots__))


def _same(pure: ModuleType, compiled: ModuleType, dialect: Dialect, body: bytes) -> None:
    assert learnt(dialect, compiled, body) == learnt(dialect, pure, body)


@pytest.mark.compiled
@pytest.mark.parametrize("dialect", RELAYS)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_usage_of_every_shape(pure: ModuleType, compiled: ModuleType, dialect: Dialect, data: st.DataObject) -> None:
    """Missing, null, nested, float, negative, huge, a string, twice: the same buckets."""
    _same(pure, compiled, dialect, (ANSWERS[dialect] % data.draw(usages(dialect))).encode())


@pytest.mark.compiled
@pytest.mark.parametrize("dialect", RELAYS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_usage_of_small_numbers(pure: ModuleType, compiled: ModuleType, dialect: Dialect, seed: int) -> None:
    """Many reports of most of the fields, so small that every part is larger than its whole now and then."""
    chance = random.Random(seed)

    def some(names: list[str]) -> dict[str, Any]:
        return {name: chance.choice([0, 1, 2, 3, 5, 8, 13]) for name in names if chance.random() < 0.6}

    for _ in range(200):
        report = some(COUNTS[dialect])
        for name, inner in DETAILS[dialect].items():
            if chance.random() < 0.8:
                report[name] = some(inner)
        body = (ANSWERS[dialect] % json.dumps(report)).encode()
        assert compiled.read(dialect.value, body) is not None
        _same(pure, compiled, dialect, body)


@pytest.mark.compiled
@pytest.mark.parametrize("dialect", RELAYS)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_answers_of_every_shape(pure: ModuleType, compiled: ModuleType, dialect: Dialect, data: st.DataObject) -> None:
    """Whatever stands where: the same text is counted, the same words are found, the same bodies are refused."""
    _same(pure, compiled, dialect, data.draw(likely(dialect)).encode("utf-8", "surrogatepass"))


@pytest.mark.compiled
@pytest.mark.parametrize("dialect", RELAYS)
@settings(max_examples=EXAMPLES, deadline=None)
@given(junk=st.binary(max_size=4), which=st.integers(0, 9), at=st.integers(0, 1000), cut=st.integers(0, 3))
@example(junk=b"\xef\xbb\xbf", which=0, at=0, cut=0)
def test_damaged_answers(
    pure: ModuleType, compiled: ModuleType, dialect: Dialect, junk: bytes, which: int, at: int, cut: int
) -> None:
    """The same where bytes are lost or put in."""
    body = PLAIN[dialect][which % len(PLAIN[dialect])].encode()
    at %= len(body) + 1
    _same(pure, compiled, dialect, body[:at] + junk + body[at + cut :])


@pytest.mark.compiled
@pytest.mark.parametrize("dialect", RELAYS)
def test_plain_answers_are_read(pure: ModuleType, compiled: ModuleType, dialect: Dialect) -> None:
    """What providers usually send is not decoded, and is read alike; cut anywhere it is refused alike."""
    for text in PLAIN[dialect]:
        body = text.encode()
        assert compiled.read(dialect.value, body) is not None, text
        _same(pure, compiled, dialect, body)
        for end in range(0, len(body), 7):
            _same(pure, compiled, dialect, body[:end])


@pytest.mark.compiled
@pytest.mark.parametrize("dialect", RELAYS)
def test_doubtful_answers_are_decoded(pure: ModuleType, compiled: ModuleType, dialect: Dialect) -> None:
    """Errors, what comes twice, escapes where a word should be, odd numbers, deep nesting: left to the relay."""
    for text in DOUBTFUL[dialect]:
        assert compiled.read(dialect.value, text.encode()) is None, text
        _same(pure, compiled, dialect, text.encode())


def test_another_dialect_is_nobodys(twin: ModuleType) -> None:
    """Of a dialect that no relay passes on unchanged nothing is said."""
    assert twin.read("ollama", b'{"model":"m"}') is None


@pytest.mark.compiled
@pytest.mark.corpus
@pytest.mark.parametrize(
    "endpoint", [Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS, Endpoint.MESSAGES, Endpoint.RESPONSES]
)
def test_recorded_answers(pure: ModuleType, compiled: ModuleType, endpoint: Endpoint) -> None:
    """The recorded answers are read alike; of the good ones nearly all without being decoded."""
    recordings = [found for found in load_recordings(endpoint.value) if found.kind == "json"]
    for recording in recordings:
        _same(pure, compiled, endpoint.dialect, recording.response)
    good = [found for found in recordings if found.status == 200]
    read = [found for found in good if compiled.read(endpoint.dialect.value, found.response) is not None]
    assert len(read) >= 0.9 * len(good)
