"""The compiled scanner of streams against its definition: same bytes, same cuts, same output, same meter.

The definition shows every event to the relay; the compiled one shows only what it does not take for plain text.
"""

import itertools
import json
import os
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rig.replay import load_recordings
from securellm.chat import Dialect, Endpoint
from securellm.errors import InternalError, SecureLLMError
from securellm.wire.scan import ScanningRelay
from securellm.wire.scan_anthropic import AnthropicScan
from securellm.wire.scan_openai import OpenAIScan
from securellm.wire.scan_responses import ResponsesScan

TWIN = "sse"
EXAMPLES = max(50, int(80 * float(os.environ.get("SECURELLM_TEST_SCALE", "1"))))
RELAYS: dict[Dialect, type[ScanningRelay]] = {
    Dialect.OPENAI: OpenAIScan,
    Dialect.ANTHROPIC: AnthropicScan,
    Dialect.RESPONSES: ResponsesScan,
}

# What opens a stream, so that id and model are known and the scanner reads by itself.
OPENINGS = {
    Dialect.OPENAI: b'data: {"id":"c1","model":"m","choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n',
    Dialect.ANTHROPIC: b'event: message_start\ndata: {"type":"message_start","message":{"id":"m1","model":"m"}}\n\n',
    Dialect.RESPONSES: b'data: {"type":"response.created","response":{"id":"r1","model":"m"}}\n\n',
}
# Where something interesting can stand, and what.
NAMES = {
    Dialect.OPENAI: [
        "id", "model", "choices", "usage", "error", "x_groq", "delta", "text", "finish_reason", "content", "role",
        "reasoning", "reasoning_content", "refusal", "tool_calls", "function", "name", "arguments", "function_call",
        "audio", "logprobs", "x",
    ],
    Dialect.ANTHROPIC: [
        "type", "delta", "text", "thinking", "partial_json", "content_block", "message", "usage", "error",
        "stop_reason", "index", "x",
    ],
    Dialect.RESPONSES: [
        "type", "sequence_number", "response", "delta", "item", "part", "error", "code", "message", "id", "model",
        "usage", "obfuscation", "x",
    ],
}  # fmt: skip
WORDS = [
    "", "a", "Grüße 🚀", "\u2028", 'a"b\\c\n', "\x00\x7f", "[DONE]", "message_stop", "error", "ping", "message_delta",
    "content_block_delta", "content_block_stop", "content_block_start", "text_delta", "thinking_delta",
    "input_json_delta", "signature_delta", "response.completed", "response.output_text.delta", "x.delta", ".delta",
    "response.failed", "response.content_part.added", "stop",
]  # fmt: skip
NUMBERS = ["0", "-0", "7", "01", "-", "1.5", "1.", "1e5", "-2.5E-07", "1e999", "9" * 15, "9" * 16, "9" * 40, "1.0"]
ODD = [
    "nul",
    "NaN",
    "tru",
    '"a',
    '"\\ud800"',
    '"\\ude80"',
    '"\\ud83d\\ude80"',
    '"\\u00fC"',
    '"\\x"',
    '"\\/"',
    "",
    "'a'",
]


def _texts(dialect: Dialect) -> st.SearchStrategy[str]:
    """JSON, nearly always well-formed, of the names that matter."""
    names = st.sampled_from(NAMES[dialect])
    keys = names.map(json.dumps) | names.map(lambda name: f'"\\u{ord(name[0]):04x}{name[1:]}"')
    keys = st.one_of(names.map(json.dumps), names.map(json.dumps), names.map(json.dumps), keys)
    strings = st.sampled_from(WORDS).flatmap(
        lambda word: st.sampled_from([json.dumps(word), json.dumps(word, ensure_ascii=False)])
    )
    scalars = st.one_of(
        strings, strings, st.sampled_from(["null", "true", "false"]), st.sampled_from(NUMBERS), st.sampled_from(ODD)
    )
    space = st.sampled_from(["", "", " ", " \t\r\n"[:2]])

    def extend(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        pairs = st.lists(
            st.tuples(keys, space, inner).map(lambda pair: f"{pair[0]}{pair[1]}:{pair[1]}{pair[2]}"), max_size=4
        )
        joined = st.tuples(pairs, space).map(lambda made: "{" + f"{made[1]},".join(made[0]) + made[1] + "}")
        lists = st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")
        return joined | lists

    return st.recursive(scalars, extend, max_leaves=10)


def _likely(dialect: Dialect) -> st.SearchStrategy[str]:
    """The shapes that streams are made of, with something of the above in them."""
    value = _texts(dialect)
    shapes = {
        Dialect.OPENAI: [
            '{"id":"c1","model":"m","choices":[{"index":0,"delta":{"content":%s},"finish_reason":null}],"usage":null}',
            '{"choices":[{"delta":{"reasoning_content":%s,"reasoning":"abc","role":"assistant","x":null}}]}',
            '{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":%s}}]}},{"text":"q"}]}',
            '{"choices":[{"text":%s,"delta":null}],"error":null,"created":12}',
            '{"choices":[],"usage":%s}',
            '{"choices":[{"delta":%s}]}',
            '{"choices":%s}',
            '{"choices":[{"delta":{"content":"a"},"finish_reason":%s}]}',
        ],
        Dialect.ANTHROPIC: [
            '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":%s}}',
            '{"type":"content_block_delta","delta":{"thinking":%s,"type":"thinking_delta"}}',
            '{"delta":{"type":"input_json_delta","partial_json":%s},"type":"content_block_delta"}',
            '{"type":"content_block_delta","delta":{"type":%s,"text":"abc"}}',
            '{"type":%s,"delta":{"type":"text_delta","text":"abc"}}',
            '{"type":"message_delta","delta":{"stop_reason":%s},"usage":{"output_tokens":3}}',
        ],
        Dialect.RESPONSES: [
            '{"type":"response.output_text.delta","sequence_number":5,"delta":%s,"obfuscation":"xyz"}',
            '{"type":"response.output_text.delta","sequence_number":%s,"delta":"abc"}',
            '{"type":%s,"delta":"abc","sequence_number":6}',
            '{"type":"response.in_progress","response":%s}',
        ],
    }
    return st.sampled_from(shapes[dialect]).flatmap(lambda shape: value.map(lambda text: shape % text)) | value


def _events(dialect: Dialect) -> st.SearchStrategy[bytes]:
    frames = st.sampled_from(
        [b"data: %s\n\n"] * 6
        + [
            b"data:%s\n\n",
            b"data: %s\r\n\r\n",
            b"event: x\ndata: %s\n\n",
            b"event:\ndata: %s\n\n",
            b"event: error\ndata: %s\n\n",
            b"data: %s\ndata: \n\n",
            b"data\ndata: %s\n\n",
            b": c\nid: 1\ndata: %s\nretry: 1\n\n",
            b"\ndata: %s\n\n",
            b"dat: %s\n\n",
            b"data: %s\r\r",
        ]
    )
    damage = st.sampled_from([b""] * 12 + [b"\xff", b"\xc3", b"\xed\xa0\x80", b"}", b"\0"])
    bodies = st.tuples(_likely(dialect), damage).map(
        lambda made: made[0].encode("utf-8", "surrogatepass") + made[1] if made[0] else made[1]
    )
    done = st.sampled_from([b"data: [DONE]\n\n", b"data:[DONE] \n\n", b": ping\n\n", b"data: x"])
    return st.tuples(frames, bodies).map(lambda made: made[0] % made[1]) | done


def _cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


def _relay(dialect: Dialect, twin: ModuleType, *, hide_usage: bool = True) -> ScanningRelay:
    return RELAYS[dialect](hide_usage=hide_usage, request_id="r", model="p/m", created_s=5, scanner=twin.StreamScanner)


def _seen(relay: ScanningRelay, pieces: list[bytes]) -> list[Any]:
    """Everything that can be seen of a relay while it is fed, and what it writes in the end."""
    seen: list[Any] = []
    for piece in pieces:
        try:
            seen.append((*relay.feed(piece), *_state(relay)))
        except SecureLLMError as error:
            return [*seen, type(error), error.message]
    try:
        seen.append(relay.end())
    except SecureLLMError as error:
        seen.append(error.message)
    return [*seen, *_state(relay), relay.fail(InternalError("x"))]


def _state(relay: ScanningRelay) -> tuple[Any, ...]:
    failure = relay.failure and (relay.failure.status, relay.failure.message)
    return (relay.terminal, failure, repr(relay), *(getattr(relay.meter, name) for name in relay.meter.__slots__))


def _same(pure: ModuleType, compiled: ModuleType, dialect: Dialect, pieces: list[bytes]) -> None:
    assert _seen(_relay(dialect, compiled), pieces) == _seen(_relay(dialect, pure), pieces)


cuts = st.lists(st.integers(0, 2000), max_size=8)
STREAMED = [Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.MESSAGES, Endpoint.RESPONSES]


@pytest.mark.compiled
@pytest.mark.parametrize("dialect", RELAYS)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data(), opened=st.booleans(), places=cuts)
def test_twins_scan_alike(
    pure: ModuleType, compiled: ModuleType, dialect: Dialect, data: st.DataObject, opened: bool, places: list[int]
) -> None:
    """For any events and any cutting: the same bytes pass and are held, and the same is learnt, after each piece."""
    stream = b"".join(data.draw(st.lists(_events(dialect), max_size=6)))
    _same(pure, compiled, dialect, _cut(OPENINGS[dialect] * opened + stream, places))


@pytest.mark.compiled
@pytest.mark.parametrize("dialect", RELAYS)
@settings(max_examples=EXAMPLES, deadline=None)
@given(junk=st.binary(max_size=12), at=st.integers(0, 400), cut=st.integers(0, 3), places=cuts)
@example(junk=b"\xef\xbb\xbf", at=0, cut=0, places=[])
def test_twins_scan_damage_alike(
    pure: ModuleType, compiled: ModuleType, dialect: Dialect, junk: bytes, at: int, cut: int, places: list[int]
) -> None:
    """The same where bytes are lost or put in."""
    stream = OPENINGS[dialect] + b"".join(PLAIN[dialect]) * 2
    at %= len(stream)
    _same(pure, compiled, dialect, _cut(stream[:at] + junk + stream[at + cut :], places))


@pytest.mark.compiled
@pytest.mark.corpus
@pytest.mark.parametrize("endpoint", STREAMED)
@pytest.mark.parametrize("size", [17, 1000, 1_000_000])
def test_twins_scan_recordings_alike(pure: ModuleType, compiled: ModuleType, endpoint: Endpoint, size: int) -> None:
    """The recorded streams, in small and large pieces."""
    streams = [recording.response for recording in load_recordings(endpoint.value) if recording.kind == "sse"]
    assert streams
    for stream in streams:
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        for ending in (pieces, pieces[:-1]):
            _same(pure, compiled, endpoint.dialect, ending)


# Events that only say more text, or nothing, as providers write them: none of them needs a relay.
PLAIN: dict[Dialect, list[bytes]] = {
    Dialect.OPENAI: [
        b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","service_tier":"default",'
        b'"choices":[{"index":0,"delta":{"content":" Gr\xc3\xbc\\u00dfe \\ud83d\\ude80"},"logprobs":null,'
        b'"finish_reason":null}],"usage":null,"obfuscation":"aB3"}\n\n',
        b'data: {"id": "c1", "model": "m", "choices": [{"delta": {"role": "assistant", "content": "", "x": null}}]'
        b"}\n\n",
        b'data: {"choices":[{"delta":{"reasoning":"why","reasoning_content":"why"}},{"delta":{"refusal":"no"}}]}\r\n'
        b"\r\n",
        b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"t","type":"function","function":'
        b'{"name":"f","arguments":"{\\"a\\":1}"}}]}}]}\n\n',
        b'data: {"choices":[{"text":"hi","index":0,"logprobs":{"tokens":["hi"],"token_logprobs":[-1.5e-05]}}]}\n\n',
        b": OPENROUTER PROCESSING\n\n",
    ],
    Dialect.ANTHROPIC: [
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
        b'"text":"Gr\xc3\xbc\xc3\x9fe"}  }\n\n',
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta",'
        b'"partial_json":"{\\"a\\":"}}\n\n',
        b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"thinking_delta",'
        b'"thinking":"hm"}}\n\n',
        b'event: ping\ndata: {"type": "ping"}\n\n',
        b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n',
    ],
    Dialect.RESPONSES: [
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":4,'
        b'"item_id":"i","output_index":0,"content_index":0,"delta":"Gr\xc3\xbc\xc3\x9fe","logprobs":[],'
        b'"obfuscation":"x1"}\n\n',
        b'data: {"type":"response.function_call_arguments.delta","delta":"{\\"a\\"","sequence_number":5}\n\n',
    ],
}


class Witness:
    """A reader that only notes what it is shown."""

    def __init__(self) -> None:
        self.shown: list[bytes] = []
        self.counted: list[tuple[int, int, int]] = []

    def see(self, event: Any) -> int:
        """Everything is known already."""
        self.shown.append(event.raw)
        return 16

    def count(self, *counted: int) -> None:
        """What was read without being shown."""
        self.counted.append(counted)


@pytest.mark.compiled
@pytest.mark.parametrize("dialect", RELAYS)
def test_plain_events_are_not_shown(compiled: ModuleType, dialect: Dialect) -> None:
    """The compiled scanner reads what providers send most by itself, adds it up, and passes the same object on."""
    scanner, witness = compiled.StreamScanner(dialect.value), Witness()
    scanner.feed(witness, OPENINGS[dialect])
    data = b"".join(PLAIN[dialect])
    for _ in range(2):
        relayed = scanner.feed(witness, data)
        assert relayed.data is data
        assert (relayed.held, relayed.semantic) == (b"", True)
    assert witness.shown == [OPENINGS[dialect]]
    expected = {Dialect.OPENAI: (4, 28, -1), Dialect.ANTHROPIC: (3, 14, -1), Dialect.RESPONSES: (2, 11, 5)}
    assert witness.counted == [expected[dialect]] * 2


@pytest.mark.compiled
def test_what_cannot_be_decided_is_shown(compiled: ModuleType) -> None:
    """Escaped or repeated keys, usage with a space, finishes, errors, odd numbers: the relay looks at them."""
    for text in (
        b'{"choices":[],"usage": {"total_tokens":1}}',
        b'{"choices":[],"usa\\u0067e":{"total_tokens":1}}',
        b'{"choices":[{"delta":{"content":"a"}}],"choices":[]}',
        b'{"choices":[{"delta":{"content":"a","content":"b"}}]}',
        b'{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}',
        b'{"choices":[{"delta":{"content":"a"}}],"error":{}}',
        b'{"choices":[{"delta":{"content":"a"}}],"n":1e999}',
        b'{"choices":[{"delta":{"content":"\\ud800"}}]}',
        b'{"choices":[{"delta":{"content":"\xff"}}]}',
        b'{"choices":[{"delta":{"content":["a"]}}]}',
        b'{"choices":[{"delta":{"content":"a"}}]}x',
        b'{"choices":[{"delta":{"content":"a"}}]',
        b"[" * 100,
        b"[DONE]",
    ):
        scanner, witness = compiled.StreamScanner("openai"), Witness()
        event = b"data: " + text + b"\n\n"
        scanner.feed(witness, OPENINGS[Dialect.OPENAI] + event)
        assert witness.shown == [OPENINGS[Dialect.OPENAI], event]


def test_a_long_line_and_many_events(twin: ModuleType) -> None:
    """A line of a megabyte, in pieces, and a thousand events in one read are counted like any."""
    relay = _relay(Dialect.OPENAI, twin)
    long = b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % (b"x" * 1_000_000)
    stream = OPENINGS[Dialect.OPENAI] + long + PLAIN[Dialect.OPENAI][0] * 1000
    passed = b"".join(relay.feed(stream[at : at + 65_536]).data for at in range(0, len(stream), 65_536))
    assert passed + relay.scanner.tail() == stream
    assert relay.meter.output_bytes == 1_000_000 + 1000 * 13
    assert relay.meter.semantic_events == 1001


@pytest.mark.compiled
@pytest.mark.parametrize("wrong", [None, "text", 7])
def test_what_is_not_bytes(compiled: ModuleType, wrong: object) -> None:
    """What is not bytes is refused, never read."""
    with pytest.raises(TypeError):
        compiled.StreamScanner("openai").feed(Witness(), wrong)


@pytest.mark.parametrize("dialect", ["ollama", "", "OPENAI"])
def test_unknown_dialects(twin: ModuleType, dialect: str) -> None:
    """There is no scanner for a dialect that is not relayed as it is."""
    with pytest.raises(ValueError, match="dialect"):
        twin.StreamScanner(dialect)
