"""The fixtures of the end-to-end suites, for every test; and what becomes of tests that need the recordings."""

import os

import pytest

from rig.fixtures import gateway, lane, provider, second_provider, serving
from rig.replay import CORPUS, corpus_is_there

__all__ = ["gateway", "lane", "provider", "second_provider", "serving"]

_LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked `corpus` where there are no recordings, or fail where they are required."""
    needing = [item for item in items if item.get_closest_marker("corpus")]
    if not needing or corpus_is_there():
        return
    if os.environ.get("SECURELLM_REQUIRE_CORPUS") == "1":
        raise pytest.UsageError(f"SECURELLM_REQUIRE_CORPUS=1, but there are no recordings in {CORPUS}")
    config.stash[_LEFT_OUT] = len(needing)
    config.hook.pytest_deselected(items=needing)
    items[:] = [item for item in items if not item.get_closest_marker("corpus")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say that they were left out: a green run without them is not the whole run."""
    if left_out := config.stash.get(_LEFT_OUT, 0):
        terminalreporter.write_line(f"corpus: not run ({left_out} tests; no recordings in ../shared/corpus)")
