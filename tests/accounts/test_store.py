"""The store of keys on a real SQLite file."""

import os
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from securellm.accounts.keys import MintedKey, digest_key
from securellm.accounts.store import KeyTable, Store, StoredModel, ensure_first_key, open_store
from securellm.config.secrets import Secret
from securellm.config.tree import Config, Database, Security
from securellm.errors import StoreUnavailable


def _config(path: Path, **security: object) -> Config:
    state = path / "state"
    return Config(state_dir=state, database=Database(path=state / "models.db"), security=Security(**security))


def _create(store: Store, name: str = "n", **settings: object) -> MintedKey:
    minted = store.create_key(name, **settings)
    assert minted is not None
    return minted


def _read(config: Config) -> KeyTable:
    """All keys, read by a store of its own."""
    store = Store(config)
    try:
        table = store.read_keys()
    finally:
        store.close()
    assert table is not None
    return table


def test_a_key_round_trip(tmp_path: Path) -> None:
    """A made key is found with its name, role and times, kept as a digest under the pepper."""
    store = Store(_config(tmp_path))
    minted = _create(store, "alice", role="operator", expires_at_s=2**31)
    table = store.read_keys()
    assert table is not None
    (record,) = table.records
    assert (record.id, record.name, record.role, record.expires_at_s) == (minted.id, "alice", "operator", 2**31)
    assert record.digest == digest_key(table.pepper, minted.text)
    store.close()
    assert _read(_config(tmp_path)).records == table.records


def test_the_key_itself_is_nowhere_on_disk(tmp_path: Path) -> None:
    """No file of the state directory holds the key or its secret part."""
    store = Store(_config(tmp_path))
    minted = _create(store)
    for file in (tmp_path / "state").iterdir():
        assert minted.text[13:].encode() not in file.read_bytes()
    store.close()


def test_files_are_private(tmp_path: Path) -> None:
    """Every file is 0600 in a 0700 directory, also the ones that SQLite makes beside it, whatever the umask."""
    before = os.umask(0)
    try:
        store = Store(_config(tmp_path))
        _create(store)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "state").iterdir()}
        store.close()
    finally:
        os.umask(before)
    assert modes == {"models.db": 0o600, "models.db-wal": 0o600, "models.db-shm": 0o600, "pepper": 0o600}
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_every_change_moves_the_generation(tmp_path: Path) -> None:
    """A poll that knows the generation reads nothing until a key is made or revoked, also by another process."""
    config = _config(tmp_path)
    store, other = Store(config), Store(config)
    minted = _create(store)
    table = store.read_keys()
    assert table is not None
    assert other.read_keys(table.generation) is None
    assert other.revoke_key(minted.id)
    changed = store.read_keys(table.generation)
    assert changed is not None
    assert changed.records[0].revoked_at_s is not None
    assert store.read_keys(changed.generation) is None
    assert not store.revoke_key(minted.id)
    assert not store.revoke_key("aaaaaaaa' OR '1'='1")
    assert store.read_keys(changed.generation) is None
    store.close()
    other.close()


def test_writers_do_not_lose_each_other(tmp_path: Path) -> None:
    """Several stores on one file, opened together, each keep all of their keys."""
    config = _config(tmp_path)

    def write(number: int) -> str:
        store = Store(config)
        try:
            return _create(store, f"key {number}").id
        finally:
            store.close()

    with ThreadPoolExecutor(6) as pool:
        ids = set(pool.map(write, range(18)))
    table = _read(config)
    assert {record.id for record in table.records} == ids
    assert (len(ids), table.generation) == (18, 18)


def test_the_first_key_is_minted_once(tmp_path: Path) -> None:
    """Starts that race mint one key between them; a later start mints none, nor after it was revoked."""
    config = _config(tmp_path)
    with ThreadPoolExecutor(6) as pool:
        minted = [text for text in pool.map(ensure_first_key, [config] * 12) if text]
    assert len(minted) == 1
    store = Store(config)
    table = store.read_keys()
    assert table is not None
    assert [record.role for record in table.records] == ["admin"]
    store.revoke_key(table.records[0].id)
    store.close()
    assert ensure_first_key(config) is None


def test_no_first_key_where_none_is_needed(tmp_path: Path) -> None:
    """With a key in the configuration, or with authentication off, nothing is minted and no store is made."""
    assert ensure_first_key(_config(tmp_path, api_keys=(Secret("0123456789abcdef"),))) is None
    assert ensure_first_key(_config(tmp_path, require_auth=False)) is None
    assert not (tmp_path / "state").exists()


def test_the_schema_says_its_revision(tmp_path: Path) -> None:
    """Earlier versions and alembic find revision 2; a store of a later revision is refused and left alone."""
    config = _config(tmp_path)
    _read(config)
    with sqlite3.connect(config.database.path) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(2,)]
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("2",)]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.execute("INSERT INTO schema_version VALUES (3, 0)")
    connection.close()
    with pytest.raises(StoreUnavailable, match="schema revision 3, this version knows 2"):
        _read(config)


def test_a_broken_file_is_an_outage(tmp_path: Path) -> None:
    """A file that is no database is told without the driver's text, and not overwritten."""
    config = _config(tmp_path)
    config.state_dir.mkdir()
    config.database.path.write_bytes(b"this is not a database at all, " * 40)
    with pytest.raises(StoreUnavailable) as caught:
        _read(config)
    assert "models.db cannot be used" in caught.value.message
    assert "file is not a database" not in caught.value.message
    assert config.database.path.read_bytes().startswith(b"this is not")


def test_a_vanished_file_is_an_outage(tmp_path: Path) -> None:
    """A file that is taken away is never replaced by an empty one, and is read again when it is back."""
    config = _config(tmp_path)
    store = Store(config)
    minted = _create(store)
    store.close()
    table = store.read_keys()
    away = tmp_path / "away.db"
    config.database.path.rename(away)
    with pytest.raises(StoreUnavailable, match="is gone"):
        store.read_keys()
    assert not config.database.path.exists()
    away.rename(config.database.path)
    assert table is not None
    assert store.read_keys(table.generation) is None
    assert table.records[0].id == minted.id
    store.close()


def test_another_file_in_its_place_is_read(tmp_path: Path) -> None:
    """A store that is restored from a copy under our feet is opened anew."""
    pepper = Secret("0123456789abcdef")
    config, other = (_config(tmp_path / name, pepper=pepper) for name in ("one", "two"))
    store, copy = Store(config), Store(other)
    _create(store, "old")
    _create(copy, "restored")
    copy.close()
    assert store.read_keys() is not None
    for suffix in ("-wal", "-shm"):
        Path(f"{config.database.path}{suffix}").unlink(missing_ok=True)
    other.database.path.replace(config.database.path)
    table = store.read_keys()
    assert table is not None
    assert [record.name for record in table.records] == ["restored"]
    store.close()


def test_another_pepper_is_an_outage(tmp_path: Path) -> None:
    """With a pepper that the keys were not made with nothing is told of them, and nothing is kept under it."""
    minted = _create(Store(_config(tmp_path)))
    (tmp_path / "state" / "pepper").write_text("another pepper of some length")
    with pytest.raises(StoreUnavailable, match="the pepper is not the one that the keys in .*models.db were made with"):
        _read(_config(tmp_path))
    with pytest.raises(StoreUnavailable, match="pepper"):
        _create(Store(_config(tmp_path)))
    (tmp_path / "state" / "pepper").unlink()
    with pytest.raises(StoreUnavailable, match="pepper"):
        _read(_config(tmp_path))
    with sqlite3.connect(tmp_path / "state" / "models.db") as connection:
        assert connection.execute("SELECT id FROM keys").fetchall() == [(minted.id,)]
    connection.close()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """A state directory that is a file is an outage, told with the settings that name another place."""
    (tmp_path / "state").touch()
    with pytest.raises(
        StoreUnavailable, match=r"cannot be opened: .*state_dir or STATE_DIRECTORY \(or database\.url\)"
    ):
        _read(_config(tmp_path))


def test_discovered_models_are_replaced(tmp_path: Path) -> None:
    """What a provider listed last is what is kept of it; other providers keep theirs."""
    store = Store(_config(tmp_path))
    old, new = (StoredModel("p", name, 5, None, 0, None) for name in ("old", "new"))
    other = StoredModel("q", "x/y", None, 7, 9, "X")
    store.save_models("p", [old])
    store.save_models("q", [other])
    store.save_models("p", [new])
    assert store.read_models() == [new, other]
    store.save_models("q", [])
    assert store.read_models() == [new]
    store.close()


async def test_open_store_closes(tmp_path: Path) -> None:
    """The store is opened with its first use and closed at the end of the block."""
    async with open_store(_config(tmp_path)) as store:
        assert "closed" in repr(store)
        _create(store)
        assert "open" in repr(store)
    assert "closed" in repr(store)
    assert not (tmp_path / "state" / "models.db-wal").exists()


def test_sqlalchemy_waits_for_the_first_use() -> None:
    """Importing the accounts does not import SQLAlchemy: commands that need no store do not pay for it."""
    code = "import sys, securellm.accounts.snapshot; assert 'sqlalchemy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
