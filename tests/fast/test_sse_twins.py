"""The compiled splitter of server-sent events against its definition: same bytes, same cuts, same everything."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securellm._fast import sse_py
from securellm.errors import UpstreamInvalid

ROOT = Path(__file__).parent.parent.parent
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


@pytest.fixture(scope="module")
def sse_c() -> ModuleType:
    """The compiled twin, by name: where it is missing this fails, it does not skip."""
    from securellm._fast import sse_c

    return sse_c


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
def test_twins_cut_alike(sse_c: ModuleType, stream: bytes, places: list[int], max_event_bytes: int) -> None:
    """For any bytes and any cutting the twins give the same events after the same piece, and the same error."""
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert _events(sse_c, pieces, max_event_bytes) == _events(sse_py, pieces, max_event_bytes)


@pytest.mark.compiled
@settings(max_examples=EXAMPLES, deadline=None)
@given(raw=crafted)
def test_twins_read_fields_alike(sse_c: ModuleType, raw: bytes) -> None:
    """For any bytes the twins find the same event name and data."""
    assert sse_c.parse_event(raw) == sse_py.parse_event(raw)


@pytest.mark.compiled
@pytest.mark.parametrize("wrong", [None, "text", 7])
def test_twins_refuse_what_is_not_bytes(sse_c: ModuleType, wrong: object) -> None:
    """What is not bytes is no event in either twin, whose types say so; the compiled one raises TypeError."""
    with pytest.raises(TypeError):
        sse_c.parse_event(wrong)
    with pytest.raises((TypeError, AttributeError)):
        sse_py.parse_event(wrong)  # type: ignore[arg-type]  # the point of the test


@pytest.mark.compiled
def test_the_compiled_twin_serves() -> None:
    """Where the extensions are built, the product uses them."""
    assert _chosen({}) == "compiled securellm._fast.sse_c"


def test_the_pure_twin_can_be_asked_for() -> None:
    """SECURELLM_NO_EXTENSIONS=1 makes the product use the pure twins, built or not."""
    assert _chosen({"SECURELLM_NO_EXTENSIONS": "1"}) == "pure securellm._fast.sse_py"


def _chosen(settings: dict[str, str]) -> str:
    """What a fresh process with these settings takes, as seen where it is used."""
    program = """
from securellm._fast import IMPLEMENTATION
from securellm.wire.sse import SSESplitter
print(IMPLEMENTATION, SSESplitter.__module__)
"""
    environment = {name: value for name, value in os.environ.items() if name != "SECURELLM_NO_EXTENSIONS"}
    environment |= {"PYTHONPATH": str(ROOT / "src"), **settings}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
