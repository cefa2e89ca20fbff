"""Every test runs over both lanes and both upstream clients, in all four combinations."""

import pytest

from rig.fixtures import Lane

_COMPILED = pytest.mark.compiled


@pytest.fixture(
    params=[
        ("reference", "httpx"),
        pytest.param(("express", "native"), marks=_COMPILED),
        pytest.param(("express", "httpx"), marks=_COMPILED),
        pytest.param(("reference", "native"), marks=_COMPILED),
    ],
    ids="-".join,
)
def lane(request: pytest.FixtureRequest) -> Lane:
    """The lane that serves, and its upstream client."""
    name: Lane = request.param
    return name
