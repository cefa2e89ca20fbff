"""What becomes of the tests that need a compiled twin where the pure ones are asked for."""

import os

import pytest

_LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked `compiled` when SECURELLM_NO_EXTENSIONS=1; otherwise a missing twin fails them."""
    needing = [item for item in items if item.get_closest_marker("compiled")]
    if not needing or os.environ.get("SECURELLM_NO_EXTENSIONS") != "1":
        return
    config.stash[_LEFT_OUT] = len(needing)
    config.hook.pytest_deselected(items=needing)
    items[:] = [item for item in items if not item.get_closest_marker("compiled")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many were left out, so that a pure run is not taken for a whole one."""
    if left_out := config.stash.get(_LEFT_OUT, 0):
        terminalreporter.write_line(f"compiled: not run ({left_out} tests; SECURELLM_NO_EXTENSIONS=1)")
