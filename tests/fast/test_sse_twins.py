"""The compiled splitter of server-sent events against its definition: same bytes, same cuts, same everything."""

import itertools
import os
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securellm._fast import sse_py
from securellm.errors import UpstreamInvalid

TWIN = "sse"
BOM = b"\xef\xbb\xbf"
EXAMPLES = max(50, int(2000 * float(os.environ.get("SECURELLM_TEST_SCALE", "1"))))

PIECES = [
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"data:",
    b"data: x",
    b"event: e",
    b"event",
    b"id: 1",
    b":",
    BOM,
    BOM[:2],
    b" ",
    b"a",
]
crafted = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=40).map(b"".join)
cuts = st.lists(st.integers(0, 400), max_size=12)


def _events(twin: ModuleType, pieces: list[bytes], max_event_bytes: int) -> list[object]:
    """Everything that can be seen of a splitter while it is fed: events, tail, repr and how far it looked."""
    splitter = twin.SSESplitter(max_event_bytes)
    seen: list[object] = []
    for piece in pieces:
        try:
            seen.append(splitter.feed(piece))
        except UpstreamInvalid as error:
            return [*seen, error.message]
        seen.append((splitter.tail(), repr(splitter), splitter._scan))
    return seen


@pytest.mark.compiled
@settings(max_examples=EXAMPLES, deadline=None)
@given(stream=crafted, places=cuts, max_event_bytes=st.sampled_from([8, 64, sse_py.MAX_EVENT_BYTES]))
def test_twins_cut_alike(compiled: ModuleType, stream: bytes, places: list[int], max_event_bytes: int) -> None:
    """For any bytes and any cutting the twins give the same events after the same piece, and the same error."""
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert _events(compiled, pieces, max_event_bytes) == _events(sse_py, pieces, max_event_bytes)


@pytest.mark.compiled
@settings(max_examples=EXAMPLES, deadline=None)
@given(raw=crafted)
def test_twins_read_fields_alike(compiled: ModuleType, raw: bytes) -> None:
    """For any bytes the twins find the same event name and data."""
    assert compiled.parse_event(raw) == sse_py.parse_event(raw)


@pytest.mark.compiled
@pytest.mark.parametrize("wrong", [None, "text", 7])
def test_twins_refuse_what_is_not_bytes(compiled: ModuleType, wrong: object) -> None:
    """What is not bytes is no event in either twin, whose types say so; the compiled one raises TypeError."""
    with pytest.raises(TypeError):
        compiled.parse_event(wrong)
    with pytest.raises((TypeError, AttributeError)):
        sse_py.parse_event(wrong)  # type: ignore[arg-type]  # the point of the test
