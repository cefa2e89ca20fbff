"""Audit logs for tests: settings, records, and a reader of the chain that shares no code with the product."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from securellm.audit.keys import SigningKey
from securellm.audit.log import AuditSettings
from securellm.audit.record import Record, timestamp
from securellm.audit.verify import parse_key, verify_directory

KEY = SigningKey(bytes(range(32)))
START_US = 1_795_000_000_000_000  # 2026-11-18T11:06:40Z
US_PER_S = 1_000_000


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now_us: int = START_US) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        return self.now_us


class Running:
    """A clock on which every look takes a millisecond."""

    def __init__(self, now_us: int = START_US) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        self.now_us += 1000
        return self.now_us


def settings(directory: Path, **changes: Any) -> AuditSettings:
    return AuditSettings(**{"directory": directory, "key": KEY, "commit_timeout_s": 10.0, **changes})


def intent(request_id: str, now_us: int = START_US, **fields: Any) -> Record:
    return Record(timestamp(now_us), "request_received", request_id=request_id, **fields)


def sent(request_id: str, now_us: int = START_US, **fields: Any) -> Record:
    return Record(timestamp(now_us), "response_sent", request_id=request_id, status="success", **fields)


def event(action: str, now_us: int = START_US, **fields: Any) -> Record:
    return Record(timestamp(now_us), "security_event", action=action, **fields)


def log_files(directory: Path, slot: int = 1) -> list[Path]:
    """The slot's logs, oldest first."""
    ending = ".log" if slot == 1 else f".w{slot}.log"
    paths = [path for path in directory.iterdir() if path.name.endswith(ending)]
    return sorted(path for path in paths if slot > 1 or path.name.count(".") == 2)


def read_chain(directory: Path, slot: int = 1) -> list[dict[str, Any]]:
    """Every record of a slot. Raises AssertionError when they are not one dense chain from the first file on."""
    records: list[dict[str, Any]] = []
    prev, seq = "0" * 64, 0
    for path in log_files(directory, slot):
        data = path.read_bytes()
        assert data.endswith(b"\n") or not data, f"{path.name} does not end with a line"
        for line in data.split(b"\n")[:-1]:
            try:
                record = json.loads(line.decode())
            except ValueError as exc:
                raise AssertionError(f"{path.name}: no JSON: {line[:80]!r}") from exc
            if not records:
                prev, seq = record["prev"], record["seq"] - 1
            assert (record["seq"], record["prev"], record["slot"]) == (seq + 1, prev, slot), f"{path.name}: {line!r}"
            prev, seq = hashlib.sha256(line).hexdigest(), record["seq"]
            records.append(record)
    return records


def problems(directory: Path, *, every: bool = False) -> list[str]:
    """What the verifier that auditors are handed finds wrong."""
    report = verify_directory(str(directory), [parse_key(KEY.encode_public_key())], every=every)
    return [f"{problem.file}:{problem.line}: {problem.what}" for problem in report.problems]


def closings(records: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Request id -> the statuses of its closing records, for every request that has an intent."""
    found: dict[str, list[str]] = {r["request_id"]: [] for r in records if r["event_type"] == "request_received"}
    for record in records:
        if record["event_type"] in ("response_sent", "request_failed"):
            found[record["request_id"]].append(record["status"])
    return found


def actions(records: list[dict[str, Any]]) -> list[str]:
    """What the security events say, in order."""
    return [record["action"] for record in records if record["event_type"] == "security_event"]


def put_image(image: dict[Path, bytes], directory: Path) -> None:
    """Lay files out as a crash left them."""
    directory.mkdir(mode=0o700)
    for path, content in image.items():
        (directory / path.name).write_bytes(content)


NowUs = Callable[[], int]
