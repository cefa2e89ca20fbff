"""The event stream splitter against the standard's rules, and against every cutting of its input."""

import collections
import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securellm.errors import UpstreamInvalid
from securellm.wire.sse import SSEEvent, SSESplitter, parse_event

BOM = b"\xef\xbb\xbf"

# (stream, the (event, data) pairs that the standard dispatches)
VECTORS = [
    (b"data: a\n\n", [(b"", b"a")]),
    (b"data:a\n\n", [(b"", b"a")]),
    (b"data:  a\n\n", [(b"", b" a")]),
    (b"data\n\n", [(b"", b"")]),
    (b"data:\n\n", [(b"", b"")]),
    (b"data: a\ndata: b\n\n", [(b"", b"a\nb")]),
    (b"data\ndata\n\n", [(b"", b"\n")]),
    (b"data: a\r\rdata: b\r\r", [(b"", b"a"), (b"", b"b")]),
    (b"data: a\r\n\r\ndata: b\r\n\r\n", [(b"", b"a"), (b"", b"b")]),
    (b"data: a\n\r\ndata: b\r\n\n", [(b"", b"a"), (b"", b"b")]),
    (b"data: a\r\r\ndata: b\r\r\n", [(b"", b"a"), (b"", b"b")]),
    (b"event: ping\ndata: {}\n\n", [(b"ping", b"{}")]),
    (b"data: {}\nevent: ping\n\n", [(b"ping", b"{}")]),
    (b"event: a\nevent: b\ndata: c\n\n", [(b"b", b"c")]),
    (b"event: lonely\n\ndata: a\n\n", [(b"", b"a")]),
    (b": comment\n\ndata: a\n\n", [(b"", b"a")]),
    (b": comment\ndata: a\n\n", [(b"", b"a")]),
    (b":\n\n:\n\n", []),
    (b"\n\n\ndata: a\n\n\n\ndata: b\n\n", [(b"", b"a"), (b"", b"b")]),
    (b"id: 7\nretry: 10\ndata: a\nunknown: x\n\n", [(b"", b"a")]),
    (BOM + b"data: a\n\n", [(b"", b"a")]),
    (BOM + b"\ndata: a\n\n", [(b"", b"a")]),
    (BOM + b"\r\ndata: a\r\n\r\n", [(b"", b"a")]),
    (BOM + BOM + b"data: a\n\ndata: b\n\n", [(b"", b"b")]),
    (b"data: a\n\n" + BOM + b"data: b\n\ndata: c\n\n", [(b"", b"a"), (b"", b"c")]),
    (b"data: unfinished", []),
    (b"data: unfinished\n", []),
    (b"Data: upper\n\ndata: a\n\n", [(b"", b"a")]),
    (b" data: space\n\ndata: a\n\n", [(b"", b"a")]),
    (b"data: a:b: c\n\n", [(b"", b"a:b: c")]),
]
SEPARATORS_THAT_ARE_DATA = ["\u2028", "\u2029", "\u0085", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x00"]

_PIECES = [
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"data:",
    b"data: x",
    b"event: e",
    b":",
    b"\xc2\x85",
    BOM,
    b" ",
    b"a",
    b"\x1c",
]
streams = st.lists(st.sampled_from(_PIECES), max_size=30).map(b"".join)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The stream in pieces, some of them empty."""
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


def split(pieces: list[bytes]) -> tuple[list[SSEEvent], bytes]:
    """All events of a stream that arrives in these pieces, and its tail."""
    splitter = SSESplitter()
    return [event for piece in pieces for event in splitter.feed(piece)], splitter.tail()


def dispatched(stream: bytes) -> list[tuple[bytes, bytes]]:
    """The standard's algorithm, read literally: lines first, then fields."""
    out, event, data = [], b"", []
    *lines, _unfinished = re.split(rb"\r\n|\r|\n", stream.removeprefix(BOM))
    for line in lines:
        if not line:
            if data:
                out.append((event, b"\n".join(data)))
            event, data = b"", []
            continue
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"event":
            event = value.removeprefix(b" ")
    return out


@pytest.mark.parametrize(("stream", "expected"), VECTORS)
def test_vectors(stream: bytes, expected: list[tuple[bytes, bytes]]) -> None:
    """The events that the standard dispatches come out, whole and byte by byte, and no byte is lost."""
    for pieces in ([stream], [stream[place : place + 1] for place in range(len(stream))]):
        events, tail = split(pieces)
        assert [(event.event, event.data) for event in events if event.data is not None] == expected
        assert b"".join(event.raw for event in events) + tail == stream


@pytest.mark.parametrize("separator", SEPARATORS_THAT_ARE_DATA)
def test_unicode_separators_are_data(separator: str) -> None:
    """What `str.splitlines` takes for a line end stays inside the payload (guarantee 55)."""
    payload = f'{{"content":"a{separator}b"}}'.encode()
    events, tail = split([b"data: " + payload + b"\n\n"])
    assert [event.data for event in events] == [payload]
    assert tail == b""


@settings(max_examples=200, deadline=None)
@given(streams, st.lists(st.integers(0, 1000), max_size=12))
def test_any_cutting_gives_the_same_events(stream: bytes, places: list[int]) -> None:
    """Events, their raw bytes included, and tail depend on the bytes alone, and follow the standard."""
    whole, tail = split([stream])
    assert split(cut(stream, places)) == (whole, tail)
    assert split([stream[place : place + 1] for place in range(len(stream))]) == (whole, tail)
    assert b"".join(event.raw for event in whole) + tail == stream
    assert _without_last_doubt([(event.event, event.data) for event in whole if event.data is not None], stream)


def _without_last_doubt(found: list[tuple[bytes, bytes]], stream: bytes) -> bool:
    """Equal to the standard's events, but a last CR may still become a CRLF and is then waited for."""
    expected = dispatched(stream)
    return found == expected or (stream.endswith(b"\r") and found == expected[:-1])


def test_bare_cr_ends_an_event_at_once() -> None:
    """In a stream of bare CRs the event is out with its last byte, not with the next event."""
    splitter = SSESplitter()
    assert [event.data for event in splitter.feed(b"data: a\r\r")] == [b"a"]


def test_one_event_over_the_limit_is_refused() -> None:
    """An event longer than the limit is the provider's fault, whether it is finished or not."""
    for pieces in ([b"data: " + b"x" * 100 + b"\n\n"], [b"x"] * 100, [b"data: a\n\n" + b"x" * 100]):
        splitter = SSESplitter(max_event_bytes=64)
        with pytest.raises(UpstreamInvalid, match="64 bytes"):
            collections.deque(map(splitter.feed, pieces), maxlen=0)


def test_many_small_events_are_not_one_large_one() -> None:
    """The limit is for each event, not for what one read delivers."""
    assert len(SSESplitter(max_event_bytes=64).feed(b"data: 0123456789\n\n" * 100)) == 100


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_small_pieces_cost_linear_work(line_end: bytes) -> None:
    """A long event fed byte by byte is looked at once: the place to go on from never falls back."""
    splitter = SSESplitter()
    splitter.feed(b"data: first" + line_end * 2)
    stream = b"data: " + b"x" * 20_000
    for place in range(len(stream)):
        splitter.feed(stream[place : place + 1])
        assert splitter._scan >= place
    assert splitter.tail() == stream


def test_parse_event_of_an_unfinished_block() -> None:
    """The bytes of a tail can be read as if the blank line had come."""
    assert parse_event(b"event: x\ndata: [DONE]") == SSEEvent(b"event: x\ndata: [DONE]", b"x", b"[DONE]")
    assert parse_event(b"data: [DONE]\r\n").data == b"[DONE]"
    assert parse_event(b"").data is None
