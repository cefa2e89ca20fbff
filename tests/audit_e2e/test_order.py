"""What is on disk before what is sent: shown from the order of a real process's own calls (design, property 1).

The process is watched by a preloaded library. At each send the files are taken as a machine that dies at that moment
would leave them, with what was synced and nothing else. Left without its syncs the gateway fails the same check.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from rig import doors, script, speech
from rig.audit_log import closings, read_chain
from rig.fake_provider import Received
from rig.faults import Faults, SyncedDisk, Told, compile_faults
from rig.gateway import PROVIDER_KEY, make_config
from rig.process import open_process
from rig.raw_client import open_client
from rig.speech import MODEL
from securellm.audit.keys import load_signing_key
from securellm.audit.verify import parse_key, verify_directory

_CHAT = doors.CHAT
_REQUESTS = 24
_IMAGES = 12  # crash points at which the whole log is verified, beside the check of each send
_TERMINAL = re.compile(rb"data: \[DONE\]|\r\n0\r\n\r\n")

pytestmark = pytest.mark.tool("cc")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_faults(tmp_path_factory.mktemp("faults"))


class NotOnDisk(AssertionError):
    """Something was sent before its record was on disk."""


def check_order(calls: Sequence[Told]) -> list[tuple[str, SyncedDisk]]:
    """Every send against what is on disk. Returns the answered requests, each with the disk at that moment.

    Raises NotOnDisk.
    """
    disk = SyncedDisk()
    answering: dict[int, tuple[str, bool]] = {}  # connection -> the request that is answered on it, and if streamed
    answered: list[tuple[str, SyncedDisk]] = []
    for call in calls:
        disk.take(call)
        if call.kind != "send":
            continue
        if asked := re.search(rb"\r\ntraceparent: (\S+)", call.data):
            _check(disk, b"request_received", asked[1], attempt=re.search(rb"x-securellm-attempt: (\d+)", call.data))
        head = re.search(rb"\r\nx-request-id: (\S+)", call.data)
        if head and b"\r\nx-securellm-provider: " in call.data:  # and not the answer to a probe
            answering[call.fd] = (head[1].decode(), b"text/event-stream" in call.data)
        if call.fd in answering:
            name, streamed = answering[call.fd]
            if not streamed or _TERMINAL.search(call.data):
                if not re.search(
                    rb'"event_type":"(response_sent|request_failed)","request_id":"%b"' % name.encode(), disk.records()
                ):
                    raise NotOnDisk(f"the end of {name} was sent first")
                del answering[call.fd]
                answered.append((name, disk.copy()))
    return answered


def _check(disk: SyncedDisk, kind: bytes, trace: bytes, attempt: re.Match[bytes] | None) -> None:
    number = int(attempt[1]) if attempt is not None else 1
    name = trace.split(b"-")[1]
    lines = [line for line in disk.records().split(b"\n") if b'"client_request_id":"%b"' % name in line]
    if not any(b'"event_type":"request_received"' in line for line in lines):
        raise NotOnDisk(f"a provider was asked before the intent of {name!r}")
    if number > 1 and not any(b'"attempt":%d' % number in line for line in lines):
        raise NotOnDisk(f"a provider was asked before the record of attempt {number} of {name!r}")


@pytest.mark.parametrize("lane", ["reference", pytest.param("express", marks=pytest.mark.compiled)])
@pytest.mark.parametrize("syncs", [True, False], ids=["synced", "without its syncs"])
async def test_records_are_on_disk_before_anything_leaves(
    library: Path, tmp_path: Path, provider, syncs: bool, lane: str
):
    """The intent before the provider is asked, each attempt before it is asked again, the end before the last bytes;
    at every such point a dying machine leaves a log that verifies and has every answer that was sent."""
    provider.choose = _answer
    faults = Faults(library, tmp_path)
    retries = {"max_retries": 2, "circuit_breaker": {"failure_threshold": 1000}}
    make_config(tmp_path, {"openai": provider}, providers={"openai": retries})
    environ = {
        **faults.environ(syncs=syncs),
        "CONFIG_PATH": str(tmp_path / "config.toml"),
        "RIG_PROVIDER_KEY": PROVIDER_KEY,
        "API_KEYS": doors.KEY,
    }
    with trio.fail_after(60):
        async with open_process(tmp_path, environ, "--lane", lane) as process:
            async with trio.open_nursery() as nursery:
                for number in range(_REQUESTS):
                    nursery.start_soon(_ask, process.base_url, number)
    if not syncs:
        with pytest.raises(NotOnDisk, match="before the intent"):
            check_order(faults.told())
        return
    answered = check_order(faults.told())
    assert len(answered) == _REQUESTS
    assert len(provider.asked) > _REQUESTS, "some were asked again"
    for number in range(0, _REQUESTS, _REQUESTS // _IMAGES):
        _verify_image([name for name, _ in answered[: number + 1]], answered[number][1], tmp_path, number)


def _verify_image(names: list[str], disk: SyncedDisk, folder: Path, number: int) -> None:
    directory = folder / f"image{number}"
    disk.lay_out(directory)
    key = load_signing_key(folder / "state", create=False).encode_public_key()
    report = verify_directory(str(directory), [parse_key(key)], every=True)
    assert report.good, report.problems
    ends = closings(read_chain(directory))
    assert all(len(ends[name]) == 1 for name in names)


def _answer(request: Received) -> script.Script:
    """Every third is refused once."""
    number = int(request.header("traceparent").split("-")[1], 16)
    if number % 3 == 0 and request.header("x-securellm-attempt") == "1":
        return script.answer(503, speech.CHAT.error(503), {"retry-after": "0"})
    if request.json().get("stream"):
        return script.stream(speech.CHAT.events(("Hel", "lo")))
    return script.answer(200, speech.CHAT.whole("Hello"))


async def _ask(base_url: str, number: int) -> None:
    name = f"{number + 1:032x}"
    headers = {**_CHAT.auth(), "traceparent": f"00-{name}-00000000000000aa-01", "x-request-id": name}
    async with open_client(base_url) as client:
        await client.request("POST", _CHAT.path, _CHAT.body(f"openai/{MODEL}", stream=number % 2 == 0), headers)
        assert (await client.read_response()).cut is None
