"""Stores of earlier versions are brought on without losing anything, and a store that is in order costs no alembic."""

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from securellm.accounts.database import open_database
from securellm.accounts.keys import digest_key
from securellm.accounts.records import KeyTable
from securellm.accounts.schema import METADATA, REVISION
from securellm.accounts.store import Store
from securellm.chat import EVERYTHING
from securellm.config.secrets import Secret
from securellm.config.tree import Config, Database, Security
from securellm.errors import StoreUnavailable

OLD = Path(__file__).parent / "old"  # stores as earlier versions made them, as SQL
PEPPER = "a pepper of an earlier version"
KEY = "slb_pr2j4mdt__cxHntrisSrBvh23tWtTMGBMWnGfBR85MC48fcP_iWc"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A configuration whose store is of revision 1, with keys, events, models and an index in it."""
    _restore(tmp_path / "models.db")
    return Config(
        state_dir=tmp_path, database=Database(path=tmp_path / "models.db"), security=Security(pepper=Secret(PEPPER))
    )


def _restore(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript((OLD / "revision_1.sql").read_text())
    connection.close()


def _dump(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        dump = list(connection.iterdump())
    connection.close()
    return dump


def _read(config: Config) -> KeyTable:
    store = Store(config)
    try:
        table = store.read_keys()
    finally:
        store.close()
    assert table is not None
    return table


def test_nothing_is_lost(config: Config) -> None:
    """Keys, their times, events, models and the generation are as they were; new fields grant everything."""
    table = _read(config)
    assert table.generation == 4
    keys = {record.name: record for record in table.records}
    assert set(keys) == {"alice", "bob", "o'brien"}
    assert keys["alice"].digest == digest_key(table.pepper, KEY)
    assert (keys["alice"].role, keys["alice"].state(2e9)) == ("operator", "active")
    assert (keys["bob"].expires_at_s, keys["o'brien"].state(2e9)) == (4_102_444_800, "revoked")
    assert {(record.grants, record.rates, record.user_id) for record in table.records} == {(EVERYTHING, None, None)}
    store = Store(config)
    events = [(event.id, event.action, event.actor) for event in store.read_events()]
    assert events[0] == (1, "key_created", "")
    assert [number for number, _, _ in events] == [1, 2, 3, 4, 5]
    assert [(model.provider, model.model, model.context) for model in store.read_models()] == [
        ("openai", "gpt-x", 1000)
    ]
    store.create_key("new")
    store.forget_events([1, 2, 3, 4, 5])
    (event,) = store.read_events()
    assert event.id == 6
    store.close()


def test_the_index_is_filled_anew(config: Config) -> None:
    """Its rows and places are gone with the old table: the files have them all."""
    _read(config)
    with sqlite3.connect(config.database.path) as connection:
        assert connection.execute("SELECT count(*) FROM audit_logs").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM audit_positions").fetchone() == (0,)
    connection.close()


def test_it_says_what_it_is_now(config: Config) -> None:
    """Ours and alembic's revision are the same, and the earlier one is remembered."""
    _read(config)
    with sqlite3.connect(config.database.path) as connection:
        assert connection.execute("SELECT version FROM schema_version ORDER BY 1").fetchall() == [(1,), (REVISION,)]
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(str(REVISION),)]
    connection.close()


@pytest.mark.parametrize("old", [True, False])
def test_a_migrated_store_is_as_a_new_one(tmp_path: Path, old: bool) -> None:
    """alembic finds no difference between either and the tables that this version speaks of."""
    path = tmp_path / "models.db"
    if old:
        _restore(path)
    database = open_database(path, 0)
    with database.transaction() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    database.close()


def test_a_migration_is_whole_or_not_at_all(config: Config) -> None:
    """One that fails in its middle leaves the file as it was, and says so without the driver's words."""
    path = config.database.path
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE audit_logs_old AS SELECT * FROM audit_logs")
        connection.execute("CREATE VIEW budgets AS SELECT 1")
    connection.close()
    before = _dump(path)
    with pytest.raises(StoreUnavailable, match=r"models\.db cannot be used: OperationalError$"):
        _read(config)
    assert _dump(path) == before


def test_starts_that_race_migrate_once(config: Config) -> None:
    """Processes that find an old store together all find a new one."""
    with ThreadPoolExecutor(4) as pool:
        tables = list(pool.map(_read, [config] * 8))
    assert {len(table.records) for table in tables} == {3}
    with sqlite3.connect(config.database.path) as connection:
        assert connection.execute("SELECT count(*) FROM schema_version").fetchone() == (2,)
    connection.close()


def test_alembic_waits_until_it_is_needed(tmp_path: Path) -> None:
    """A new store, and one that is in order, are opened without importing alembic, which takes half a second."""
    code = (
        "import sys; from pathlib import Path; from securellm.accounts.database import open_database\n"
        f"for _ in range(2): open_database(Path({str(tmp_path / 'models.db')!r}), 0).close()\n"
        "assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
