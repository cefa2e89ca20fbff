"""The gateway as its operator runs it, told to stop while it streams (guarantee 21)."""

import signal
from pathlib import Path

import trio

from rig import doors, script, speech
from rig.fake_provider import FakeProvider
from rig.process import open_process
from rig.raw_client import open_client
from rig.toml import encode_toml

_STREAMS = 20


async def test_sigterm_lets_streams_finish(provider, tmp_path: Path):
    """Under SIGTERM open streams come to their end, new connections are refused, and the process ends with 0."""
    go = trio.Event()
    events = speech.CHAT.events(("Hel", "lo"))
    provider.default = [
        script.stream_head(),
        script.chunk(events[0] + events[1]),
        script.until(go),
        *script.stream(events[2:])[1:],
    ]
    finished: list[bytes] = []
    with trio.fail_after(90):
        async with open_process(tmp_path, _environ(tmp_path, provider)) as gateway:
            begun = [trio.Event() for _ in range(_STREAMS)]

            async def stream(number: int) -> None:
                async with open_client(gateway.base_url) as client:
                    body = doors.CHAT.body("openai/m1", stream=True)
                    await client.request("POST", doors.CHAT.path, body, doors.CHAT.auth())
                    assert (await client.read_head()).status == 200
                    seen = await client.read_until(b"Hel")
                    begun[number].set()
                    finished.append(seen + await client.read_body())

            async with trio.open_nursery() as nursery:
                for number in range(_STREAMS):
                    nursery.start_soon(stream, number)
                for event in begun:
                    await event.wait()
                gateway.process.send_signal(signal.SIGTERM)
                while await _accepts(gateway.base_url):
                    await trio.lowlevel.checkpoint()
                go.set()
            assert await gateway.process.wait() == 0, gateway.stderr.decode()
    assert len(finished) == _STREAMS
    for body in finished:
        assert doors.CHAT.text_of_stream is not None
        assert doors.CHAT.text_of_stream(body) == "Hello"
        assert body.endswith(b"data: [DONE]\n\n")


async def test_sigterm_ends_streams_that_take_too_long(provider, tmp_path: Path):
    """When the drain's time is over a stream gets its error event, upstream is closed, the process ends with 0."""
    events = speech.CHAT.events(("Hello",))
    provider.default = [script.stream_head(), script.chunk(events[0] + events[1]), script.never()]
    with trio.fail_after(90):
        async with open_process(tmp_path, _environ(tmp_path, provider, drain={"term_s": 0.5})) as gateway:
            async with open_client(gateway.base_url) as client:
                body = doors.CHAT.body("openai/m1", stream=True)
                await client.request("POST", doors.CHAT.path, body, doors.CHAT.auth())
                await client.read_head()
                seen = await client.read_until(b"Hello")
                gateway.process.send_signal(signal.SIGTERM)
                seen += await client.read_eof()
                assert b"shutting_down" in seen
                assert b"[DONE]" not in seen
                await provider.asked[0].connection.closed.wait()
            assert await gateway.process.wait() == 0, gateway.stderr.decode()


def _environ(folder: Path, provider: FakeProvider, **settings: object) -> dict[str, str]:
    sections = {
        "providers": {"openai": {"enabled": True, "api_key": "env:OPENAI_KEY", "base_url": provider.base_url}},
        "models": {"openai/*": {"free": True}},
    }
    (folder / "config.toml").write_text(encode_toml({**sections, **settings}))
    return {"CONFIG_PATH": str(folder / "config.toml"), "OPENAI_KEY": "sk-x", "API_KEYS": doors.KEY}


async def _accepts(base_url: str) -> bool:
    try:
        async with open_client(base_url):
            return True
    except OSError:
        return False
