"""What a gateway that serves has imported, and how much memory that is."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from rig import script
from rig.fake_provider import FakeProvider
from rig.process import open_process
from rig.raw_client import fetch
from securellm.audit.ed25519 import find_openssl
from securellm.loading import LEFT_OUT

KEY = "footprint-test-caller-key"
MB = 1024 * 1024
# The bench holds 60 MB on one machine; other versions of Python and of the libraries are a little larger.
IDLE_AT_MOST_MB = 68
UNUSED = ("alembic", "httpx", "sqlalchemy.orm", "sqlalchemy.dialects.postgresql", *LEFT_OUT)
HOLDERS = {"flask", "hypercorn", "prometheus_client", "quart", "quart_trio", "sqlalchemy", "werkzeug"}
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}]}
# Run by the interpreter at its start, as it lies on its path: tells at the end what was imported.
TELLS = """
import atexit, json, sys

def tell():
    loading = sys.modules.get("securellm.loading")
    if loading is None:
        return
    kinds = loading.StandIn, loading._Late
    holders = {
        name.partition(".")[0]
        for name, module in list(sys.modules.items())
        for value in list(getattr(module, "__dict__", {}).values())
        if type(value) is kinds[0] or isinstance(value, type) and issubclass(value, kinds[1])
    }
    with open(%r, "w") as file:
        json.dump({"modules": sorted(sys.modules), "holders": sorted(holders - {"securellm"})}, file)

atexit.register(tell)
"""


@pytest.mark.slow
@pytest.mark.compiled
async def test_a_gateway_has_what_it_needs(provider: FakeProvider, tmp_path: Path) -> None:
    """After every kind of request nothing that was left out has come in, and what is idle is small."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(TELLS % str(tmp_path / "told.json"))
    found = importlib.util.find_spec("securellm")
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).parents[1]
    environ = {
        "VLLM_ENABLED": "true",
        "VLLM_BASE_URL": provider.base_url,
        "API_KEYS": KEY,
        "PYTHONPATH": f"{tmp_path / 'path'}:{source}",
    }
    auth = {"authorization": f"Bearer {KEY}"}
    provider.default = script.answer(200, ANSWER)
    body = json.dumps({"model": "vllm/m", "messages": [{"role": "user", "content": "hello"}]}).encode()
    with trio.fail_after(90):
        async with open_process(tmp_path, environ, "--lane", "express") as process:
            idle_bytes = process.resident_bytes
            answered = [(await fetch(process.base_url, "POST", "/v1/chat/completions", body, auth)).status]
            for path in ("/v1/models", "/docs", "/openapi.json", "/nowhere", "/api/metrics", "/api/health"):
                answered.append((await fetch(process.base_url, "GET", path, b"", auth)).status)
            assert answered[:5] == [200, 200, 200, 200, 404]
            assert not any(status >= 500 for status in answered)
            assert await process.stop() == 0
    told = json.loads((tmp_path / "told.json").read_text())
    unused = UNUSED if find_openssl() is None else (*UNUSED, "cryptography")
    assert [name for name in told["modules"] if name in unused] == []
    assert set(told["holders"]) <= HOLDERS
    assert idle_bytes < IDLE_AT_MOST_MB * MB, f"{idle_bytes / MB:.1f} MB are resident"


@pytest.mark.compiled
def test_a_supervisor_has_no_event_loop() -> None:
    """What `serve` does before it forks its workers imports neither Trio nor SQLAlchemy, also when a lane is named."""
    program = (
        "import sys\n"
        "from securellm.cli.serve import check_lane\n"
        "from securellm.workers.supervisor import Supervisor\n"
        "check_lane('express')\n"
        "print([name for name in ('trio', 'sqlalchemy', 'quart', 'ssl') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
