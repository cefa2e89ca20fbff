"""Machines of the tests' own, for the tests of this directory; and what becomes of them where none can be made."""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from rig.fake_provider import FakeProvider
from rig.machines import Site, can_make_namespaces, open_site

Note = Callable[..., None]

_LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, counted, what takes a network of its own where this user may make none."""
    needing = [item for item in items if "site" in getattr(item, "fixturenames", ())]
    if not needing or can_make_namespaces():
        return
    config.stash[_LEFT_OUT] = len(needing)
    config.hook.pytest_deselected(items=needing)
    items[:] = [item for item in items if item not in needing]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say so."""
    if left_out := config.stash.get(_LEFT_OUT, 0):
        terminalreporter.write_line(f"machines: not run ({left_out} tests; making network namespaces takes root)")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two machines with a gateway each, a Redis and a PostgreSQL; every test has keys of its own."""
    with open_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
async def shared_provider(site: Site) -> AsyncIterator[FakeProvider]:
    """A fake provider that both machines reach."""
    async with site.provider() as fake:
        yield fake


@pytest.fixture
def note(record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]) -> Note:
    """Figures, for people: on the terminal and in the report."""

    def show(**figures: object) -> None:
        for name, value in figures.items():
            record_property(name, value)
            with capsys.disabled():
                print(f"\n    {name.replace('_', ' ')}: {value}", end="")

    return show
