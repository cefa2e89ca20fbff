"""Every test here runs over both lanes: sockets, drains and strictness are the same in both."""

from collections.abc import Iterator

import pytest

from rig.edge import lane_of_edges


@pytest.fixture(params=["reference", pytest.param("express", marks=pytest.mark.compiled)], autouse=True)
def lane_of_the_edge(request: pytest.FixtureRequest) -> Iterator[None]:
    """The lane that `open_edge` opens."""
    token = lane_of_edges.set(request.param)
    yield
    lane_of_edges.reset(token)
