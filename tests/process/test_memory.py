"""Large bodies (guarantee 47): what a picture in base64 costs in memory, and that the sum of bodies is bounded."""

import json
from pathlib import Path

import pytest
import trio

from rig import script
from rig.fake_provider import FakeProvider
from rig.process import open_process
from rig.raw_client import fetch

KEY = "memory-test-caller-key"
MIB = 1024 * 1024
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}]}


def picture(size_bytes: int) -> bytes:
    url = "data:image/png;base64," + "A" * (size_bytes - 400)
    part = {"type": "image_url", "image_url": {"url": url}}
    return json.dumps({"model": "vllm/m", "messages": [{"role": "user", "content": [part]}]}).encode()


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["reference", pytest.param("express", marks=pytest.mark.compiled)])
async def test_large_bodies(provider: FakeProvider, tmp_path: Path, lane: str):
    """33 MiB pass within 2.5 times their size, 35 MiB are a JSON 413, many at once stay under the budget."""
    environ = {
        "VLLM_ENABLED": "true",
        "VLLM_BASE_URL": provider.base_url,
        "API_KEYS": KEY,
    }
    auth = {"authorization": f"Bearer {KEY}"}
    config = tmp_path / "config.toml"
    config.write_text(f"[server]\nmax_in_flight_bytes = {150 * MIB}\n")
    provider.default = script.answer(200, ANSWER)
    with trio.fail_after(180):
        async with open_process(tmp_path, {**environ, "CONFIG_PATH": str(config)}, "--lane", lane) as process:
            await fetch(process.base_url, "POST", "/v1/chat/completions", picture(1000), auth)
            before_bytes = process.resident_bytes
            body = picture(33 * MIB)
            answer = await fetch(process.base_url, "POST", "/v1/chat/completions", body, auth)
            assert answer.status == 200
            assert provider.asked[-1].json()["messages"] == json.loads(body)["messages"]
            used_bytes = process.peak_bytes - before_bytes
            assert used_bytes < 2.5 * len(body), f"{used_bytes / len(body):.2f} times the body"
            too_large = await fetch(process.base_url, "POST", "/v1/chat/completions", picture(35 * MIB), auth)
            assert too_large.status == 413
            assert too_large.json()["error"]["code"] == "payload_too_large"
            assert str(34 * MIB) in too_large.json()["error"]["message"]
            statuses: list[int] = []

            async def ask() -> None:
                statuses.append(
                    (await fetch(process.base_url, "POST", "/v1/chat/completions", picture(30 * MIB), auth)).status
                )

            async with trio.open_nursery() as nursery:
                for _ in range(16):
                    nursery.start_soon(ask)
            assert set(statuses) <= {200, 429}
            assert statuses.count(200) >= 5
            used_bytes = process.peak_bytes - before_bytes
            assert used_bytes < 2.5 * 150 * MIB, f"{used_bytes / (150 * MIB):.2f} times the bodies"
