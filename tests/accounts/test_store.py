"""The store of keys on a real SQLite file."""

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from securellm.accounts.keys import MintedKey
from securellm.accounts.store import KeyTable, Store, ensure_first_key, open_store
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


def test_two_who_make_the_file_at_one_time(tmp_path: Path) -> None:
    """A file that another start is writing to, not yet in the journal mode that both want, is waited for."""
    config = _config(tmp_path)
    config.state_dir.mkdir()
    other = sqlite3.connect(config.database.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, other.execute, ["COMMIT"])
    timer.start()
    try:
        assert _read(config).records == ()
    finally:
        timer.join()
        other.close()


def test_another_pepper_is_an_outage(tmp_path: Path) -> None:
    """With a pepper that the keys were not made with nothing is told of them, and nothing is kept under it."""
    store, other = Store(_config(tmp_path)), Store(_config(tmp_path))
    minted = _create(store)
    store.close()
    (tmp_path / "state" / "pepper").write_text("another pepper of some length")
    with pytest.raises(StoreUnavailable, match=r"the pepper is not the one that the keys in .*models\.db"):
        _read(_config(tmp_path))
    with pytest.raises(StoreUnavailable, match="pepper"):
        _create(other)
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
