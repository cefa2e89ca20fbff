"""The index: what the files say, each record once, whatever happens to the process, the files and the store."""

import os
import sqlite3
from pathlib import Path

import pytest
import trio

from rig.audit_days import Slot, pair, raw, record
from rig.waiting import until_true
from securellm.accounts.audit_logs import COLUMNS
from securellm.audit.filters import Filters
from securellm.audit.index import BATCH_LINES, BUSY_PAUSES, PAUSE_S, AuditIndex, pause_s
from securellm.audit.rows import ROW_COLUMNS
from securellm.errors import StoreUnavailable


def test_the_columns_are_those_of_the_table() -> None:
    """What is parsed of a line has the table's order, so that values go to the driver as they are."""
    assert ROW_COLUMNS == COLUMNS


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    path = tmp_path / "logs"
    path.mkdir()
    return path


@pytest.fixture
def index(tmp_path: Path, logs: Path):
    index = AuditIndex(logs, tmp_path / "models.db")
    yield index
    index.close()


def _indexed(index: AuditIndex) -> list[tuple[int, int]]:
    return [(row["slot"], row["seq"]) for row in index.find(Filters(), 1_000_000)]


def test_a_row_a_record(index: AuditIndex, logs: Path) -> None:
    """Every record of every day and slot has its row, with its fields; the counts and costs are exact."""
    slot = Slot(logs)
    slot.write(
        *pair(
            "10:00:00",
            "a",
            ends="10:00:01.500000Z",
            user_id="u",
            provider="openai",
            model="gpt",
            prompt_tokens=3,
            total_tokens=2**70,
            cost_nusd=1_500,
            estimated_cost_usd=raw("0.0000015"),
            duration_ms=raw("1500.25"),
            stream=True,
        ),
        record("10:00:02", "security_event", action="authentication_failed", count=7, client_ip="::1"),
    )
    Slot(logs, 2).write(*pair("2026-11-23T10:00:00", "b", status="failed"))
    assert index.fill()
    rows = index.find(Filters(), 100)
    assert [(row["slot"], row["seq"]) for row in rows] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]
    assert rows[0]["stream"] is None
    closing = rows[1]
    assert closing["timestamp"] == "2026-11-22T10:00:01.500000Z"
    assert (closing["user_id"], closing["model"], closing["stream"], closing["attempts"]) == ("u", "gpt", 1, None)
    assert (closing["prompt_tokens"], closing["total_tokens"]) == (3, 2**63 - 1)
    assert (closing["cost_nusd"], closing["estimated_cost_usd"], closing["duration_ms"]) == (1_500, 1.5e-6, 1500.25)
    assert (rows[2]["action"], rows[2]["count"]) == ("authentication_failed", 7)
    assert index.statistics().rows == 5
    assert index.statistics().behind_bytes == 0


def test_questions(index: AuditIndex, logs: Path) -> None:
    """Filters hold in the table as they do on the files; the limit keeps the newest, oldest first."""
    Slot(logs).write(
        *pair("10:00:00", "a", user_id="u", provider="p"),
        *pair("11:00:00", "b", user_id="v", provider="p", status="failed"),
        *pair("12:00:00", "c", user_id="u", provider="q"),
    )
    index.fill()

    def ids(limit: int = 100, **filters: object) -> list[str]:
        return [row["request_id"] for row in index.find(Filters(**filters), limit)]

    assert ids(user_id="u") == ["a", "a", "c", "c"]
    assert ids(event_types=frozenset({"response_sent"}), provider="p") == ["a"]
    assert ids(statuses=frozenset({"failed", "success"})) == ["a", "b", "c"]
    assert ids(since="2026-11-22T11", until="2026-11-22T12") == ["b", "b"]
    assert ids(3) == ["b", "c", "c"]
    assert ids(request_id="b' OR 1=1 --") == []


def test_each_record_once(tmp_path: Path, index: AuditIndex, logs: Path) -> None:
    """Two that fill at the same time, and one that comes back later, leave every record exactly once."""
    slot = Slot(logs)
    slot.write(*(one for number in range(BATCH_LINES) for one in pair("10:00:00", f"r{number}")))
    other = AuditIndex(logs, tmp_path / "models.db")
    assert index.fill_some()
    assert other.fill_some()
    index.fill()
    slot.write(*pair("2026-11-23T10:00:00", "z"))
    other.fill()
    other.close()
    index.fill()
    assert _indexed(index) == [(1, seq) for seq in range(1, 2 * BATCH_LINES + 3)]


def test_few_lines_wait_for_the_interval(index: AuditIndex, logs: Path) -> None:
    """Only what one batch could not take is read at once: under a trickle of records the index rests in between."""
    slot = Slot(logs)
    slot.write(*pair("10:00:00", "a"))
    assert not index.fill_some()
    assert _indexed(index) == [(1, 1), (1, 2)]
    slot.write(*(one for number in range(BATCH_LINES) for one in pair("10:00:00", f"r{number}")))
    assert index.fill_some()
    assert index.fill_some()
    assert not index.fill_some()
    assert len(_indexed(index)) == 2 * BATCH_LINES + 2


def test_the_store_takes_the_place_with_the_rows(tmp_path: Path, index: AuditIndex, logs: Path) -> None:
    """A batch that the store refuses leaves neither rows nor a place; the next attempt has them all."""
    Slot(logs).write(*pair("10:00:00", "a"))
    index.fill()
    Slot(logs, 2).write(*pair("10:00:00", "b"))
    with sqlite3.connect(tmp_path / "models.db") as store:
        refusal = "WHEN NEW.slot = 2 BEGIN SELECT RAISE(ABORT, 'x'); END"
        store.execute(f"CREATE TRIGGER refuse BEFORE INSERT ON audit_positions {refusal}")
    store.close()
    with pytest.raises(StoreUnavailable):
        index.fill()
    assert _indexed(index) == [(1, 1), (1, 2)]
    with sqlite3.connect(tmp_path / "models.db") as store:
        store.execute("DROP TRIGGER refuse")
    store.close()
    index.fill()
    assert sorted(_indexed(index)) == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_half_a_line_waits(index: AuditIndex, logs: Path) -> None:
    """A line without its end is taken when it has one; in a file that nobody writes it is passed."""
    slot = Slot(logs)
    path = slot.write(*pair("10:00:00", "a"))
    line = slot.line(record("10:00:05", "request_received", "b"))
    with path.open("ab") as file:
        file.write(line[:-9])
        file.flush()
        index.fill()
        assert len(_indexed(index)) == 2
        file.write(line[-9:] + b"{half")
    index.fill()
    assert len(_indexed(index)) == 3
    slot.write(*pair("2026-11-23T10:00:00", "c"))
    index.fill()
    assert _indexed(index) == [(1, seq) for seq in range(1, 6)]


def test_damage_is_passed(index: AuditIndex, logs: Path) -> None:
    """Lines that are no records, of another slot, or twice there, do not stop the index."""
    slot = Slot(logs)
    path = slot.write(*pair("10:00:00", "a"))
    with path.open("ab") as file:
        file.write(b"no record\n" + slot.line(record("10:01:00", "request_received", "b")) * 2)
        file.write(Slot(logs, 9).line(record("10:01:00", "request_received", "c")))
        file.write(slot.line(record("10:02:00", "security_event", action="x", count=2**64 - 1)))
    index.fill()
    assert _indexed(index) == [(1, 1), (1, 2), (1, 3), (1, 4)]


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_a_log_that_was_cut_back(index: AuditIndex, logs: Path, kept: int) -> None:
    """After power loss the chain goes on from an earlier line: the rows are those of the file, not of its past."""
    slot = Slot(logs)
    slot.write(*pair("2026-11-21T10:00:00", "old"))
    path = slot.write(*pair("10:00:00", "a"), *pair("10:01:00", "lost"))
    index.fill()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:kept]))
    again = Slot(logs)
    again.seq, again.prev = slot.seq - 4, slot.prev
    for line in lines[:kept]:
        again.seq += 1
        del line
    again.write(*pair("10:02:00", "b"), *pair("10:02:01", "c"), *pair("10:03:00", "d"))
    index.fill()
    assert _indexed(index) == [(1, seq) for seq in range(1, 2 + kept + 6 + 1)]
    assert "d" in {row["request_id"] for row in index.find(Filters(), 2)}
    os.truncate(path, 0)
    index.fill()
    assert _indexed(index) == [(1, 1), (1, 2)]


def test_what_retention_deleted_goes(index: AuditIndex, logs: Path) -> None:
    """Rows of deleted files are forgotten; a slot without any file keeps its rows, as its disk may just be away."""
    slot = Slot(logs)
    old = slot.write(*pair("2026-08-01T10:00:00", "old"))
    kept = slot.write(*pair("10:00:00", "a"))
    index.fill()
    old.unlink()
    index.fill()
    assert [row["request_id"] for row in index.find(Filters(), 10)] == ["a", "a"]
    kept.unlink()
    index.fill()
    assert len(_indexed(index)) == 2


def test_rebuilding(tmp_path: Path, index: AuditIndex, logs: Path) -> None:
    """Whatever became of the table, it is what the files say afterwards."""
    Slot(logs).write(*pair("10:00:00", "a"), *pair("10:01:00", "b"))
    index.fill()
    with sqlite3.connect(tmp_path / "models.db") as store:
        store.execute("DELETE FROM audit_logs WHERE seq = 1")
        store.execute("UPDATE audit_logs SET status = 'failed'")
    store.close()
    assert index.rebuild() == 4
    assert [row["status"] for row in index.find(Filters(), 10)] == [None, "success", None, "success"]


def test_a_busy_process_is_left_alone() -> None:
    """An idle one fills half of the time; the busier it is the less, down to a twentieth."""
    assert pause_s(0.0, 0.0) == pause_s(0.0, 1.0) == PAUSE_S
    assert pause_s(1.0, 0.0) == 1.0
    assert 1.0 < pause_s(1.0, 0.2) < pause_s(1.0, 0.8) < pause_s(1.0, 1.0) == 1 + BUSY_PAUSES


async def test_it_keeps_itself_filled(tmp_path: Path, index: AuditIndex, logs: Path) -> None:
    """In the background: what is written appears; a store that is away is told, and made up for when it is back."""
    store, away = tmp_path / "models.db", tmp_path / "away.db"
    slot = Slot(logs)
    slot.write(*pair("10:00:00", "a"))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(index.keep_filled, 0.005)
            await until_true(lambda: index.statistics().rows == 2)
            store.rename(away)
            slot.write(*pair("10:01:00", "b"))
            await until_true(lambda: index.statistics().last_error is not None)
            away.rename(store)
            await until_true(lambda: index.statistics().rows == 4)
            assert index.statistics().last_error is None
            nursery.cancel_scope.cancel()
    assert len(_indexed(index)) == 4
