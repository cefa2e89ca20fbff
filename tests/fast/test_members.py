"""Where members are in a body: both implementations say the same, and what they say is what is there."""

import json
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

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
