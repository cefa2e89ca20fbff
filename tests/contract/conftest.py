"""Every test of the contract runs over both lanes, each with its own client; what moves bytes over TLS, too."""

import pytest

from rig.fixtures import Lane

LANES: dict[str, Lane] = {"reference": ("reference", "httpx", False), "express": ("express", "native", False)}
OVER_TLS: dict[str, dict[str, Lane]] = {
    "test_answers": {"express-tls": ("express", "native", True)},
    "test_streaming": {"express-tls": ("express", "native", True), "reference-tls": ("reference", "httpx", True)},
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise by the lanes that the test's module runs over."""
    if "lane" in metafunc.fixturenames:
        lanes = LANES | OVER_TLS.get(metafunc.module.__name__.rpartition(".")[2], {})
        params = [
            pytest.param(lane, id=name, marks=[pytest.mark.compiled] if lane[0] == "express" else [])
            for name, lane in lanes.items()
        ]
        metafunc.parametrize("lane", params)
