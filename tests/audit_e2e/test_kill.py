"""kill -9 at any moment under load: no request that was answered is ever without its record (3; issue: crash safety).

SECURELLM_TEST_SCALE times 200 kills of one installation. After each the next process takes the log over; at the end
the whole of it verifies.
"""

import os
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from rig import doors, script, speech
from rig.audit_log import actions, closings, read_chain
from rig.books import verify
from rig.fake_provider import FakeProvider, Received
from rig.gateway import PROVIDER_KEY, make_config
from rig.process import Process, open_process
from rig.raw_client import BodyCut, open_client
from rig.speech import MODEL

_CHAT = doors.CHAT
KILLS = max(4, round(200 * float(os.environ.get("SECURELLM_TEST_SCALE", "1.0"))))
CALLERS = 6


class Callers:
    """Callers who ask all the time; they remember what was answered to the last byte."""

    def __init__(self) -> None:
        self.answered: set[str] = set()
        self.begun = 0
        self._enough = trio.Event()
        self._wanted = 0

    async def until(self, count: int) -> None:
        """Wait until so many more answers are complete."""
        self._wanted = len(self.answered) + count
        self._enough = trio.Event()
        await self._enough.wait()

    async def ask_on(self, base_url: str, stream: bool) -> None:
        """Ask until the connection breaks."""
        async with open_client(base_url) as client:
            while True:
                self.begun += 1
                try:
                    body = _CHAT.body(f"openai/{MODEL}", stream=stream)
                    await client.request("POST", _CHAT.path, body, _CHAT.auth())
                    response = await client.read_response()
                except (BodyCut, OSError):
                    return
                terminal = not stream or _CHAT.terminal in response.body
                assert response.status == 200, response
                if terminal and (response.cut is None or stream):
                    name = response.header("x-request-id")
                    assert name is not None
                    self.answered.add(name)
                    if len(self.answered) >= self._wanted:
                        self._enough.set()
                if response.cut is not None:
                    return


@pytest.mark.slow
async def test_killed_at_any_moment(tmp_path: Path, provider: FakeProvider):
    """After every kill the log is taken over: what was answered has its one end, what was open is `interrupted`."""
    provider.choose = _answer
    make_config(tmp_path, {"openai": provider})
    environ = {
        "CONFIG_PATH": str(tmp_path / "config.toml"),
        "RIG_PROVIDER_KEY": PROVIDER_KEY,
        "API_KEYS": doors.KEY,
    }
    chance, callers = random.Random(9), Callers()
    for _ in range(KILLS):
        with trio.fail_after(60):
            if chance.random() < 0.2:
                with trio.move_on_after(chance.uniform(0.2, 1.5)):  # killed while it starts, or just has
                    async with open_process(tmp_path, environ):
                        await trio.sleep_forever()
            await _one_life(
                tmp_path, environ, callers, answers=chance.randrange(1, 20), pause_s=chance.uniform(0, 0.02)
            )
        verify(tmp_path, every=False)  # as the dead process left it
    with trio.fail_after(60):
        async with open_process(tmp_path, environ) as process:
            await process.stop()
    records = read_chain(tmp_path / "log")
    ends = closings(records)
    assert all(len(statuses) == 1 for statuses in ends.values()), "open, or ended twice"
    assert callers.answered <= set(ends)
    assert {ends[name][0] for name in callers.answered} == {"success"}
    interrupted = sum(statuses == ["interrupted"] for statuses in ends.values())
    assert interrupted > 0, "no kill came in the middle of a request"
    assert len(ends) <= callers.begun
    assert actions(records).count("writer_started") >= KILLS + 1
    report = verify(tmp_path)
    assert report.open_requests == 0
    asked = len(provider.asked)
    intents = sum(record["event_type"] == "request_received" for record in records)
    assert asked <= intents, "a provider was asked for a request that the log does not know"


async def _one_life(
    folder: Path, environ: Mapping[str, str], callers: Callers, *, answers: int, pause_s: float
) -> None:
    """Start, serve at least so many answers, and some time more; kill."""
    async with open_process(folder, environ) as process:
        async with trio.open_nursery() as nursery:
            for number in range(CALLERS):
                nursery.start_soon(callers.ask_on, process.base_url, number % 2 == 0)
            await callers.until(answers)
            await trio.sleep(pause_s)  # the moment is random, not awaited
            await _kill(process)


async def _kill(process: Process) -> None:
    process.process.kill()
    await process.process.wait()


def _answer(request: Received) -> script.Script:
    if request.json().get("stream"):
        return script.stream(speech.CHAT.events(("Hel", "lo")))
    return script.answer(200, speech.CHAT.whole("Hello"))
