"""The directory that the workers of one gateway share."""

from pathlib import Path

import pytest

from securellm.errors import ConfigError
from securellm.workers.directory import open_run_directory


def test_it_is_private_and_leaves_nothing(tmp_path: Path) -> None:
    """Only its owner may enter; at the end nothing is left of what the workers put there."""
    with open_run_directory(tmp_path) as directory:
        assert directory.stat().st_mode & 0o777 == 0o700
        (directory / "w1.sock").touch()
        (directory / "metrics.w1").touch()
    assert [path.name for path in directory.iterdir()] == ["gateway.lock"]


def test_what_a_dead_supervisor_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """Names of ours go; a file of somebody else's stays, and so does a directory."""
    directory = tmp_path / "run"
    (directory / "limits.d").mkdir(parents=True)
    for name in ("w1.sock", "w12.sock", "metrics.w3", "limits.table", "notes.txt"):
        (directory / name).touch()
    with open_run_directory(tmp_path):
        assert {path.name for path in directory.iterdir()} == {"gateway.lock", "limits.d", "notes.txt"}


def test_a_second_gateway_is_refused(tmp_path: Path) -> None:
    """While one gateway has it, another one is told; afterwards it may be had."""
    with open_run_directory(tmp_path) as directory:
        (directory / "w1.sock").touch()
        with pytest.raises(ConfigError, match="another gateway with several workers"), open_run_directory(tmp_path):
            pass
        assert (directory / "w1.sock").exists()
    with open_run_directory(tmp_path):
        pass


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """The reason names the place."""
    (tmp_path / "run").touch()
    with pytest.raises(ConfigError, match="run cannot be used: file exists"), open_run_directory(tmp_path):
        pass
