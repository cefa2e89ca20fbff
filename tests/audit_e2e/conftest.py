"""Processes, disks and midnights take their time: the whole folder is slow, but for the table of outcomes."""

import pytest

QUICK = ("test_outcomes", "test_reconcile", "test_bodies")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is under this folder."""
    for item in items:
        if item.path.parent.name == "audit_e2e" and item.path.stem not in QUICK:
            item.add_marker(pytest.mark.slow)
