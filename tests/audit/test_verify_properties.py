"""Any single change anywhere in a covered log is found, whatever the log."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from rig.tampering import KEY, LogBuilder, read_lines, split_notes, write_lines
from securellm.audit import verify

KEYS = [verify.parse_key(KEY.encode_public_key())]

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
STEP = st.one_of(
    st.tuples(st.just("request"), TEXT),
    st.tuples(st.just("event"), TEXT),
    st.tuples(st.just("checkpoint"), st.just("")),
    st.tuples(st.just("midnight"), st.just("")),
)
STEPS = st.lists(STEP, max_size=12)


def _build(directory: Path, steps: list[tuple[str, str]]) -> None:
    """A log of these steps, signed to its end."""
    builder = LogBuilder(directory)
    builder.event("writer_started")
    builder.checkpoint("start")
    for number, (kind, text) in enumerate(steps):
        match kind:
            case "request":
                builder.request(number, requested_model=text)
            case "event":
                builder.event("config_loaded", text=text)
            case "checkpoint":
                builder.checkpoint()
            case "midnight":
                builder.midnight()
    builder.close()


def _is_good(directory: Path, *, every: bool = False) -> bool:
    return verify.verify_directory(str(directory), KEYS, every=every).good


@given(STEPS, st.booleans())
@settings(max_examples=100, deadline=None)
def test_whatever_was_written_is_good(steps: list[tuple[str, str]], every: bool) -> None:
    """No false alarm, with --all neither."""
    with tempfile.TemporaryDirectory() as name:
        _build(Path(name), steps)
        assert _is_good(Path(name), every=every)


@given(STEPS, st.data())
@settings(max_examples=150, deadline=None)
def test_any_byte_that_is_changed_is_found(steps: list[tuple[str, str]], data: st.DataObject) -> None:
    """Any byte of any log file, to any other value."""
    with tempfile.TemporaryDirectory() as name:
        _build(Path(name), steps)
        path = data.draw(st.sampled_from(sorted(Path(name).glob("*.log"))))
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        assert not _is_good(Path(name))


@given(STEPS, st.data())
@settings(max_examples=150, deadline=None)
def test_any_byte_of_a_checkpoint_that_is_changed_is_found(steps: list[tuple[str, str]], data: st.DataObject) -> None:
    """Any byte of any checkpoint file, signatures included, without --all: each vouches for the one before it."""
    with tempfile.TemporaryDirectory() as name:
        _build(Path(name), steps)
        path = data.draw(st.sampled_from(sorted(Path(name).glob("*.checkpoints"))))
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        assert not _is_good(Path(name))


@given(STEPS, st.sampled_from(["delete", "duplicate", "swap", "move", "insert"]), st.data())
@settings(max_examples=200, deadline=None)
def test_any_change_of_lines_is_found(steps: list[tuple[str, str]], kind: str, data: st.DataObject) -> None:
    """One line taken out, doubled, exchanged with another, moved, or put in anywhere, across files too."""
    with tempfile.TemporaryDirectory() as name:
        _build(Path(name), steps)
        lines = read_lines(Path(name))
        before = [line for _, line in lines]
        place, other = data.draw(st.tuples(*[st.integers(0, len(lines) - 1)] * 2))
        path, line = lines[place]
        match kind:
            case "delete":
                del lines[place]
            case "duplicate":
                lines.insert(other, (lines[other][0], line))
            case "swap":
                lines[place], lines[other] = (path, lines[other][1]), (lines[other][0], line)
            case "move":
                del lines[place]
                if lines:
                    other = min(other, len(lines) - 1)
                    lines.insert(other, (lines[other][0], line))
            case "insert":
                lines.insert(other, (lines[other][0], line.replace(b'"event_type":"', b'"event_type":"x')))
        write_lines(lines or [(path, b"")])
        assert _is_good(Path(name)) is ([line for _, line in lines] == before)


@given(STEPS, st.sampled_from(["delete", "duplicate", "swap"]), st.data())
@settings(max_examples=100, deadline=None)
def test_any_change_of_checkpoints_is_found(steps: list[tuple[str, str]], kind: str, data: st.DataObject) -> None:
    """One checkpoint taken out, doubled, or exchanged with another of its file; the last one, too."""
    with tempfile.TemporaryDirectory() as name:
        _build(Path(name), steps)
        path = data.draw(st.sampled_from(sorted(Path(name).glob("*.checkpoints"))))
        notes = split_notes(path.read_bytes())
        before = list(notes)
        place, other = data.draw(st.tuples(*[st.integers(0, len(notes) - 1)] * 2))
        match kind:
            case "delete":
                del notes[place]
            case "duplicate":
                notes.insert(other, notes[place])
            case "swap":
                notes[place], notes[other] = notes[other], notes[place]
        path.write_bytes(b"".join(notes))
        assert _is_good(Path(name)) is (notes == before)


@given(STEPS, st.data())
@settings(max_examples=100, deadline=None)
def test_any_cut_of_the_newest_file_is_found(steps: list[tuple[str, str]], data: st.DataObject) -> None:
    """The log cut at any byte, while its checkpoints are as they were."""
    with tempfile.TemporaryDirectory() as name:
        _build(Path(name), steps)
        path = max(Path(name).glob("*.log"))
        content = path.read_bytes()
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        assert not _is_good(Path(name))
