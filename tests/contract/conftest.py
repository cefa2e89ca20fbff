"""Every test of the contract runs over both lanes, each with its own upstream client."""

import pytest

from rig.fixtures import Lane


@pytest.fixture(
    params=[("reference", "httpx"), pytest.param(("express", "native"), marks=pytest.mark.compiled)],
    ids=["reference", "express"],
)
def lane(request: pytest.FixtureRequest) -> Lane:
    """The lane that serves."""
    name: Lane = request.param
    return name
