"""Several workers as their operator runs them, under load: killed, reloaded, drained; nothing is lost or counted twice.

Guarantees 3, 21, 42 and 44 for `serve --workers`.
"""

import os
import re
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from rig import doors, script, speech
from rig.audit_log import actions, closings, read_chain
from rig.books import verify
from rig.fake_provider import FakeProvider, Received
from rig.process import Process, open_process
from rig.raw_client import BodyCut, fetch, open_client
from rig.toml import encode_toml
from rig.waiting import until_true

WORKERS = 4
CALLERS = 12
_CHAT = doors.CHAT

pytestmark = pytest.mark.slow


class Callers:
    """Callers on a connection each, who ask all the time; a broken connection is made again."""

    def __init__(self, base_url: str) -> None:
        self.answered: dict[str, float] = {}  # request id -> when the answer was complete
        self.broken = 0
        self.stopping = False
        self._base_url = base_url

    async def ask_on(self, model: str = "openai/m1") -> None:
        """Ask until told to stop, the last answer included."""
        while not self.stopping:
            try:
                async with open_client(self._base_url) as client:
                    await self._ask(client, model)
            except (BodyCut, OSError, trio.BrokenResourceError, AssertionError) as error:
                if isinstance(error, AssertionError) and "status" in str(error):
                    raise
                self.broken += 1

    async def _ask(self, client: Any, model: str) -> None:
        while not self.stopping:
            await client.request("POST", _CHAT.path, _CHAT.body(model), _CHAT.auth())
            response = await client.read_response()
            if response.cut is not None:
                raise BodyCut(response.body, response.cut)
            if response.status != 200:
                raise AssertionError(f"status {response.status}: {response.body!r}")
            name = response.header("x-request-id")
            assert name is not None
            self.answered[name] = trio.current_time()


async def test_a_killed_worker_loses_no_record(
    provider: FakeProvider, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """kill -9 of worker after worker under load: each is replaced, whoever was answered is in the log once, exit 0."""
    provider.choose = _answer
    with trio.fail_after(120):
        async with open_process(tmp_path, _environ(tmp_path, provider)) as gateway:
            await _all_serve(gateway)
            callers = Callers(gateway.base_url)
            async with trio.open_nursery() as nursery:
                for _ in range(CALLERS):
                    nursery.start_soon(callers.ask_on)
                replaced_s = []
                for slot in (1, 2, 3, 4, 1):
                    wanted = len(callers.answered) + 100
                    await until_true(lambda wanted=wanted: len(callers.answered) >= wanted)
                    victim = (await _pids(gateway))[slot]
                    began_s = trio.current_time()
                    os.kill(victim, signal.SIGKILL)
                    while (await _pids(gateway)).get(slot, victim) == victim:  # noqa: ASYNC110 - another process
                        await trio.sleep(0.05)
                    replaced_s.append(round(trio.current_time() - began_s, 2))
                callers.stopping = True
            assert await gateway.stop() == 0, gateway.stderr.decode()
    record_property("replaced_s", replaced_s)
    record_property("answered", len(callers.answered))
    record_property("broken_connections", callers.broken)
    ends = _closings(tmp_path)
    assert all(len(statuses) == 1 for statuses in ends.values())
    assert {ends[name][0] for name in callers.answered} == {"success"}
    assert verify(tmp_path).open_requests == 0
    assert len(provider.asked) <= len(ends)
    assert callers.broken <= 5 * CALLERS


async def test_metrics_are_exact_through_a_kill(
    provider: FakeProvider, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """1,000 requests over four workers count as 1,000, whoever is asked; no scrape is less than one before it."""
    provider.choose = _answer
    telemetry = {"metrics_public": True}
    async with open_process(tmp_path, _environ(tmp_path, provider, telemetry=telemetry)) as gateway:
        with trio.fail_after(120):
            await _all_serve(gateway)
            seen: list[float] = []
            asked = 0

            async def ask(count: int) -> None:
                nonlocal asked
                async with open_client(gateway.base_url) as client:
                    for _ in range(count):
                        await client.request("POST", _CHAT.path, _CHAT.body("openai/m1"), _CHAT.auth())
                        assert (await client.read_response()).status == 200
                        asked += 1

            async def ask_a_thousand() -> None:
                async with trio.open_nursery() as nursery:
                    for _ in range(20):
                        nursery.start_soon(ask, 50)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask_a_thousand)
                while asked < 1000:
                    seen.append((await _scrape(gateway)).get("securellm_requests_total", 0.0))  # not before the first
                    await trio.sleep(0.02)
            for _ in range(8):  # by chance, every worker is asked
                seen.append((await _scrape(gateway))["securellm_requests_total"])
            assert seen[-8:] == [1000.0] * 8
            victim = (await _pids(gateway))[2]
            os.kill(victim, signal.SIGKILL)
            while (await _pids(gateway)).get(2, victim) == victim:
                seen.append((await _scrape(gateway))["securellm_requests_total"])
            await ask_a_thousand()
            last = await _scrape(gateway)
            seen.append(last["securellm_requests_total"])
    assert seen == sorted(seen)
    assert seen[-1] == 2000.0
    assert last["securellm_request_duration_seconds_count"] == 2000.0
    assert last["securellm_provider_requests_total"] == 2000.0
    assert last["securellm_token_usage_total"] == 2000.0 * (speech.INPUT_TOKENS + speech.OUTPUT_TOKENS)
    assert last["securellm_audit_available"] == 1.0
    record_property("scrapes", len(seen))


async def test_reload_under_load(
    provider: FakeProvider, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """SIGHUP: every worker takes the new configuration within a second, no request sees two, none fails."""
    provider.choose = _answer
    environ = _environ(tmp_path, provider, aliases={"fast": "openai/m1"})
    with trio.fail_after(120):
        async with open_process(tmp_path, environ) as gateway:
            before = await _all_serve(gateway)
            callers = Callers(gateway.base_url)
            async with trio.open_nursery() as nursery:
                for _ in range(CALLERS):
                    nursery.start_soon(callers.ask_on, "fast")
                took_s = []
                for number in range(5):
                    wanted = len(callers.answered) + 50
                    await until_true(lambda wanted=wanted: len(callers.answered) >= wanted)
                    _environ(tmp_path, provider, aliases={"fast": f"openai/m{number + 2}"})
                    began_s = trio.current_time()
                    gateway.process.send_signal(signal.SIGHUP)
                    epochs = before
                    while epochs == before or len(epochs) > 1:
                        epochs = await _epochs(gateway)
                    before = epochs
                    took_s.append(round(trio.current_time() - began_s, 3))
                wanted = len(callers.answered) + 50  # under the last one, too
                await until_true(lambda: len(callers.answered) >= wanted)
                callers.stopping = True
            assert callers.broken == 0
            assert await gateway.stop() == 0, gateway.stderr.decode()
    record_property("took_s", took_s)
    assert sorted(took_s)[len(took_s) // 2] < 1.0
    assert max(took_s) < 10.0  # the machine may have been busy otherwise
    models: dict[str, set[str]] = {}
    reloads: Counter[str] = Counter()
    for slot in range(1, WORKERS + 1):
        records = read_chain(tmp_path / "log", slot)
        reloads.update(actions(records))
        intents = {r["request_id"]: r for r in records if r["event_type"] == "request_received"}
        for record in records:
            if record["event_type"] == "response_sent":
                intent = intents[record["request_id"]]
                assert intent["epoch"] == record["epoch"]
                assert intent["model"] == record["model"]
                models.setdefault(record["epoch"], set()).add(record["model"])
    assert len(models) == 6
    assert all(len(answered) == 1 for answered in models.values()), "requests of one epoch were answered by two models"
    assert reloads["config_reloaded"] == 5 * WORKERS
    assert reloads["config_reload_refused"] == 0


async def test_a_refused_reload_changes_nothing(provider: FakeProvider, tmp_path: Path) -> None:
    """A file with a mistake, one that needs a restart: the old configuration goes on, told once in log and chain."""
    provider.choose = _answer
    environ = _environ(tmp_path, provider, aliases={"fast": "openai/m1"})
    with trio.fail_after(120):
        async with open_process(tmp_path, environ) as gateway:
            before = await _all_serve(gateway)
            (tmp_path / "config.toml").write_text("[serber]\n")
            gateway.process.send_signal(signal.SIGHUP)
            await until_true(lambda: gateway.stderr.count(b"not reloaded") == 1)
            _environ(tmp_path, provider, aliases={"fast": "openai/m1"}, server={"workers": 2})
            gateway.process.send_signal(signal.SIGHUP)
            await until_true(lambda: gateway.stderr.count(b"not reloaded") == 2)
            assert await _epochs(gateway) == before
            answer = await fetch(gateway.base_url, "POST", _CHAT.path, _CHAT.body("fast"), _CHAT.auth())
            assert answer.status == 200
            assert await gateway.stop() == 0
    log = gateway.stderr.decode()
    assert "serber" in log
    assert "a restart is needed to change server.workers" in log
    refusals = [actions(read_chain(tmp_path / "log", slot)).count("config_reload_refused") for slot in range(1, 5)]
    assert refusals == [2, 0, 0, 0]


async def test_sigterm_lets_the_streams_of_all_workers_finish(provider: FakeProvider, tmp_path: Path) -> None:
    """Streams in every worker come to their end under SIGTERM to the whole group, as systemd sends it; exit code 0."""
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
            await _all_serve(gateway)
            pids = (await _pids(gateway)).values()
            begun = [trio.Event() for _ in range(20)]

            async def stream(number: int) -> None:
                async with open_client(gateway.base_url) as client:
                    body = _CHAT.body("openai/m1", stream=True)
                    await client.request("POST", _CHAT.path, body, _CHAT.auth())
                    assert (await client.read_head()).status == 200
                    seen = await client.read_until(b"Hel")
                    begun[number].set()
                    finished.append(seen + await client.read_body())

            async with trio.open_nursery() as nursery:
                for number in range(len(begun)):
                    nursery.start_soon(stream, number)
                for event in begun:
                    await event.wait()
                for pid in (gateway.process.pid, *pids):
                    os.kill(pid, signal.SIGTERM)
                while await _accepts(gateway.port):  # noqa: ASYNC110 - another process
                    await trio.sleep(0.01)
                go.set()
            assert await gateway.process.wait() == 0, gateway.stderr.decode()
    assert len(finished) == len(begun)
    assert all(body.endswith(b"data: [DONE]\n\n") for body in finished)


async def test_the_port_is_free_when_the_supervisor_is_killed(provider: FakeProvider, tmp_path: Path) -> None:
    """kill -9 of the supervisor ends the workers; the same command starts again at once and seals what was open."""
    provider.default = [script.never()]
    environ = _environ(tmp_path, provider)
    with trio.fail_after(120):
        async with open_process(tmp_path, environ) as gateway:
            await _all_serve(gateway)
            pids = (await _pids(gateway)).values()
            async with open_client(gateway.base_url) as client:
                await client.request("POST", _CHAT.path, _CHAT.body("openai/m1"), _CHAT.auth())
                await until_true(lambda: len(provider.asked) == 1)
                gateway.process.kill()
                await gateway.process.wait()
                assert await client.read_eof() == b""
            await until_true(lambda: not any(Path(f"/proc/{pid}/stat").exists() for pid in pids))
            with socket.create_server(("127.0.0.1", gateway.port)):
                pass
        async with open_process(tmp_path, environ) as gateway:
            await _all_serve(gateway)
            assert await gateway.stop() == 0
    assert sorted(_closings(tmp_path).values()) == [["interrupted"]]
    assert verify(tmp_path).open_requests == 0


async def test_what_a_worker_cannot_open_is_told_once(provider: FakeProvider, tmp_path: Path) -> None:
    """A second gateway on the same state directory: one error, exit code 1, and the first one is left alone."""
    environ = _environ(tmp_path, provider)
    with trio.fail_after(120):
        async with open_process(tmp_path, environ) as gateway:
            await _all_serve(gateway)
            for workers, why in (("4", "another gateway with several workers"), ("1", "slot 1 of the audit log")):
                code, log = await _refused(tmp_path, environ, workers)
                assert code == 1
                assert why in log
                assert log.count("Error:") == 1
            assert (await fetch(gateway.base_url, "GET", "/readyz")).status == 200
            assert await gateway.stop() == 0


async def test_start_and_size(
    provider: FakeProvider, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The supervisor stays small and prints the banner once; how long the start takes is measured."""
    began_s = trio.current_time()
    with trio.fail_after(60):
        async with open_process(tmp_path, _environ(tmp_path, provider)) as gateway:
            record_property("first_ready_s", round(trio.current_time() - began_s, 2))
            await _all_serve(gateway)
            record_property("all_ready_s", round(trio.current_time() - began_s, 2))
            pids = (await _pids(gateway)).values()
            sizes = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 // 2**20 for pid in pids]
            record_property("workers_mib", sizes)
            record_property("supervisor_mib", gateway.resident_bytes // 2**20)
            assert gateway.resident_bytes < min(sizes) * 2**20 / 2
            assert await gateway.stop() == 0
    assert gateway.stdout.count(b"SecureLLM Bridge") == 1
    assert gateway.stderr.count(b"all 4 workers serve") == 1


def _environ(folder: Path, provider: FakeProvider, **settings: Any) -> dict[str, str]:
    sections: dict[str, Any] = {
        "providers": {"openai": {"enabled": True, "api_key": "env:OPENAI_KEY", "base_url": provider.base_url}},
        "models": {"openai/*": {"free": True}},
        "rate_limit": {"openai_rpm": 0},
        "server": {"workers": WORKERS},
    }
    (folder / "config.toml").write_text(encode_toml({**sections, **settings}))
    return {"CONFIG_PATH": str(folder / "config.toml"), "OPENAI_KEY": "sk-x", "API_KEYS": doors.KEY}


async def _refused(folder: Path, environ: Mapping[str, str], workers: str) -> tuple[int, str]:
    """Start another one beside it; its exit code and what it said."""
    places = {"STATE_DIRECTORY": str(folder / "state"), "LOGS_DIRECTORY": str(folder / "log")}
    ours = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "HOME")}
    done = await trio.run_process(
        [sys.executable, "-m", "securellm", "serve", "--port", "0", "--workers", workers],
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "src"), **ours, **places, **environ},
        check=False,
        capture_stderr=True,
        capture_stdout=True,
    )
    return done.returncode, done.stderr.decode()


def _answer(request: Received) -> script.Script:
    return script.answer(200, speech.CHAT.whole("Hello"))


async def _health(gateway: Process) -> Mapping[str, Any]:
    health: Mapping[str, Any] = (await fetch(gateway.base_url, "GET", "/api/health", None, _CHAT.auth())).json()
    return health


async def _workers(gateway: Process) -> list[Mapping[str, Any]]:
    while True:
        try:
            workers: list[Mapping[str, Any]] = (await _health(gateway))["workers"]
            return workers
        except (OSError, BodyCut, ValueError, AssertionError):
            continue  # it was the one that has just been killed who accepted us


async def _pids(gateway: Process) -> dict[int, int]:
    """Slot -> process, of the workers that answer."""
    return {worker["slot"]: worker["pid"] for worker in await _workers(gateway) if worker["pid"] is not None}


async def _epochs(gateway: Process) -> set[str]:
    return {worker["config_epoch"] for worker in await _workers(gateway)}


async def _all_serve(gateway: Process) -> set[str]:
    """Wait until all do; the epoch that they have."""
    await until_true(lambda: b"all 4 workers serve" in gateway.stderr)
    return await _epochs(gateway)


async def _scrape(gateway: Process) -> dict[str, float]:
    """Metric -> the sum over its series."""
    text = (await fetch(gateway.base_url, "GET", "/metrics")).body.decode()
    found: dict[str, float] = {}
    for name, value in re.findall(r"^(\w+)(?:{[^}]*})? (\S+)$", text, re.MULTILINE):
        found[name] = found.get(name, 0.0) + float(value)
    return found


def _closings(folder: Path) -> dict[str, list[str]]:
    ends: dict[str, list[str]] = {}
    for slot in range(1, WORKERS + 1):
        ends |= closings(read_chain(folder / "log", slot))
    return ends


async def _accepts(port: int) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True
