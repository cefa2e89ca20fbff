"""A log that nobody reads (guarantee 54)."""

import os
from pathlib import Path

import pytest
import trio

from rig import doors, script, speech
from rig.fake_provider import FakeProvider
from rig.process import open_process
from rig.raw_client import open_client
from rig.toml import encode_toml

_REQUESTS = 200


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
async def test_nobody_waits_for_whoever_reads_the_log(provider: FakeProvider, tmp_path: Path, workers: int) -> None:
    """Standard error is a full pipe, every request writes a line: all are answered, and SIGTERM still ends with 0."""
    provider.choose = lambda request: script.answer(200, speech.CHAT.whole("Hello"))
    sections = {
        "providers": {"openai": {"enabled": True, "api_key": "env:OPENAI_KEY", "base_url": provider.base_url}},
        "models": {"openai/*": {"free": True}},
        "rate_limit": {"openai_rpm": 0},
        "server": {"workers": workers},
        "telemetry": {"log_level": "debug"},
    }
    (tmp_path / "config.toml").write_text(encode_toml(sections))
    environ = {"CONFIG_PATH": str(tmp_path / "config.toml"), "OPENAI_KEY": "sk-x", "API_KEYS": doors.KEY}
    os.mkfifo(tmp_path / "log.pipe")
    unread = os.open(tmp_path / "log.pipe", os.O_RDWR)
    try:
        with trio.fail_after(120):
            wrapper = ["/bin/sh", "-c", 'exec "$@" 2>log.pipe', "sh"]
            async with open_process(tmp_path, environ, wrapper=wrapper) as gateway:
                async with open_client(gateway.base_url) as client:
                    for _ in range(_REQUESTS):
                        await client.request("POST", doors.CHAT.path, doors.CHAT.body("openai/m1"), doors.CHAT.auth())
                        assert (await client.read_response()).status == 200
                assert await gateway.stop() == 0
        os.set_blocking(unread, False)
        assert len(os.read(unread, 1 << 20)) > 50_000, "the pipe was not full"
    finally:
        os.close(unread)
