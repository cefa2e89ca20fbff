"""The pepper: made once, private, and agreed on by processes that start together."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from securellm.accounts.pepper import load_pepper
from securellm.config.secrets import Secret
from securellm.config.tree import Config, Security
from securellm.errors import StoreUnavailable


def test_it_is_made_once(tmp_path: Path) -> None:
    """The first use makes a private file in a private directory; the next reads it."""
    config = Config(state_dir=tmp_path / "a" / "state")
    pepper = load_pepper(config)
    assert len(pepper) >= 32
    assert load_pepper(config) == pepper
    assert stat.S_IMODE((config.state_dir / "pepper").stat().st_mode) == 0o600
    assert stat.S_IMODE(config.state_dir.stat().st_mode) == 0o700
    assert os.listdir(config.state_dir) == ["pepper"]


def test_racing_processes_agree(tmp_path: Path) -> None:
    """Whoever comes second takes the first one's pepper, and no draft is left behind."""
    config = Config(state_dir=tmp_path / "state")
    with ThreadPoolExecutor(8) as pool:
        peppers = set(pool.map(load_pepper, [config] * 32))
    assert len(peppers) == 1
    assert os.listdir(config.state_dir) == ["pepper"]


def test_a_reference_goes_first(tmp_path: Path) -> None:
    """A pepper from the configuration is used, and no file is made."""
    config = Config(state_dir=tmp_path, security=Security(pepper=Secret("a pepper of the operator")))
    assert load_pepper(config) == b"a pepper of the operator"
    assert os.listdir(tmp_path) == []


def test_an_open_file_is_not_trusted(tmp_path: Path) -> None:
    """A pepper that others can read is refused, with the command that mends it."""
    (tmp_path / "pepper").write_text("x" * 64)
    (tmp_path / "pepper").chmod(0o644)
    with pytest.raises(StoreUnavailable, match="chmod 600"):
        load_pepper(Config(state_dir=tmp_path))


def test_a_short_pepper_is_none(tmp_path: Path) -> None:
    """An empty or cut file is an outage, not a weaker digest."""
    (tmp_path / "pepper").touch(0o600)
    with pytest.raises(StoreUnavailable, match="expected at least 16"):
        load_pepper(Config(state_dir=tmp_path))


def test_a_place_that_is_no_directory(tmp_path: Path) -> None:
    """What the system refuses is told as an outage of the store."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match=r"cannot be read or made: .*STATE_DIRECTORY"):
        load_pepper(Config(state_dir=tmp_path / "file"))
