"""The corpus' replay server as a process of its own, and the recordings themselves."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from rig.raw_client import fetch

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "corpus"
RAW = frozenset({"raw", "raw-ids-replaced", "raw-no-request"})
_STARTED_S = 30.0


@dataclass(frozen=True)
class Recording:
    """One recorded exchange with a provider."""

    id: str
    provider: str
    endpoint: str
    path: str
    status: int
    content_type: str | None
    fidelity: str
    features: frozenset[str]
    response_headers: dict[str, str]
    request: bytes
    response: bytes
    kind: str  # json, sse, ndjson, txt

    @property
    def streamed(self) -> bool:
        """Whether the answer is a stream."""
        return self.kind in {"sse", "ndjson"}

    @property
    def asked(self) -> dict[str, Any]:
        """The request as JSON."""
        value = json.loads(self.request)
        assert isinstance(value, dict)
        return value


def corpus_is_there() -> bool:
    """Whether the recordings can be read."""
    return (CORPUS / "INDEX.tsv").is_file()


def load_recordings(*endpoints: str) -> list[Recording]:
    """Every raw recording with a request at those endpoints, in order of id."""
    found = []
    for meta_path in sorted((CORPUS / "dev").glob("*/*/meta.json")):
        meta = json.loads(meta_path.read_text(encoding="utf-8"))
        if meta["endpoint"] in endpoints and meta["fidelity"] in RAW and meta["request_file"]:
            found.append(_read(meta, meta_path.parent))
    return found


class Replay:
    """The running replay server. `queue` says which recordings answer the next requests."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    async def queue(self, ids: Sequence[str]) -> None:
        """These recordings answer the next requests, in this order."""
        response = await fetch(self.base_url, "POST", "/__queue", json.dumps(list(ids)).encode())
        assert response.status == 200, response

    async def log(self) -> list[dict[str, Any]]:
        """What was asked since the last look."""
        entries = (await fetch(self.base_url, "GET", "/__log")).json()
        assert isinstance(entries, list)
        return entries


@contextlib.asynccontextmanager
async def open_replay(*, chunk: str = "event") -> AsyncIterator[Replay]:
    """Run the replay server while the block runs. `chunk` is event, line, whole or a number of bytes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(CORPUS / "replay_server.py"), "--corpus", str(CORPUS / "dev")]
    async with trio.open_nursery() as nursery:
        run = trio.run_process
        process = await nursery.start(
            lambda task_status: run(
                [*command, "--port", str(port), "--chunk", chunk],
                stdout=subprocess.DEVNULL,
                check=False,
                env={"PATH": os.environ.get("PATH", "")},
                task_status=task_status,
            )
        )
        with trio.fail_after(_STARTED_S):
            while not await _listens(port):
                assert process.returncode is None, "the replay server ended at start"
                await trio.sleep(0.05)
        yield Replay(f"http://127.0.0.1:{port}")
        process.terminate()


async def _listens(port: int) -> bool:
    with trio.socket.socket() as peer:
        try:
            await peer.connect(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _read(meta: dict[str, Any], folder: Path) -> Recording:
    return Recording(
        id=meta["id"],
        provider=meta["provider"],
        endpoint=meta["endpoint"],
        path=meta["path"],
        status=meta["status"],
        content_type=meta["content_type"],
        fidelity=meta["fidelity"],
        features=frozenset(meta["features"]),
        response_headers=meta["response_headers"],
        request=(folder / meta["request_file"]).read_bytes(),
        response=(folder / meta["response_file"]).read_bytes(),
        kind=meta["response_file"].rsplit(".", 1)[1],
    )
