"""The stores that tests of the accounts run on: a SQLite file, and a database of a real PostgreSQL server."""

import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from securellm.config.secrets import Secret
from securellm.config.tree import Config, Database, Security

PEPPER = "a pepper that machines share"
POSTGRES = pytest.param("postgresql", marks=pytest.mark.tool("postgres"))


@pytest.fixture(params=["sqlite", POSTGRES])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    """A configuration with an empty store of each kind."""
    state = tmp_path / "state"
    config = Config(
        state_dir=state, database=Database(path=state / "models.db"), security=Security(pepper=Secret(PEPPER))
    )
    if request.param == "sqlite":
        return config
    server = request.getfixturevalue("postgres").create_database(f"t{secrets.token_hex(6)}")
    return msgspec.structs.replace(config, database=Database(url="postgresql://…", server=server))


@pytest.fixture
def another_machine(config: Config, tmp_path: Path) -> Callable[[str], Config]:
    """The same store as another machine sees it: with a state directory of its own, where that is possible."""

    def make(name: str) -> Config:
        if config.database.server is None:
            return config
        return msgspec.structs.replace(config, state_dir=tmp_path / name)

    return make
