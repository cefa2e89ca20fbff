"""Where members are in a body: both implementations say the same, and what they say is what is there."""

import json
import os
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from securellm.chat import Endpoint
from securellm.errors import BadRequest
from securellm.wire.body import peek
from securellm.wire.weight import KINDS, turns_at, weigh

TWIN = "members"
DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.text(max_size=4) | st.sampled_from(["model", "stream", 'a"b', "a\\b", "é", "\U0001f600"])
SPACE = st.sampled_from([b"", b" ", b"\n\t", b" \r\n "])


@st.composite
def objects(draw: st.DrawFn) -> tuple[bytes, list[tuple[str, Any]]]:
    """The text of an object whose keys may repeat, and its pairs."""
    pairs = draw(st.lists(st.tuples(KEYS, VALUES), max_size=6))
    text = draw(SPACE) + b"{"
    for number, (key, value) in enumerate(pairs):
        escaped = json.dumps(key, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
        encoded = json.dumps(value).encode()
        text += (b"," if number else b"") + draw(SPACE) + escaped + draw(SPACE) + b":" + draw(SPACE) + encoded
        text += draw(SPACE)
    return text + b"}" + draw(SPACE), pairs


@given(made=objects())
@example(made=(b'{"":1,"":1}', [("", 1), ("", 1)]))
def test_every_value_is_where_it_is_said_to_be(twin: ModuleType, made: tuple[bytes, list[tuple[str, Any]]]) -> None:
    """Each span holds the value of its key; a key that is there twice is told, and only then."""
    body, pairs = made
    spans, first_member, repeated = twin.locate(body, DECODER.decode(body))
    assert body[:first_member].strip() == b"{"
    names = [key for key, _ in pairs]
    if len(set(names)) == len(names):
        assert repeated is None
        assert {key: json.loads(body[slice(*span)]) for key, span in spans.items()} == dict(pairs)
    else:
        assert repeated in {name for name in names if names.count(name) > 1}


@pytest.mark.compiled
@given(made=objects(), lead=st.binary(max_size=3))
def test_both_say_the_same(
    pure: ModuleType, compiled: ModuleType, made: tuple[bytes, list[tuple[str, Any]]], lead: bytes
) -> None:
    """The compiled walk gives the spans, the first member and the repeated key of the definition, at any start."""
    body, members = made[0], DECODER.decode(made[0])
    assert compiled.locate(lead + body, members, len(lead)) == pure.locate(lead + body, members, len(lead))


SCALE = max(50, int(400 * float(os.environ.get("SECURELLM_TEST_SCALE", "1"))))
CHAT, EMBEDDINGS = Endpoint.CHAT, Endpoint.EMBEDDINGS
ENDPOINTS = [CHAT, EMBEDDINGS, Endpoint.COMPLETIONS, Endpoint.RESPONSES, Endpoint.MESSAGES, Endpoint.COUNT_TOKENS]
DATA_URL = "data:image/png;base64," + "QUJD" * 20

TEXTS = (
    st.text(max_size=6)
    | st.sampled_from(
        [DATA_URL, "base64", "a" * 17 + "é", '"\\/\b\f\n\r\t\x7f', "\U0001f600" * 9, "漢字" * 20, "x" * 40]
    )
    | st.integers(0, 70).map("p".__mul__)
)
SCALARS = (
    st.none()
    | st.booleans()
    | TEXTS
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0, 10**15, 1e99, 1e300, -0.0])
)
TYPES = (
    st.sampled_from(
        ["text", "image", "image_url", "input_image", "base64", "tool_result", "file", "", "document", "url"]
    )
    | TEXTS
    | SCALARS
)
NAMES = ["type", "content", "output", "source", "image_url", "data", "url", "text", "type", "ty\\u0070e", "ü"]


class Object(list[tuple[str, Any]]):
    """An object as its pairs, of which names may repeat; a name is as it stands between its quotes."""


PARTS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(st.tuples(st.just("type"), TYPES) | st.tuples(st.sampled_from(NAMES), inner), max_size=4).map(Object)
    ),
    max_leaves=12,
)
IMAGES = st.builds(
    lambda held, kind: Object([("type", kind), *held]),
    st.lists(
        st.tuples(
            st.sampled_from(["source", "image_url", "content"]),
            st.sampled_from(
                [
                    DATA_URL,
                    "https://x.test/a.png",
                    Object([("type", "base64"), ("data", "QUJD" * 9)]),
                    Object([("data", "QUJD"), ("type", "base64"), ("data", "QUJDQUJD")]),
                    Object([("url", DATA_URL)]),
                    Object([("type", "url"), ("url", "https://x.test/a.png")]),
                    Object([("type", "base64"), ("data", 7), ("url", DATA_URL)]),
                    Object([("type", 7)]),
                ]
            ),
        ),
        max_size=2,
        unique_by=lambda pair: pair[0],
    ),
    st.sampled_from(["image", "image_url", "input_image", "text"]),
)
TURNS = st.lists(
    st.builds(
        lambda name, parts, kind: Object([("role", "user"), *kind, (name, parts)]),
        st.sampled_from(["content", "output"]),
        st.lists(IMAGES | st.builds(lambda kind: Object([("type", kind)]), TYPES), max_size=3) | TEXTS,
        st.sampled_from([(), (), (("type", "tool_result"),), (("type", "file"),)]),
    ),
    max_size=3,
)
TOOLS = st.lists(
    st.builds(
        lambda kind, more: Object([("type", kind), *more]), st.sampled_from(["function", "bash_1", "x", 7]), st.just(())
    )
    | st.just(Object([("name", "f")])),
    max_size=3,
)
FIELDS = (
    st.just(("model", "p/m"))
    | st.tuples(st.sampled_from(["messages", "input", "system"]), TURNS)
    | st.tuples(st.sampled_from(["messages", "input", "system"]), PARTS)
    | st.tuples(st.just("tools"), TOOLS | SCALARS | st.just(Object([("type", "function")])))
    | st.tuples(st.sampled_from(["max_tokens", "max_completion_tokens", "n", "best_of"]), st.integers(-2, 9) | SCALARS)
    | st.tuples(
        st.sampled_from(["stream", "stream_options", "modalities", "audio", "prediction", "prompt", "functions"]),
        st.booleans() | PARTS | st.just(["text", "audio"]) | st.just(Object([("include_usage", True)])),
    )
    | st.tuples(st.sampled_from(["container", "conversation", "temperature", "api_base", "mod\\u0065l", "ü"]), PARTS)
)


def _written(value: Any, draw: st.DrawFn) -> bytes:
    """The JSON of a value, with white space and escapes as drawn."""
    lead, tail = (draw(SPACE), draw(SPACE)) if isinstance(value, list) else (b"", b"")
    if isinstance(value, Object):
        pairs = (f'"{name}"'.encode() + tail + b":" + lead + _written(held, draw) for name, held in value)
        return b"{" + lead + b",".join(pairs) + tail + b"}"
    if isinstance(value, list):
        return b"[" + lead + b",".join(_written(held, draw) for held in value) + tail + b"]"
    text = json.dumps(value, ensure_ascii=draw(st.booleans()) if isinstance(value, str) else True)
    return text.encode("utf-8", "surrogatepass") + tail


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """The body of a request, often with something wrong in it."""
    fields = draw(st.lists(FIELDS, max_size=6, unique_by=lambda pair: pair[0]))
    if draw(st.integers(0, 9)):
        fields = [("model", "p/m"), *(pair for pair in fields if pair[0] != "model")]
    if not draw(st.integers(0, 9)):
        fields += fields[:1]
    body = draw(SPACE) + _written(Object(fields), draw) + draw(SPACE)
    if not draw(st.integers(0, 9)):  # a byte is another, is away, or is there twice
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(st.binary(max_size=2)) + body[at + draw(st.integers(0, 2)) :]
    return body


def _peeked(endpoint: Endpoint, body: bytes, use: ModuleType) -> tuple[Any, Any]:
    """What is known of a body with one of the twins: peeked and weighed, or the error."""
    try:
        peeked = peek(endpoint, body, use)
    except BadRequest as error:
        return (type(error), error.message, error.param), None
    return msgspec.structs.replace(peeked, weight=None), peeked.weight or weigh(endpoint, body)


@pytest.mark.compiled
@settings(max_examples=SCALE)
@given(body=bodies(), endpoint=st.sampled_from(ENDPOINTS))
@example(body=b'{"model":"m","messages":[{"type":"image","source":{"type":"base64","data":"QQ=="} }]}', endpoint=CHAT)
@example(body=b'{"model":"m","messages":[{"content":[],"content":[{"type":"x"}]}]}', endpoint=CHAT)
@example(body=b'{"model":"m","messages":[{"type":"x","type":"text"}]}', endpoint=CHAT)
@example(body=b'{"model":"m","messages":[{"type":"doc\\u0075ment"}]}', endpoint=CHAT)
@example(body=b'{"model":"m","messages":["\\ud800"]}', endpoint=CHAT)
@example(body=b'{"model":"m","messages":["\xed\xa0\x80"]}', endpoint=CHAT)
@example(body=b'{"model":"m","messages":[7]}', endpoint=EMBEDDINGS)
@example(body=b'{"model":"m","input":["a","b"]}', endpoint=EMBEDDINGS)
@example(body=b'{"model":"m","x":' + b"[" * 40 + b"]" * 40 + b"}", endpoint=CHAT)
@example(body=b'{"model":"m","messages":' + b'[{"content":' * 40 + b"[]" + b"}]" * 40 + b"}", endpoint=CHAT)
@example(body=b'{"model":"m","x":' + b"9" * 400 + b',"y":1e999}', endpoint=CHAT)
@example(body=b'{"model":"m"} x', endpoint=CHAT)
@example(body=b"\xef\xbb\xbf{}", endpoint=CHAT)
def test_a_survey_says_what_decoding_says(
    pure: ModuleType, compiled: ModuleType, body: bytes, endpoint: Endpoint
) -> None:
    """Whatever the body: with the compiled survey it is peeked and weighed, or refused, as it is without."""
    assert _peeked(endpoint, body, compiled) == _peeked(endpoint, body, pure)


@pytest.mark.compiled
@pytest.mark.parametrize(
    "document",
    [
        {"model": "m", "messages": [{"role": "user", "content": "hällo\n" * 50}], "temperature": 0.25, "stream": True},
        {"model": "m", "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64"}}]}]},
        {"model": "m", "input": "x", "tools": [{"type": "function"}, {"name": "f"}], "metadata": {"a": [{}, []]}},
    ],
)
def test_what_is_usual_is_surveyed(compiled: ModuleType, document: dict[str, object]) -> None:
    """Bodies as they come every day are in no doubt, so that they are looked at once."""
    for ascii_only in (True, False):
        body = json.dumps(document, ensure_ascii=ascii_only).encode()
        assert compiled.survey(body, turns_at(CHAT), KINDS) is not None


@pytest.mark.compiled
@given(
    lead=st.integers(0, 40),
    special=st.sampled_from(
        [b"\x00", b"\x1f", b'"', b"\\", b"\x80", b"\xff", b"\xc2\xa2", b"\xf4\x90\x80\x80", b"\x7f"]
    ),
    tail=st.integers(0, 40),
)
def test_nothing_hides_in_a_long_text(
    pure: ModuleType, compiled: ModuleType, lead: int, special: bytes, tail: int
) -> None:
    """A byte that ends or spoils a text is seen at every place of a text that is looked through in blocks."""
    body = b'{"model":"m","x":"' + b"a" * lead + special + b"b" * tail + b'"}'
    assert _peeked(CHAT, body, compiled) == _peeked(CHAT, body, pure)


GOOD = [
    *(b"\\" + bytes([letter]) for letter in b'"\\/bfnrt'), b"\\u0000", b"\\u00e9", b"\\uD7FF", b"\\ue000", b"\\uFfFf",
    b"\\ud83d\\ude00", b"\\uDBFF\\uDFFF", b"\\uD800\\udc00", b"\\\\\\\\", b"\\\\\\n", b"\\\\u12", b"\\n\\u4eac\\\\",
    b"\x7f", b"\xc2\x80", b"\xdf\xbf", b"\xe0\xa0\x80", b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbf",
    b"\xf0\x90\x80\x80", b"\xf4\x8f\xbf\xbf", b"\xc3\xa9\xe6\x9d\xb1\xf0\x9f\x98\x80" * 9, b"\\u6771" * 25,
    b"\\\\" * 70, b"\\ud83d\\ude00" * 12,
]  # fmt: skip
BAD = [
    b"\\x", b"\\u", b"\\u123", b"\\u12g4", b"\\u 123", b"\\U0041", b"\\\xc3\xa9", b"\\u00\xc3\xa9", b"\\\n", b"\x00",
    b"\x1f", b"\n", b"\\ud83d", b"\\ude00", b"\\ude00\\ud83d", b"\\ud83d\\ud83d", b"\\ud83dx\\ude00", b"\\ud83d\\n",
    b"\\ud83d\\ude0", b"\\ude00" * 20, b"\x80", b"\xbf\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xc3", b"\xc3\xc3\xa9",
    b"\xc3\xa9\xa9", b"\xe0\x9f\xbf", b"\xe6\x9d", b"\xe6\x9d\xe6", b"\xed\xa0\x80", b"\xed\xbf\xbf",
    b"\xf0\x8f\xbf\xbf", b"\xf0\x9f\x98", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff",
    b"\xf0\x9f\x98\x80\x80", b"\xc3\\n", b'"', b'\\\\"',
]  # fmt: skip


@pytest.mark.compiled
@pytest.mark.parametrize("before", [b"\\n", b"\xc3\xa9", b"\\\\\\\\", b"\xf0\x9f\x98\x80\\t"])
def test_every_piece_is_judged_wherever_in_a_block_it_stands(
    pure: ModuleType, compiled: ModuleType, before: bytes
) -> None:
    """Texts are gone over 64 bytes at a time: good pieces leave no doubt at any place of a block, others always do."""
    for piece in GOOD + BAD:
        for lead in range(70):
            body = b'{"model":"m","x":"' + before + b"a" * lead + piece + b"z" * 70 + b'"}'
            assert (compiled.survey(body, frozenset(), KINDS) is not None) == (piece in GOOD), (piece, lead)
        assert _peeked(CHAT, body, compiled) == _peeked(CHAT, body, pure)
        cut = b'{"model":"m","x":"' + before + piece  # nothing behind the end is read
        assert compiled.survey(cut, frozenset(), KINDS) is None


@pytest.mark.compiled
def test_utf8_is_what_python_takes_for_it(compiled: ModuleType) -> None:
    """Any two bytes, and what may follow them: a text in which they stand is good when Python can decode it."""
    edges = [0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC2, 0xE1, 0xF1]
    for first in range(0x80, 0x100):
        for second in edges:
            for tail in (b"", b"\x80", b"\xbf\x80", b"\x80\xbf\x80"):
                piece = bytes([first, second]) + tail
                body = b'{"x":"\xc3\xa9' + b"a" * (first % 64) + piece + b"z" * 70 + b'"}'
                try:
                    piece.decode()
                except UnicodeDecodeError:
                    good = False
                else:
                    good = True
                assert (compiled.survey(body, frozenset(), KINDS) is not None) == good, piece


@pytest.mark.compiled
@settings(max_examples=SCALE)
@given(
    pieces=st.lists(
        st.sampled_from([*GOOD, b"a" * 5, b"x" * 31, b"\\n", b"\xc3\xa9"]) | st.text(max_size=30).map(json.dumps).map(
            lambda text: text[1:-1].encode()
        ), max_size=30,
    ),
    spoiled=st.none() | st.tuples(st.integers(0, 2000), st.sampled_from(BAD)),
)  # fmt: skip
def test_long_texts_are_judged_alike(
    pure: ModuleType, compiled: ModuleType, pieces: list[bytes], spoiled: tuple[int, bytes] | None
) -> None:
    """Text of escapes and characters of all lengths, good or spoiled anywhere: the survey finds what decoding finds."""
    text = b"".join(pieces)
    if spoiled is not None:
        at = spoiled[0] % (len(text) + 1)
        text = text[:at] + spoiled[1] + text[at:]
    body = b'{"model":"m","x":"' + text + b'","n":1}'
    assert _peeked(CHAT, body, compiled) == _peeked(CHAT, body, pure)
