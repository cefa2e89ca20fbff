"""Administration with several workers, as processes: one of them serves it, for all (guarantees 45 and 56)."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from rig import doors, script, speech
from rig.administration import Administrator
from rig.fake_provider import FakeProvider
from rig.process import open_process
from rig.raw_client import BodyCut, Response, fetch, open_client
from rig.toml import encode_toml

CHAT = doors.CHAT

pytestmark = pytest.mark.slow


def _settings(folder: Path, provider: FakeProvider) -> dict[str, str]:
    path = folder / "config.toml"
    openai = {"enabled": True, "base_url": provider.base_url, "api_key": "env:RIG_PROVIDER_KEY", "max_retries": 0}
    sections = {
        "server": {"host": "127.0.0.1", "workers": 2},
        "rate_limit": {"enabled": False},
        "models": {"openai/*": {"free": True}},
        "providers": {"openai": openai},
    }
    path.write_text(encode_toml(sections))
    return {"CONFIG_PATH": str(path), "RIG_PROVIDER_KEY": "sk-rig", "API_KEYS": doors.KEY, "OLLAMA_ENABLED": "false"}


def _make_admin(folder: Path, environ: dict[str, str]) -> str:
    """An administrator's key, made by the command."""
    path = {"PYTHONPATH": os.environ.get("PYTHONPATH", str(Path(__file__).resolve().parents[2] / "src"))}
    places = {
        "STATE_DIRECTORY": str(folder / "state"),
        "LOGS_DIRECTORY": str(folder / "log"),
        "PATH": os.environ["PATH"],
    }
    command = [sys.executable, "-m", "securellm", "keys", "create", "--role", "admin", "--json"]
    done = subprocess.run(command, env={**path, **places, **environ}, capture_output=True, check=True)
    return str(json.loads(done.stdout)["key"])


async def _ask(base_url: str, key: str) -> Response:
    """One request on a connection of its own, which any worker may accept."""
    return await fetch(base_url, "POST", CHAT.path, CHAT.body("openai/m1"), CHAT.auth(key))


async def test_one_worker_serves_administration_for_all(tmp_path: Path, provider: FakeProvider) -> None:
    """Requests of every worker are listed and ended, a change holds in all within 2 s, and a killed one is followed."""
    environ = _settings(tmp_path, provider)
    key = await trio.to_thread.run_sync(_make_admin, tmp_path, environ)
    admin = Administrator(tmp_path / "state" / "admin.sock", key)
    with trio.fail_after(90):
        async with open_process(tmp_path, environ) as gateway:
            workers = await _both(admin)
            assert [one["slot"] for one in workers] == [1, 2]
            assert len({one["pid"] for one in workers}) == 2

            await _requests_of_both_are_ended(gateway.base_url, admin, provider)
            await _a_key_comes_and_goes_everywhere(gateway.base_url, admin, provider)

            os.kill(workers[0]["pid"], signal.SIGKILL)
            followed = await _both(admin)
            assert followed[0]["pid"] != workers[0]["pid"]
            assert admin.path.lstat().st_mode & 0o777 == 0o600
            assert await gateway.stop() == 0
        assert not admin.path.exists()


async def test_administration_ends_last(tmp_path: Path, provider: FakeProvider) -> None:
    """While a stop waits for open requests they can be seen and ended, which ends the stop; then the socket is gone."""
    environ = _settings(tmp_path, provider)
    key = await trio.to_thread.run_sync(_make_admin, tmp_path, environ)
    admin = Administrator(tmp_path / "state" / "admin.sock", key)
    provider.default = (script.never(),)
    with trio.fail_after(60):
        async with (
            open_process(tmp_path, environ, "--workers", "1") as gateway,
            open_client(gateway.base_url) as client,
        ):
            await client.request("POST", CHAT.path, CHAT.body("openai/m1"), CHAT.auth())
            await provider.arrived()
            gateway.process.send_signal(signal.SIGINT)
            await _refuses(gateway.base_url)
            (listed,) = (await admin.do("GET", "/api/admin/requests"))["requests"]
            await admin.do("POST", f"/api/admin/requests/{listed['request_id']}/cancel")
            assert CHAT.error_of(await client.read_response())["code"] == "request_cancelled"
            assert await gateway.process.wait() == 0
    assert not admin.path.exists()


async def _refuses(base_url: str) -> None:
    """Return when the main port takes no more connections: the drain has begun."""
    while True:
        try:
            async with open_client(base_url):
                await trio.sleep(0.02)
        except OSError:
            return


async def _both(admin: Administrator) -> list[dict[str, Any]]:
    """The workers, once somebody listens at the socket and both are there."""
    while True:
        with contextlib.suppress(OSError, BodyCut, AssertionError):
            workers: list[dict[str, Any]] = (await admin.do("GET", "/api/admin/workers"))["workers"]
            if not any(one["error"] for one in workers):
                return workers
        await trio.sleep(0.05)


async def _requests_of_both_are_ended(base_url: str, admin: Administrator, provider: FakeProvider) -> None:
    """Enough connections that each worker has one, each with a request that hangs."""
    provider.default = (script.never(),)
    answers: list[Response] = []

    async def hang() -> None:
        async with open_client(base_url) as client:
            await client.request("POST", CHAT.path, CHAT.body("openai/m1"), CHAT.auth())
            answers.append(await client.read_response())

    async with trio.open_nursery() as nursery:
        for count in range(1, 17):
            nursery.start_soon(hang)
            await provider.arrived(count)
        busy = (await admin.do("GET", "/api/admin/workers"))["workers"]
        listed = await admin.do("GET", "/api/admin/requests")
        assert sum(one["open_requests"] for one in busy) == len(listed["requests"]) == 16
        assert all(one["open_requests"] for one in busy), "each worker has some"
        for one in listed["requests"]:
            await admin.do("POST", f"/api/admin/requests/{one['request_id']}/cancel")
    assert {CHAT.error_of(answer)["code"] for answer in answers} == {"request_cancelled"}


async def _a_key_comes_and_goes_everywhere(base_url: str, admin: Administrator, provider: FakeProvider) -> None:
    provider.default = tuple(script.answer(200, speech.CHAT.whole("Hello")))
    made = await admin.do("POST", "/api/admin/keys", {"name": "caller"})
    await trio.sleep(2)  # what is promised
    assert {(await _ask(base_url, made["key"])).status for _ in range(12)} == {200}
    await admin.do("DELETE", f"/api/admin/keys/{made['id']}")
    await trio.sleep(2)
    assert {(await _ask(base_url, made["key"])).status for _ in range(12)} == {401}
