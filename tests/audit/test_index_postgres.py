"""The index of the audit log on a real PostgreSQL server, which several machines fill."""

import secrets
from pathlib import Path

import pytest

from rig.audit_days import Slot, pair, raw, record
from rig.postgres_server import PostgresServer
from securellm.accounts.node import load_node
from securellm.audit.filters import Filters
from securellm.audit.index import AuditIndex, open_index
from securellm.config.tree import Config, Database

pytestmark = pytest.mark.tool("postgres")


@pytest.fixture
def database(postgres: PostgresServer) -> Database:
    """An empty database."""
    return Database(server=postgres.create_database(f"i{secrets.token_hex(6)}"))


def _machine(path: Path, database: Database) -> Config:
    (path / "logs").mkdir(parents=True)
    return Config(state_dir=path, log_dir=path / "logs", database=database)


def _ids(index: AuditIndex, **filters: object) -> list[str]:
    return [row["request_id"] for row in index.find(Filters(**filters), 1000)]


def test_machines_with_the_same_slots(tmp_path: Path, database: Database) -> None:
    """Each fills its own rows, cuts back and rebuilds its own, and finds those of all, in the order of time."""
    one, two = (_machine(tmp_path / name, database) for name in ("one", "two"))
    Slot(one.log_dir).write(*pair("10:00:00", "a", user_id="u"), *pair("10:02:00", "c"))
    slot = Slot(two.log_dir)
    path = slot.write(*pair("10:01:00", "b", user_id="u"))
    indexes = [open_index(one), open_index(two)]
    for index in indexes:
        assert index.fill()
    assert _ids(indexes[0]) == _ids(indexes[1]) == ["a", "a", "b", "b", "c", "c"]
    assert _ids(indexes[0], user_id="u") == ["a", "a", "b", "b"]
    path.write_bytes(b"")
    Slot(two.log_dir).write(*pair("10:03:00", "d"))
    indexes[1].fill()
    assert _ids(indexes[0]) == ["a", "a", "c", "c", "d", "d"]
    assert indexes[0].rebuild() == 4
    assert _ids(indexes[1]) == ["a", "a", "c", "c", "d", "d"]
    for index in indexes:
        index.close()


def test_each_record_once(tmp_path: Path, database: Database) -> None:
    """Two that fill for one machine at a time, and one that comes back later, leave every record exactly once."""
    config = _machine(tmp_path, database)
    slot = Slot(config.log_dir)
    slot.write(*(one for number in range(1200) for one in pair("10:00:00", f"r{number}")))
    index, other = open_index(config), open_index(config)
    assert index.fill_some()
    assert other.fill_some()
    index.fill()
    slot.write(*pair("2026-11-23T10:00:00", "z"))
    other.fill()
    index.fill()
    rows = index.find(Filters(), 1_000_000)
    assert [row["seq"] for row in rows] == list(range(1, 2403))
    index.close()
    other.close()


def test_what_a_server_is_particular_about(tmp_path: Path, database: Database) -> None:
    """NUL in a text, long texts, truth values and numbers of 64 bits are all kept as far as can be."""
    config = _machine(tmp_path, database)
    Slot(config.log_dir).write(
        record("10:00:00", "response_sent", "a", model="m\0x", error_message="é" * 2000, stream=True,
               total_tokens=2**70, cost_nusd=2**62, duration_ms=raw("1500.25"), user_id="' OR 1=1 --"),
    )  # fmt: skip
    index = open_index(config)
    assert index.fill()
    (row,) = index.find(Filters(user_id="' OR 1=1 --"), 10)
    assert (row["model"], row["error_message"], row["stream"]) == ("m\ufffdx", "é" * 512, 1)
    assert (row["total_tokens"], row["cost_nusd"], row["duration_ms"]) == (2**63 - 1, 2**62, 1500.25)
    assert "node" not in row
    index.close()


def test_a_machine_keeps_its_name(tmp_path: Path, database: Database) -> None:
    """It is made once and kept in the state directory; where the store is a file there is none."""
    config = Config(state_dir=tmp_path / "state", database=database)
    name = load_node(config)
    assert load_node(config) == name
    assert len(name) == 12
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["node"]
    assert load_node(Config(state_dir=tmp_path / "none", database=Database(path=tmp_path / "models.db"))) == ""
    assert not (tmp_path / "none").exists()
