"""A disk that refuses, is full or is slow, under a real process: nothing hangs, nothing is lost, nobody is asked.

The faults are preloaded (rig/faults.py), or real: a file system of 256 KiB of the process's own.
"""

import errno
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from rig import doors, script, speech
from rig.audit_log import read_chain
from rig.books import check_pairs, events, read_books, verify
from rig.fake_provider import FakeProvider
from rig.faults import Faults, compile_faults
from rig.gateway import PROVIDER_KEY, RunningGateway, make_config
from rig.process import Process, open_process
from rig.raw_client import Response, fetch, open_client
from rig.waiting import until_true
from securellm.audit.keys import load_signing_key
from securellm.audit.verify import parse_key, verify_directory

_CHAT = doors.CHAT
_MODEL = "openai/m1"
_GOOD = script.answer(200, speech.CHAT.whole("Hello"))
COMMIT_TIMEOUT_S = 0.5
HANGS_S = 1.5  # a disk that takes so long is beyond it


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_faults(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def faults(library: Path, tmp_path: Path) -> Faults:
    return Faults(library, tmp_path)


@asynccontextmanager
async def serve(
    folder: Path,
    provider: FakeProvider,
    faults: Faults | None = None,
    *wrapper: str,
    mode: str = "strict",
    awaits: str = "/readyz",
) -> AsyncIterator[Process]:
    """A process in front of the fake provider, stopped with the block."""
    audit = {"mode": mode, "commit_timeout_s": COMMIT_TIMEOUT_S}
    make_config(folder, {"openai": provider}, audit=audit, telemetry={"metrics_public": True})
    environ: Mapping[str, str] = {
        "CONFIG_PATH": str(folder / "config.toml"),
        "RIG_PROVIDER_KEY": PROVIDER_KEY,
        "API_KEYS": doors.KEY,
        **(faults.environ() if faults is not None else {}),
    }
    async with open_process(folder, environ, wrapper=wrapper, awaits=awaits) as process:
        yield process
        assert await process.stop() == 0, process.stderr.decode()


async def ask(process: Process, *, stream: bool = False) -> Response:
    body = _CHAT.body(_MODEL, stream=stream)
    return await fetch(process.base_url, "POST", _CHAT.path, body, _CHAT.auth())


async def serves_again(process: Process) -> None:
    """Ask until it is answered; nobody has told the gateway that the disk is back."""
    while (await ask(process)).status != 200:  # noqa: ASYNC110 - the gateway looks by itself, and announces nothing
        await trio.sleep(0.05)


async def health(process: Process) -> dict[str, Any]:
    return (await fetch(process.base_url, "GET", "/api/health", None, _CHAT.auth())).json()


async def metric(process: Process, name: str) -> float:
    text = (await fetch(process.base_url, "GET", "/metrics")).body.decode()
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    return float(found[1])


def check_refusal(response: Response) -> None:
    assert (response.status, _CHAT.error_of(response)["code"]) == (503, "audit_unavailable"), response
    assert response.header("retry-after") is not None


@pytest.mark.tool("cc")
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO], ids=lambda error: errno.errorcode[error])
async def test_a_disk_that_refuses(tmp_path: Path, provider, faults: Faults, error: int):
    """503 audit_unavailable and no provider is asked; probes answer, health says why; then it serves by itself."""
    provider.default = _GOOD
    with trio.fail_after(60):
        async with serve(tmp_path, provider, faults) as process:
            assert (await ask(process)).status == 200
            faults.fail(error)
            for _ in range(3):
                check_refusal(await ask(process))
            assert len(provider.asked) == 1
            assert (await fetch(process.base_url, "GET", "/livez")).status == 200
            assert (await fetch(process.base_url, "GET", "/readyz")).status in (200, 503)
            found = await health(process)
            assert (found["status"], found["audit"]["status"]) == ("unhealthy", "unhealthy")
            assert await metric(process, "securellm_audit_available") == 0
            faults.heal()
            await serves_again(process)
            assert (await health(process))["status"] == "healthy"
            assert await metric(process, "securellm_audit_available") == 1
    entries = check_pairs(read_chain(tmp_path / "log"))
    codes = [entry.closing.get("error_code") for entry in entries.values()]
    assert codes == [None, "audit_unavailable", None], "the one that was let in, and was then refused, has its pair"
    verify(tmp_path)


@pytest.mark.tool("cc")
async def test_starting_on_a_disk_that_is_full(tmp_path: Path, provider, faults: Faults):
    """The process starts, answers probes, refuses and asks nobody; when there is room it serves."""
    provider.default = _GOOD
    faults.fail(errno.ENOSPC)
    with trio.fail_after(60):
        async with serve(tmp_path, provider, faults, awaits="/livez") as process:
            check_refusal(await ask(process))
            assert (await health(process))["status"] == "unhealthy"
            assert not provider.asked
            faults.heal()
            await serves_again(process)
    assert len(check_pairs(read_chain(tmp_path / "log"))) == 1
    verify(tmp_path)


@pytest.mark.tool("cc")
@pytest.mark.parametrize("fault", ["fails", "hangs"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_an_outcome_that_is_not_durable_in_time(
    tmp_path: Path, provider, faults: Faults, stream: bool, fault: str
):
    """A stream ends in an error event in place of its terminal one, a whole answer becomes 503; the record of what
    the provider did is written when the disk returns."""
    reached, go = trio.Event(), trio.Event()
    events_ = speech.CHAT.events(("Hel", "lo"))
    opening = [*script.stream(events_[:2], ended=False)] if stream else []
    rest = [*[script.chunk(event) for event in events_[2:]], script.end_chunks()] if stream else _GOOD
    provider.enqueue(*opening, script.signal(reached), script.until(go), *rest)
    provider.default = _GOOD
    with trio.fail_after(60):
        async with serve(tmp_path, provider, faults) as process:
            async with open_client(process.base_url) as client:
                await client.request("POST", _CHAT.path, _CHAT.body(_MODEL, stream=stream), _CHAT.auth())
                await reached.wait()
                if fault == "fails":
                    faults.fail(errno.EIO)
                else:
                    faults.slow(HANGS_S)
                go.set()
                response = await client.read_response()
            if stream:
                assert response.status == 200
                assert _CHAT.terminal not in response.body
                assert _CHAT.error_event_of(response.body)["code"] == "audit_unavailable"
                assert response.cut is not None
            else:
                check_refusal(response)
            faults.heal()
            await serves_again(process)
    first, *_ = check_pairs(read_chain(tmp_path / "log")).values()
    assert first.closing["status"] == "success"
    assert first.closing["completion_tokens"] == speech.OUTPUT_TOKENS
    verify(tmp_path)


@pytest.mark.tool("cc")
@pytest.mark.parametrize("kind", ["write", "sync"])
async def test_every_call_may_fail_once(tmp_path: Path, provider, faults: Faults, kind: str):
    """Whichever write or sync fails, each request is answered or refused in time, the refused are asked of nobody or
    recorded, and no record is lost."""
    provider.choose = lambda request: (
        script.stream(speech.CHAT.events(("Hel", "lo"))) if request.json().get("stream") else _GOOD
    )
    refused = answered = 0
    with trio.fail_after(60):
        async with serve(tmp_path, provider, faults) as process:
            for number in range(1, 7):  # six commits, more than the requests make
                faults.fail_call(kind, number)
                for stream in (False, True, False):
                    response = await ask(process, stream=stream)
                    whole = response.status == 200 and response.cut is None
                    answered += whole
                    refused += not whole
                    assert whole or b"audit_unavailable" in response.body, response
                faults.heal()
                await serves_again(process)
                answered += 1
    entries = check_pairs(read_chain(tmp_path / "log"))
    succeeded = [entry for entry in entries.values() if entry.closing["status"] == "success"]
    assert len(succeeded) == len(provider.asked), "asked without a record, or recorded without being asked"
    assert answered <= len(succeeded) <= answered + refused
    assert refused > 0
    verify(tmp_path)


@pytest.mark.tool("cc")
async def test_a_slow_disk_delays_only_those_who_wait_for_it(tmp_path: Path, provider, faults: Faults):
    """Many requests share the slow commits, and the probes are not kept by them."""
    provider.default = _GOOD
    with trio.fail_after(60):
        async with serve(tmp_path, provider, faults) as process:
            faults.slow(COMMIT_TIMEOUT_S / 5)
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for _ in range(30):
                    nursery.start_soon(_ask_well, process)
                for _ in range(5):
                    probed = trio.current_time()
                    assert (await fetch(process.base_url, "GET", "/livez")).status == 200
                    assert trio.current_time() - probed < 1
            assert trio.current_time() - began < 30 * 2 * COMMIT_TIMEOUT_S / 5, "each waited for a commit of its own"
    assert len(check_pairs(read_chain(tmp_path / "log"))) == 30
    verify(tmp_path)


async def _ask_well(process: Process) -> None:
    assert (await ask(process)).status == 200


@pytest.mark.tool("cc")
async def test_relaxed_answers_without_its_disk(tmp_path: Path, provider, faults: Faults):
    """Relaxed: answers are complete, health and metrics say what waits; when the disk is back it is written."""
    provider.choose = lambda request: (
        script.stream(speech.CHAT.events(("Hel", "lo"))) if request.json().get("stream") else _GOOD
    )
    with trio.fail_after(60):
        async with serve(tmp_path, provider, faults, mode="relaxed") as process:
            faults.fail(errno.ENOSPC)
            for stream in (False, True, False, True):
                response = await ask(process, stream=stream)
                assert (response.status, response.cut) == (200, None)
                assert not stream or _CHAT.terminal in response.body
            found = await health(process)
            assert (found["status"], found["audit"]["status"]) == ("degraded", "unhealthy")
            assert (await fetch(process.base_url, "GET", "/readyz")).status == 200
            assert await metric(process, "securellm_audit_pending_records") >= 8
            faults.heal()
            while await metric(process, "securellm_audit_pending_records"):  # noqa: ASYNC110 - nothing announces it
                await trio.sleep(0.05)
            assert await metric(process, "securellm_audit_lost_records") == 0
    entries = check_pairs(read_chain(tmp_path / "log"))
    assert [entry.closing["status"] for entry in entries.values()] == ["success"] * 4
    verify(tmp_path)


async def test_relaxed_counts_what_it_cannot_keep(serving, provider):
    """Relaxed without room: the answer is complete, and health, metrics and the chain say how many records it cost."""
    provider.default = _GOOD
    with trio.fail_after(30):
        gateway: RunningGateway = await serving(provider, audit={"mode": "relaxed"}, telemetry={"metrics_public": True})
        ledger = gateway.runtime.ledger
        reserved = ledger.statistics().audit.reserved
        taken = [ledger.open_page() for _ in range(10_000 - reserved)]
        assert (await gateway.ask(_CHAT, _CHAT.body(_MODEL))).status == 200
        assert ledger.statistics().audit.gap == 2
        assert "securellm_audit_lost_records 2.0" in (await gateway.get("/metrics")).body.decode()
        assert (await gateway.get("/api/health")).json()["audit"]["error"], "nobody is told of the gap"
        await until_true(
            lambda: b'"gap"' in b"".join(path.read_bytes() for path in gateway.config.log_dir.glob("*.log"))
        )
        (gap,) = events(await read_books(gateway), "gap")
        assert (gap["count"], gap["detail"]["requests"]) == (2, 2)
    assert len(taken) + reserved == 10_000


@pytest.mark.tool("unshare")
async def test_a_file_system_that_is_full(tmp_path: Path, provider):
    """256 KiB: answered until it is full, refused then and nobody asked, probes answer; with room it serves again."""
    provider.default = _GOOD
    directory = tmp_path / "log"
    directory.mkdir(mode=0o700)
    as_root = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
    mount = 'mount -t tmpfs -o size=256k,mode=700 tmpfs "$0" && exec "$@"'
    with trio.fail_after(60):
        async with serve(tmp_path, provider, None, "unshare", *as_root, "sh", "-c", mount, str(directory)) as process:
            inside = Path(f"/proc/{process.process.pid}/root") / directory.relative_to("/")
            ballast = inside / "ballast"
            ballast.write_bytes(bytes(200 * 1024))
            answered = 0
            while (response := await ask(process)).status == 200:
                answered += 1
                assert answered < 1000, "it never fills up"
            check_refusal(response)
            asked = len(provider.asked)
            assert asked <= answered + 1
            for _ in range(3):
                check_refusal(await ask(process))
            assert len(provider.asked) == asked
            assert (await fetch(process.base_url, "GET", "/livez")).status == 200
            assert (await fetch(process.base_url, "GET", "/readyz")).status in (200, 503)
            ballast.unlink()
            await serves_again(process)
            entries = check_pairs(read_chain(inside))
            succeeded = [entry for entry in entries.values() if entry.closing["status"] == "success"]
            assert len(succeeded) == len(provider.asked) >= answered + 1
            key = load_signing_key(tmp_path / "state", create=False).encode_public_key()
            report = verify_directory(str(inside), [parse_key(key)], every=True)
            assert report.good, report.problems
