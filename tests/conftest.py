"""The fixtures of the end-to-end suites, for every test; and what becomes of tests that need what is not here."""

import os
import shutil
import signal

import pytest

from rig.fixtures import gateway, lane, provider, second_provider, serving
from rig.postgres_server import PLACES as POSTGRES_PLACES
from rig.postgres_server import postgres
from rig.replay import CORPUS, corpus_is_there

__all__ = ["gateway", "lane", "postgres", "provider", "second_provider", "serving"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and what the tests start would inherit it; some tests send Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_LEFT_OUT = pytest.StashKey[int]()
_COMPILED = pytest.StashKey[int]()
_LACKING = pytest.StashKey[dict[str, int]]()
# Servers lie outside a user's PATH.
_TOOL_PATH = ":".join(["/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *POSTGRES_PLACES])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this machine cannot run, counted; where everything is required, that is a failure."""
    _leave_out_lacking_tools(config, items)
    _leave_out_compiled(config, items)
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
    if left_out := config.stash.get(_COMPILED, 0):
        terminalreporter.write_line(f"compiled: not run ({left_out} tests; SECURELLM_NO_EXTENSIONS=1)")
    for tool, count in config.stash.get(_LACKING, {}).items():
        terminalreporter.write_line(f"{tool}: not run ({count} tests; it is not installed)")


def _leave_out_compiled(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Those marked `compiled`, when SECURELLM_NO_EXTENSIONS=1; otherwise an extension that is missing fails them."""
    needing = [item for item in items if item.get_closest_marker("compiled")]
    if not needing or os.environ.get("SECURELLM_NO_EXTENSIONS") != "1":
        return
    config.stash[_COMPILED] = len(needing)
    config.hook.pytest_deselected(items=needing)
    items[:] = [item for item in items if not item.get_closest_marker("compiled")]


def _leave_out_lacking_tools(config: pytest.Config, items: list[pytest.Item]) -> None:
    lacking: dict[str, int] = {}
    kept = []
    for item in items:
        marker = item.get_closest_marker("tool")
        if marker is None or shutil.which(marker.args[0], path=_TOOL_PATH):
            kept.append(item)
        else:
            lacking[marker.args[0]] = lacking.get(marker.args[0], 0) + 1
    if lacking and os.environ.get("CI") == "1":
        raise pytest.UsageError(f"CI=1, but these are not installed: {', '.join(lacking)}")
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    config.stash[_LACKING] = lacking
    items[:] = kept
