"""Reading audit files: in the order of time, over days and slots, past damage, and behind a writer."""

import os
from pathlib import Path

import pytest

from rig.audit_days import Slot, pair, record
from securellm.audit.filters import Filters, Head
from securellm.audit.reading import Follower, Reading, list_slots, parse_entry, read_last, read_story
from securellm.ids import encode_uuid7

NOON_MS = 1_795_348_800_000  # 2026-11-22T12:00:00Z


def _ids(placed: list) -> list[str | None]:
    return [one.head.request_id for one in placed]


def test_days_and_slots_are_one_story(tmp_path: Path) -> None:
    """Records come in the order of time, from all days of all slots; other files are left alone."""
    first, second = Slot(tmp_path), Slot(tmp_path, 2)
    first.write(*pair("2026-11-21T23:00:00", "a"))
    second.write(*pair("2026-11-21T23:30:00", "b"))
    first.write(*pair("01:00:00", "c"))
    second.write(*pair("00:30:00", "d"))
    (tmp_path / "audit.2026-11-22.checkpoints").write_text("no record\n")
    (tmp_path / "audit.2026-11-21.log.torn-1").write_text("no record\n")
    reading = Reading(tmp_path)
    assert _ids(list(reading)) == ["a", "a", "b", "b", "d", "d", "c", "c"]
    assert reading.damaged == 0
    assert list_slots(tmp_path) == [1, 2]


def test_old_files_are_left_out(tmp_path: Path) -> None:
    """With `since`, files that ended more than a day before are not opened."""
    slot = Slot(tmp_path)
    for day in ("2026-11-19", "2026-11-20", "2026-11-21", "2026-11-22"):
        slot.write(*pair(f"{day}T10:00:00", day))
    assert _ids(list(Reading(tmp_path, since="2026-11-22T00:00:00.000000Z")))[::2] == ["2026-11-21", "2026-11-22"]


def test_damage_is_passed_and_counted(tmp_path: Path) -> None:
    """Lines that are no records are counted; what has no end yet is not a line."""
    slot = Slot(tmp_path)
    path = slot.write(*pair("10:00:00", "a"))
    with path.open("ab") as file:
        file.write(b"{\n\xff\xfe\n[]\n\n" + slot.line(record("11:00:00", "request_received", "b")) + b'{"v":1,"seq":4')
    reading = Reading(tmp_path)
    assert _ids(list(reading)) == ["a", "a", "b"]
    assert reading.damaged == 4


def test_a_whole_entry(tmp_path: Path) -> None:
    """A line holds every field again, and unknown fields do no harm."""
    slot = Slot(tmp_path)
    line = slot.line(record("10:00:00", "response_sent", "a", status="success", dropped=("user",)))[:-2]
    entry = parse_entry(line + b',"estimated_cost_usd":0.000000001,"from_the_future":[1]}')
    assert entry is not None
    assert (entry.seq, entry.slot, entry.dropped, entry.estimated_cost_usd) == (1, 1, ("user",), 1e-9)
    assert parse_entry(b"[]") is None


def test_the_story_of_a_request(tmp_path: Path) -> None:
    """Every record of the id, over midnight and from the slot that closed it; nothing of a file before it began."""
    request = encode_uuid7(NOON_MS, bytes(10))
    slot, other = Slot(tmp_path), Slot(tmp_path, 2)
    slot.write(*pair("2026-11-19T10:00:00", request))  # an id that lies: it is too old to be looked at
    slot.write(record("12:00:00", "request_received", request), *pair("13:00:00", "x"))
    other.write(*pair("12:30:00", f"{request} not"))
    slot.write(*pair("2026-11-23T00:00:00", "y", client_request_id=request))
    slot.write(record("2026-11-24T00:00:01", "request_failed", request, status="interrupted"))
    story = read_story(tmp_path, request)
    assert [one.head.event_type for one in story] == ["request_received", "request_failed"]
    assert _ids(read_story(tmp_path, "x")) == ["x", "x"]
    assert read_story(tmp_path, "unknown") == []
    assert read_story(tmp_path, "ffffffff-ffff-7fff-bfff-ffffffffffff") == []


@pytest.mark.parametrize("count", [0, 1, 3, 5, 100])
def test_the_last_records(tmp_path: Path, count: int) -> None:
    """The newest of all slots, as far back as it takes."""
    first, second = Slot(tmp_path), Slot(tmp_path, 2)
    first.write(*pair("2026-11-20T10:00:00", "a"))
    first.write(*pair("2026-11-21T10:00:00", "b"))
    second.write(*pair("2026-11-21T11:00:00", "c", error_message="x" * 300_000))
    first.write(record("10:00:00", "request_received", "d"))
    everything = ["a", "a", "b", "b", "c", "c", "d"]
    assert _ids(read_last(tmp_path, count)) == everything[len(everything) - min(count, 7) :]


def test_following(tmp_path: Path) -> None:
    """New records come once: in half lines, over midnight, in a slot that was not there, after a cut."""
    slot = Slot(tmp_path)
    path = slot.write(*pair("23:59:00", "old"))
    with path.open("ab") as file:
        line = slot.line(record("23:59:10", "request_received", "a"))
        file.write(line[:20])
    follower = Follower(tmp_path)
    assert follower.read() == []
    with path.open("ab") as file:
        file.write(line[20:])
    assert _ids(follower.read()) == ["a"]
    slot.write(record("23:59:59", "request_received", "b"))
    slot.write(record("2026-11-23T00:00:00", "request_received", "c"))
    Slot(tmp_path, 2).write(record("2026-11-23T00:00:01", "request_received", "d"))
    slot.write(record("2026-11-25T00:00:00", "request_received", "e"))
    assert _ids(follower.read()) == ["b", "c", "d", "e"]
    assert follower.read() == []
    os.truncate(slot.path("2026-11-25"), 0)
    assert follower.read() == []
    slot.write(record("2026-11-25T00:00:02", "request_received", "f"))
    assert _ids(follower.read()) == ["f"]


HEAD = Head(
    1,
    1,
    "2026-11-22T10:00:00.000000Z",
    "response_sent",
    request_id="r",
    user_id="u",
    key_id="k",
    provider="p",
    model="m",
    status="success",
)


@pytest.mark.parametrize(
    ("matching", "other"),
    [
        ({"since": "2026-11-22T10:00:00.000000Z"}, {"since": "2026-11-22T10:00:00.000001Z"}),
        ({"until": "2026-11-22T10:00:00.000001Z"}, {"until": "2026-11-22T10:00:00.000000Z"}),
        ({"request_id": "r"}, {"request_id": "s"}),
        ({"user_id": "u"}, {"user_id": "v"}),
        ({"key_id": "k"}, {"key_id": "l"}),
        ({"provider": "p"}, {"provider": "q"}),
        ({"model": "m"}, {"model": "n"}),
        ({"statuses": frozenset({"success", "failed"})}, {"statuses": frozenset({"failed"})}),
        ({"event_types": frozenset({"response_sent"})}, {"event_types": frozenset({"request_failed"})}),
        ({}, {"provider": "p", "model": "n"}),
    ],
)
def test_filters(matching: dict, other: dict) -> None:
    """Each filter lets what it names pass, and nothing else; all of them must hold."""
    assert Filters(**matching).match(HEAD)
    assert not Filters(**other).match(HEAD)
