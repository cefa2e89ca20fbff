"""Peeking into a request's body and splicing it: what is refused, what is found, and that nothing else changes."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securellm.chat import Endpoint
from securellm.errors import BadRequest, DestinationField, DuplicateKey
from securellm.wire.body import DESTINATION_FIELDS, Edited, check_headers, edit, peek, splice

SECRET = "sk-canary-in-the-prompt"

NOT_JSON = {
    "empty": b"",
    "blank": b"  \n",
    "byte order mark": b'\xef\xbb\xbf{"model":"m"}',
    "trailing junk": b'{"model":"m"} x',
    "two documents": b'{"model":"m"}{"model":"m"}',
    "array": b'["sk-canary-in-the-prompt"]',
    "string": b'"sk-canary-in-the-prompt"',
    "null": b"null",
    "cut": b'{"model":"m","messages":["sk-canary-in-the-prompt',
    "nan": b'{"model":"m","x":NaN}',
    "nan inside": b'{"model":"m","x":[{"y":-Infinity}]}',
    "leading zero": b'{"model":"m","x":[01]}',
    "bare decimal point": b'{"model":"m","x":1.}',
    "trailing comma": b'{"model":"m",}',
    "single quotes": b"{'model':'m'}",
    "comment": b'{"model":"m"/* sk-canary-in-the-prompt */}',
    "control character": b'{"model":"m","x":"\n"}',
    "bad escape": b'{"model":"m","x":"\\q"}',
    "bad utf-8": b'{"model":"m","x":"\xff"}',
    "bad utf-8 in a key": b'{"model":"m","\xff":1}',
    "utf-8 surrogate": b'{"model":"m","x":"\xed\xa0\x80"}',
    "cut utf-8": b'{"model":"m","x":"' + b"a" * 65535 + b'\xe2\x82"}',
    "half a surrogate pair": b'{"model":"m","x":["\\ud800 and more"]}',
    "deep": b'{"model":"m","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep options": b'{"model":"m","stream_options":{"include_usage":' + b"[" * 5000 + b"]" * 5000 + b"}}",
}

WRONG = [
    (Endpoint.CHAT, b"{}", "model"),
    (Endpoint.CHAT, b'{"model":null}', "model"),
    (Endpoint.CHAT, b'{"model":""}', "model"),
    (Endpoint.CHAT, b'{"model":["m"]}', "model"),
    (Endpoint.EMBEDDINGS, b'{"input":"x"}', "model"),
    (Endpoint.CHAT, b'{"model":"m","stream":1}', "stream"),
    (Endpoint.CHAT, b'{"model":"m","stream":"true"}', "stream"),
    (Endpoint.CHAT, b'{"model":"m","stream_options":[]}', "stream_options"),
    (Endpoint.CHAT, b'{"model":"m","stream_options":true}', "stream_options"),
    (Endpoint.CHAT, b'{"model":"m","stream_options":{"include_usage":1}}', "stream_options.include_usage"),
    (Endpoint.CHAT, b'{"model":"m","max_tokens":"9"}', "max_tokens"),
    (Endpoint.CHAT, b'{"model":"m","max_tokens":true}', "max_tokens"),
    (Endpoint.CHAT, b'{"model":"m","max_tokens":-1}', "max_tokens"),
    (Endpoint.CHAT, b'{"model":"m","max_completion_tokens":1.5}', "max_completion_tokens"),
    (Endpoint.CHAT, b'{"model":"m","max_completion_tokens":1e999}', "max_completion_tokens"),
    (Endpoint.RESPONSES, b'{"model":"m","max_output_tokens":[]}', "max_output_tokens"),
    (Endpoint.CHAT, b'{"model":"m","n":"2"}', "n"),
    (Endpoint.COUNT_TOKENS, b'{"model":"m"}', "messages"),
    (Endpoint.COUNT_TOKENS, b'{"model":"m","messages":null}', "messages"),
    (Endpoint.COUNT_TOKENS, b'{"model":"m","messages":"[]"}', "messages"),
    (Endpoint.COUNT_TOKENS, b'{"model":"m","messages":[ ]}', "messages"),
]

DUPLICATES = [
    (b'{"model":"a","model":"b"}', "model"),
    (b'{"model":"a","model":"a"}', "model"),
    (b'{"model":"a","mod\\u0065l":"a"}', "model"),
    (b'{"mod\\u0065l":"a","model":"b"}', "model"),
    (b'{"model":"a","x":1,"x":22,"y":3}', "x"),
    (b'{"model":"a","x":22,"x":1,"y":3}', "x"),
    (b'{"x":1,"model":"a","y":[],"x":{}}', "x"),
    (b'{"model":"a","":1,"":2}', ""),
    # the last value is as long as everything between, so a walk by lengths alone would be fooled
    (b'{"a":1,"c":3,"model":"m","a":"12345"}', "a"),
    (b'{"model":"a","stream_options":{"include_usage":true,"include_usage":false}}', "stream_options.include_usage"),
]


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_what_is_not_a_json_object_is_refused(body: bytes) -> None:
    """400 with a message that repeats nothing of the body (guarantee 6)."""
    with pytest.raises(BadRequest) as caught:
        peek(Endpoint.CHAT, body)
    assert caught.value.message
    assert SECRET not in caught.value.message


@pytest.mark.parametrize(("endpoint", "body", "param"), WRONG)
def test_wrong_fields_are_refused_by_name(endpoint: Endpoint, body: bytes, param: str) -> None:
    """400 that names the field in `param`."""
    with pytest.raises(BadRequest) as caught:
        peek(endpoint, body)
    assert caught.value.param == param
    assert caught.value.code == "invalid_request"


@pytest.mark.parametrize(("body", "param"), DUPLICATES)
def test_duplicate_keys_are_refused(body: bytes, param: str) -> None:
    """A repeated key, compared after unescaping, is 400 duplicate_key."""
    with pytest.raises(DuplicateKey) as caught:
        peek(Endpoint.CHAT, body)
    assert caught.value.param == param


def test_the_same_key_at_other_depths_is_no_duplicate() -> None:
    """Only one object's keys are compared."""
    assert peek(Endpoint.CHAT, b'{"model":"m","x":{"model":"n","model":"n"}}').model == "m"


def test_a_long_duplicate_key_is_shown_cut() -> None:
    """A key of the caller's is not repeated at length."""
    key = b"k" * 5000
    with pytest.raises(DuplicateKey) as caught:
        peek(Endpoint.CHAT, b'{"model":"m","' + key + b'":1,"' + key + b'":2}')
    assert len(caught.value.message) < 200


def test_too_many_fields_are_refused() -> None:
    """A body of very many small fields cannot hold the loop."""
    body = json.dumps({"model": "m"} | {f"f{number}": 0 for number in range(2000)}).encode()
    with pytest.raises(BadRequest, match="2001 fields"):
        peek(Endpoint.CHAT, body)


@pytest.mark.parametrize("field", sorted(DESTINATION_FIELDS))
def test_destinations_are_refused_at_the_top_level_only(field: str) -> None:
    """api_base and its like: 400 at the top, in any spelling; data anywhere deeper (guarantee 8)."""
    for spelling in (field, field.upper(), field.replace("_", "-")):
        with pytest.raises(DestinationField) as caught:
            peek(Endpoint.CHAT, json.dumps({"model": "m", spelling: "http://evil.invalid"}).encode())
        assert "evil" not in caught.value.message
    peek(Endpoint.CHAT, json.dumps({"model": "m", "metadata": {field: "x"}, "tools": [{field: "x"}]}).encode())


@pytest.mark.parametrize("name", [b"x-portkey-custom-host", b"api-base", b"x-base-url", b"x_custom_host"])
def test_destinations_are_refused_in_the_head(name: bytes) -> None:
    """Headers by which other gateways take a destination are refused."""
    with pytest.raises(DestinationField):
        check_headers([(b"accept", b"*/*"), (name, b"http://evil.invalid")])


def test_ordinary_headers_pass() -> None:
    """Keys and hosts are not destinations."""
    check_headers([(b"host", b"a"), (b"x-api-key", b"k"), (b"api-key", b"k"), (b"x-provider", b"openai")])


@pytest.mark.parametrize(
    ("endpoint", "fields", "expected"),
    [
        (Endpoint.CHAT, {}, (False, None, None, 1)),
        (Endpoint.CHAT, {"stream": None, "n": None, "max_tokens": None}, (False, None, None, 1)),
        (Endpoint.CHAT, {"stream": True, "stream_options": {}}, (True, None, None, 1)),
        (Endpoint.CHAT, {"stream_options": {"include_usage": False}}, (False, False, None, 1)),
        (Endpoint.CHAT, {"max_tokens": 5, "max_completion_tokens": 9, "n": 3}, (False, None, 9, 3)),
        (Endpoint.CHAT, {"max_tokens": 5.0}, (False, None, 5, 1)),
        (Endpoint.COMPLETIONS, {"max_tokens": 5, "n": 2, "best_of": 4}, (False, None, 5, 4)),
        (Endpoint.RESPONSES, {"stream": True, "max_output_tokens": 7, "max_tokens": 1}, (True, None, 7, 1)),
        (Endpoint.RESPONSES, {"stream_options": {"include_obfuscation": False}}, (False, None, None, 1)),
        (Endpoint.MESSAGES, {"stream": True, "max_tokens": 8}, (True, None, 8, 1)),
        (Endpoint.COUNT_TOKENS, {"stream": True, "messages": [{}]}, (False, None, None, 1)),
        (Endpoint.EMBEDDINGS, {"stream": "whatever"}, (False, None, None, 1)),
    ],
)
def test_peeked_fields(endpoint: Endpoint, fields: dict[str, Any], expected: tuple[Any, ...]) -> None:
    """Stream, include_usage, the output's bound and the number of answers, by endpoint."""
    peeked = peek(endpoint, json.dumps({"model": "p/m", **fields}).encode())
    assert peeked.model == "p/m"
    assert (peeked.stream, peeked.include_usage, peeked.max_output_tokens, peeked.n) == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"model":"a"}', b'{"stream_options":{"include_usage":true},"model":"Z"}'),
        (b' { "model" : "a" } ', b' {"stream_options":{"include_usage":true}, "model" : "Z" } '),
        (b'{"model":"a","stream_options":null}', b'{"model":"Z","stream_options":{"include_usage":true}}'),
        (b'{"stream_options": {},"model":"a"}', b'{"stream_options": {"include_usage":true},"model":"Z"}'),
        (
            b'{"model":"a","stream_options":{ "x":1}}',
            b'{"model":"Z","stream_options":{"include_usage":true, "x":1}}',
        ),
        (
            b'{"model":"a","stream_options":{"x":1, "include_usage" : false }}',
            b'{"model":"Z","stream_options":{"x":1, "include_usage" : true }}',
        ),
        (
            b'{"stream_options":{"include_us\\u0061ge":null},"mod\\u0065l":"a"}',
            b'{"stream_options":{"include_us\\u0061ge":true},"mod\\u0065l":"Z"}',
        ),
        (
            b'{"model":"a","stream_options":{"include_usage":true}}',
            b'{"model":"Z","stream_options":{"include_usage":true}}',
        ),
    ],
)
def test_splices(before: bytes, after: bytes) -> None:
    """The exact bytes of each edit."""
    assert splice(before, peek(Endpoint.CHAT, before), model="Z", include_usage=True) == after


def test_a_splice_that_changes_nothing_is_the_same_object() -> None:
    """No edit, no copy."""
    body = b'{"model":"a","stream_options":{"include_usage":true}}'
    peeked = peek(Endpoint.CHAT, body)
    assert splice(body, peeked) is body
    assert splice(body, peeked, model="a", include_usage=True) is body


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("model_is_first", [False, True])
def test_a_large_body_is_edited_without_a_copy(model_is_first: bool, include_usage: bool) -> None:
    """Its pieces are what was edited and the caller's own object, and as one they are what a splice gives."""
    fields = [b'"model":"m"', b'"messages":[{"role":"user","content":"' + b"long " * 10_000 + b'"}]']
    body = b"{" + b",".join(fields if model_is_first else fields[::-1]) + b"}"
    edited = edit(body, peek(Endpoint.CHAT, body), model="other", include_usage=include_usage)
    if model_is_first:
        assert isinstance(edited, Edited)
        assert edited.original is body
        assert len(edited.beginning) < 100
        assert len(edited) == len(edited.whole())
        edited = edited.whole()
    injected = b'"stream_options":{"include_usage":true},' if include_usage else b""
    assert edited == body.replace(b'"m"', b'"other"').replace(b"{", b"{" + injected, 1)
    assert edited == splice(body, peek(Endpoint.CHAT, body), model="other", include_usage=include_usage)


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def _nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3)


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    _nested,
    max_leaves=8,
)
_options = st.none() | st.dictionaries(st.sampled_from(["include_obfuscation", "x"]), _values, max_size=2).flatmap(
    lambda rest: st.sampled_from([{}, {"include_usage": None}, {"include_usage": False}, {"include_usage": True}]).map(
        lambda usage: rest | usage
    )
)
_RESERVED = {"model", "stream_options", "stream", "n", "best_of", "max_tokens", "max_completion_tokens"}
_names = _texts.filter(lambda name: name not in _RESERVED and name.lower().replace("-", "_") not in DESTINATION_FIELDS)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A chat body with its keys in any order, any spacing, escaped or not."""
    fields: dict[str, Any] = draw(st.dictionaries(_names, _values, max_size=4))
    fields["model"] = draw(_texts.filter(bool))
    if draw(st.booleans()):
        fields["stream_options"] = draw(_options)
    names = draw(st.permutations(list(fields)))
    indent, separators = draw(st.sampled_from([(None, (",", ":")), (None, (" , ", " : ")), (2, None)]))
    text = json.dumps(
        {name: fields[name] for name in names},
        indent=indent,
        separators=separators,
        ensure_ascii=draw(st.booleans()),
    )
    return draw(st.sampled_from([b"", b" ", b"\r\n\t"])) + text.encode() + draw(st.sampled_from([b"", b"\n"]))


@settings(max_examples=200, deadline=None)
@given(bodies(), _texts.filter(bool), st.booleans())
def test_a_splice_changes_what_it_names_and_nothing_else(body: bytes, model: str, include_usage: bool) -> None:
    """The spliced body parses to the same with those fields changed, its other bytes are the body's own."""
    peeked = peek(Endpoint.CHAT, body)
    original = json.loads(body)
    assert peeked.model == original["model"]
    spliced = splice(body, peeked, model=model, include_usage=include_usage)
    expected = original | {"model": model}
    if include_usage:
        expected["stream_options"] = (original.get("stream_options") or {}) | {"include_usage": True}
    assert json.loads(spliced) == expected
    again = peek(Endpoint.CHAT, spliced)
    assert again.model == model
    assert splice(spliced, again, model=model, include_usage=include_usage) is spliced
    start, end = peeked.model_span
    assert json.loads(body[start:end]) == peeked.model
    if not include_usage and model != peeked.model:
        assert spliced.startswith(body[:start])
        assert spliced.endswith(body[end:])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", "model"]), _values), max_size=6))
def test_duplicates_are_found_exactly(pairs: list[tuple[str, Any]]) -> None:
    """A body is refused for a duplicate when, and only when, a top-level key is there twice."""
    pairs = [*[(name, value) for name, value in pairs if name != "model"], ("model", "m")]
    pairs += [("model", "m")] if len(pairs) % 3 == 0 else []
    body = (
        b"{" + b",".join(json.dumps(name).encode() + b":" + json.dumps(value).encode() for name, value in pairs) + b"}"
    )
    names = [name for name, _ in pairs]
    if len(set(names)) == len(names):
        assert peek(Endpoint.CHAT, body).model == "m"
    else:
        with pytest.raises(DuplicateKey):
            peek(Endpoint.CHAT, body)
