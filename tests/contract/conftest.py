"""Every test of the contract runs over both lanes, each with its own client; what moves bytes over TLS, too.

With the express lane most of them are part of the slow tests: these run once, the others with every interpreter.
"""

import pytest

from rig.fixtures import Lane

LANES: dict[str, Lane] = {"reference": ("reference", "httpx", False), "express": ("express", "native", False)}
EVERYWHERE = ("test_answers", "test_truncation", "test_bodies")  # express with every interpreter
OVER_TLS: dict[str, dict[str, Lane]] = {
    "test_answers": {"express-tls": ("express", "native", True)},
    "test_streaming": {"express-tls": ("express", "native", True), "reference-tls": ("reference", "httpx", True)},
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise by the lanes that the test's module runs over."""
    if "lane" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        params = []
        for name, lane in (LANES | OVER_TLS.get(module, {})).items():
            marks = [pytest.mark.compiled] if lane[0] == "express" else []
            if lane != LANES["reference"] and (lane != LANES["express"] or module not in EVERYWHERE):
                marks.append(pytest.mark.slow)
            params.append(pytest.param(lane, id=name, marks=marks))
        metafunc.parametrize("lane", params)
