"""The line splitter: only LF ends a line, and the cutting of the input does not matter."""

import collections
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securellm.errors import UpstreamInvalid
from securellm.wire.ndjson import NDJSONSplitter

lines = st.lists(
    st.sampled_from([b"\n", b"\r\n", b'{"a":1}', b"\xe2\x80\xa8", b"\xc2\x85", b"\x1c", b" "]), max_size=25
)


def split(pieces: list[bytes]) -> tuple[list[bytes], bytes]:
    """All lines of a stream that arrives in these pieces, and its tail."""
    splitter = NDJSONSplitter()
    return [line for piece in pieces for line in splitter.feed(piece)], splitter.tail()


def test_lines_come_without_their_end_and_blank_ones_not_at_all() -> None:
    """A CR stays (it is white space to JSON), empty and blank lines are left out."""
    assert split([b'{"a":1}\r\n\n  \n{"b":2}\n{"c"']) == ([b'{"a":1}\r', b'{"b":2}'], b'{"c"')


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\v", "\f", "\x1c", "\r"])
def test_only_lf_ends_a_line(separator: str) -> None:
    """What `str.splitlines` takes for a line end is data (guarantee 55)."""
    line = f'{{"content":"a{separator}b"}}'.encode()
    assert split([line + b"\n"]) == ([line], b"")


@settings(max_examples=150, deadline=None)
@given(lines.map(b"".join), st.lists(st.integers(0, 200), max_size=10))
def test_any_cutting_gives_the_same_lines(stream: bytes, places: list[int]) -> None:
    """Lines and tail depend on the bytes alone."""
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert split(pieces) == split([stream])
    assert split([stream[place : place + 1] for place in range(len(stream))]) == split([stream])


def test_a_line_over_the_limit_is_refused() -> None:
    """A line longer than the limit is the provider's fault, finished or not; many short ones are fine."""
    for pieces in ([b"x" * 100 + b"\n"], [b"x"] * 100, [b"a\n" + b"x" * 100]):
        splitter = NDJSONSplitter(max_line_bytes=64)
        with pytest.raises(UpstreamInvalid, match="64 bytes"):
            collections.deque(map(splitter.feed, pieces), maxlen=0)
    assert len(NDJSONSplitter(max_line_bytes=64).feed(b"0123456789\n" * 100)) == 100
