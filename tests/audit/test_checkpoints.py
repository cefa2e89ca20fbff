"""When checkpoints are due, what they say, and how a file that ends in a torn one is read."""

import hashlib

import pytest

from securellm.audit.checkpoints import (
    BUSY_INTERVAL_US,
    IDLE_INTERVAL_US,
    NO_NOTE,
    Checkpointer,
    parse_tail,
    parse_text,
)
from securellm.audit.keys import SigningKey
from securellm.audit.note import NoteMalformed, parse_note

KEY = SigningKey(bytes(range(32)))
START_US = 1_795_000_000_000_000
HASH = "ab" * 32


def _started(seq: int = 1) -> tuple[Checkpointer, bytes]:
    checkpointer = Checkpointer(KEY, 1)
    data = checkpointer.encode(seq, HASH, START_US, "start")
    checkpointer.written()
    return checkpointer, data


def test_the_first_is_due_at_once() -> None:
    """As soon as there is a record; without one there is nothing to sign, and nothing to wake up for."""
    checkpointer = Checkpointer(KEY, 1)
    assert checkpointer.due(START_US, 1) == "start"
    assert checkpointer.due_in_us(START_US, 1) == 0
    assert checkpointer.due(START_US, 0) is None
    assert checkpointer.due_in_us(START_US, 0) > 0


def test_new_records_are_signed_within_10_s() -> None:
    """With records that are not covered, 10 s after the last checkpoint, to the microsecond."""
    checkpointer, _ = _started()
    assert checkpointer.due(START_US + BUSY_INTERVAL_US - 1, 2) is None
    assert checkpointer.due_in_us(START_US + BUSY_INTERVAL_US - 1, 2) == 1
    assert checkpointer.due(START_US + BUSY_INTERVAL_US, 2) == "interval"
    assert BUSY_INTERVAL_US == 10_000_000


def test_an_idle_log_is_signed_every_60_s() -> None:
    """Without new records, 60 s after the last checkpoint."""
    checkpointer, _ = _started()
    assert checkpointer.due(START_US + IDLE_INTERVAL_US - 1, 1) is None
    assert checkpointer.due(START_US + IDLE_INTERVAL_US, 1) == "interval"
    assert IDLE_INTERVAL_US == 60_000_000


def test_a_clock_that_went_back_delays_nothing() -> None:
    """When now is before the last checkpoint, one is due."""
    checkpointer, _ = _started()
    assert checkpointer.due(START_US - 1, 1) == "interval"


def test_what_did_not_reach_the_disk_is_made_again() -> None:
    """Until `written`, the number stays, and the records count as not covered."""
    checkpointer, _ = _started()
    checkpointer.encode(5, HASH, START_US + 1, "interval")
    again = parse_tail(checkpointer.encode(6, HASH, START_US + 2, "interval"))
    assert again.last is not None
    assert (again.last.number, again.last.seq, checkpointer.covered_seq) == (2, 6, 1)
    checkpointer.written()
    assert checkpointer.covered_seq == 6
    with pytest.raises(ValueError, match="no checkpoint was encoded"):
        checkpointer.written()


def test_each_names_the_one_before() -> None:
    """Numbers are dense from 1, and each has the hash of the whole note before it; the first has zeros."""
    checkpointer, first = _started()
    second = checkpointer.encode(2, HASH, START_US + 1, "close")
    said = parse_text(parse_note(second[:-1]).text)
    assert (said.number, said.note_before) == (2, hashlib.sha256(first[:-1]).digest())
    assert parse_text(parse_note(first[:-1]).text).note_before == NO_NOTE


def test_a_restart_goes_on_where_the_file_ends() -> None:
    """From the file's tail: the next number, the link to the last checkpoint, and one due at once."""
    checkpointer, data = _started(seq=7)
    resumed = Checkpointer(KEY, 1, parse_tail(data))
    assert (resumed.covered_seq, resumed.due(START_US, 7)) == (7, "start")
    assert resumed.encode(8, HASH, START_US, "start") == checkpointer.encode(8, HASH, START_US, "start")


def test_the_text_is_pinned() -> None:
    """Byte for byte, with its signature: Ed25519 is deterministic."""
    _, data = _started()
    assert data.decode() == (
        "securellm-audit/56475aa75463474c/1\n1\nq6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=\n"
        "2026-11-18T11:06:40.000000Z\nstart\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n"
        "— securellm-audit/56475aa75463474c "
        "a+ATPAjU3Qon6Sv28DM+khxarBb1Zjw50piH+OKvlGO3XwTCahtcnuSE2w7ubn19b7fN1Aj3yeWSm+PYVDihnI/PWQE=\n\n"
    )


def test_any_cut_of_the_file_is_read() -> None:
    """At whatever byte the write stopped: the last whole checkpoint, and how many bytes have to go."""
    checkpointer, first = _started()
    data = first + checkpointer.encode(2, HASH, START_US + 1, "interval")
    for cut in range(len(data) + 1):
        tail = parse_tail(data[:cut])
        number = tail.last.number if tail.last else 0
        whole = (0, len(first), len(data))[number]
        assert whole == max(end for end in (0, len(first), len(data)) if end <= cut)
        assert tail.torn_bytes == cut - whole


def test_the_end_of_a_long_file_is_enough() -> None:
    """The tail may begin anywhere within an earlier checkpoint, as long as two follow."""
    checkpointer, first = _started()
    second = checkpointer.encode(2, HASH, START_US + 1, "interval")
    checkpointer.written()
    third = checkpointer.encode(3, HASH, START_US + 2, "interval")
    for start in range(len(first)):
        tail = parse_tail((first + second + third)[start:])
        assert tail.last is not None
        assert (tail.last.number, tail.torn_bytes) == (3, 0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"/1\n", b"/01\n"),
        (b"securellm-audit/56475aa75463474c/1", b"other/56475aa75463474c/1"),
        (b"start", b"begin"),
        (b"q6ur", b"!!!!"),
        (b"start\n1\n", b"start\n\n"),
    ],
)
def test_what_is_no_checkpoint_is_refused(old: bytes, new: bytes) -> None:
    """A whole note whose text is not in the one form is an error for recovery to report, not a tail to cut."""
    _, data = _started()
    with pytest.raises(NoteMalformed):
        parse_tail(data.replace(old, new, 1))
