"""Every test runs over both lanes and both upstream clients, in all four combinations, and over TLS."""

import pytest

from rig.fixtures import Lane

_COMPILED = pytest.mark.compiled


@pytest.fixture(
    params=[
        pytest.param(("reference", "httpx", False), id="reference-httpx"),
        pytest.param(("express", "native", False), id="express-native", marks=_COMPILED),
        pytest.param(("express", "httpx", False), id="express-httpx", marks=_COMPILED),
        pytest.param(("reference", "native", False), id="reference-native", marks=_COMPILED),
        pytest.param(("express", "native", True), id="express-native-tls", marks=_COMPILED),
    ],
)
def lane(request: pytest.FixtureRequest) -> Lane:
    """What serves."""
    name: Lane = request.param
    return name
