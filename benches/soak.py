"""Load of every kind on one gateway for minutes or hours, and what is left: scripts/soak [--minutes M] [--lane LANE].

Between segments of load everything rests and is counted: memory, descriptors, threads. At the end every slot must be
free again, every request must have its one pair of records, nothing may be reserved, and the chain must verify.
`--short` is about twenty seconds of it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from soak_load import BODY_AT_MOST_BYTES, STALL_S, Caller, Ledger, choose_script

from rig.audit_log import log_files
from rig.books import verify
from rig.doors import CHAT, KEY
from rig.fake_provider import FakeProvider, open_fake_provider
from rig.process import Process, open_process
from rig.raw_client import RawClient, fetch, open_client
from securellm.audit.verify import describe

CALLERS = 24
SLOTS = 2 * CALLERS  # what one key may do at one time: a slot that leaks is missing in the end
SEGMENTS = 8
WARM_SHARE = 0.2  # of the time, before anything is compared
SHORT_MINUTES = 0.2
SHORT_SEGMENTS = 2
REST_S = 2.0
SETTLED_S = 20.0
SILENCE_S = 5.0  # of a provider, until the gateway gives up: long enough for a provider that shares a busy machine
GROWTH = 1.10
MORE_DESCRIPTORS = 4
MORE_THREADS = 4

CONFIG = """
[server]
max_request_size_bytes = {body}
body_idle_timeout_s = {stall}
write_stall_timeout_s = {stall}
[providers.compat]
kind = "openai-compatible"
base_url = "{url}/v1"
max_retries = 1
[providers.compat.circuit_breaker]
failure_threshold = 1_000_000_000
[providers.claude]
kind = "anthropic"
base_url = "{url}"
api_key = "env:CLAUDE_KEY"
[models."compat/*"]
input_usd_per_mtok = 3
output_usd_per_mtok = 15
[models."claude/*"]
input_usd_per_mtok = 3
output_usd_per_mtok = 15
[timeouts]
first_token_s = {silence}
idle_s = {silence}
[rate_limit]
claude_rpm = 0
[rate_limit.per_key]
rpm = 1_000_000_000
burst = 1_000_000
concurrent = {slots}
[budgets.per_key]
usd = 1_000_000
[telemetry]
metrics_public = true
log_level = "error"
"""


@dataclass(frozen=True)
class Sample:
    """The gateway at rest."""

    requests: int
    resident_mb: float
    descriptors: int  # without those to the provider, which are kept for the next request
    threads: int

    def row(self) -> dict[str, Any]:
        return {**self.__dict__, "resident_mb": round(self.resident_mb, 1)}


async def soak(folder: Path, minutes: float, segments: int, lane: str) -> list[str]:
    """Run it; returns what is wrong."""
    ledger = Ledger()
    wrong: list[str] = []
    async with open_fake_provider(["good"]) as provider:
        provider.choose = choose_script
        settings = {
            "body": BODY_AT_MOST_BYTES,
            "stall": STALL_S,
            "silence": SILENCE_S,
            "slots": SLOTS,
            "url": provider.base_url,
        }
        config = folder / "config.toml"
        config.write_text(CONFIG.format(**settings))
        environ = {"CONFIG_PATH": str(config), "API_KEYS": KEY, "CLAUDE_KEY": "sk-fake"}
        async with open_process(folder, environ, "--lane", lane) as gateway:
            seconds = minutes * 60
            await _load(gateway, ledger, seconds * WARM_SHARE, 0)
            samples = [await _sample(gateway, provider, ledger)]
            for number in range(segments):
                await _load(gateway, ledger, seconds * (1 - WARM_SHARE) / segments, 1 + number)
                samples.append(await _sample(gateway, provider, ledger))
            wrong += _growth(samples)
            wrong += await _slots(gateway)
            wrong += await _metrics(gateway)
            wrong += await trio.to_thread.run_sync(_reserved, folder, environ)
            _print([{"after": "warm-up" if not number else f"segment {number}", **sample.row()} for number, sample in
                    enumerate(samples)])  # fmt: skip
            code = await gateway.stop()
            if code != 0:
                wrong.append(f"the gateway ended with {code}: {gateway.stderr[-2000:].decode(errors='replace')}")
    _print([{"what": f"{kind}: {how}", "times": times} for (kind, how), times in sorted(ledger.outcomes.items())])
    wrong += ledger.wrong
    wrong += _records(folder, ledger)
    print("\n".join(describe(verify(folder))))
    return wrong


async def _load(gateway: Process, ledger: Ledger, seconds: float, seed: int) -> None:
    until_s = trio.current_time() + seconds
    async with trio.open_nursery() as nursery:
        for number in range(CALLERS):
            nursery.start_soon(Caller(gateway.base_url, ledger, seed * CALLERS + number).run, until_s)


async def _sample(gateway: Process, provider: FakeProvider, ledger: Ledger) -> Sample:
    await trio.sleep(REST_S)
    provider.requests.clear()
    provider.connections[:] = provider.open_connections
    home = Path(f"/proc/{gateway.process.pid}")
    return Sample(
        ledger.outcomes.total(),
        gateway.resident_bytes / 1e6,
        len([*(home / "fd").iterdir()]) - len(provider.open_connections),
        len([*(home / "task").iterdir()]),
    )


def _growth(samples: list[Sample]) -> list[str]:
    first, last = samples[0], samples[-1]
    found = []
    if last.resident_mb > first.resident_mb * GROWTH:
        found.append(f"memory grew from {first.resident_mb:.1f} to {last.resident_mb:.1f} MB")
    if last.descriptors > first.descriptors + MORE_DESCRIPTORS:
        found.append(f"descriptors grew from {first.descriptors} to {last.descriptors}")
    if last.threads > first.threads + MORE_THREADS:
        found.append(f"threads grew from {first.threads} to {last.threads}")
    return found


async def _slots(gateway: Process) -> list[str]:
    """Every slot that the key has can be taken, and no more: none is lost, none was made."""
    body = CHAT.body("compat/hanging", stream=True, max_tokens=100)
    statuses: Counter[int] = Counter()
    full = trio.Event()
    over = 0

    async def hold(client: RawClient) -> None:
        await client.request("POST", CHAT.path, body, CHAT.auth())
        statuses[(await client.read_head()).status] += 1
        if statuses.total() == SLOTS:
            full.set()
        await trio.sleep_forever()

    async def hold_one(nursery: trio.Nursery) -> None:
        async with open_client(gateway.base_url) as client:
            await hold(client)

    async with trio.open_nursery() as nursery:
        for _ in range(SLOTS):
            nursery.start_soon(hold_one, nursery)
        with trio.move_on_after(SETTLED_S):
            await full.wait()
            over = (await fetch(gateway.base_url, "POST", CHAT.path, body, CHAT.auth())).status
        nursery.cancel_scope.cancel()
    if statuses != Counter({200: SLOTS}) or over != 429:
        return [f"of {SLOTS} slots: {dict(statuses)}, and one more: {over}"]
    return []


async def _metrics(gateway: Process) -> list[str]:
    """No record was lost, no settlement failed."""
    text = (await fetch(gateway.base_url, "GET", "/api/metrics")).body.decode()
    zero = ("securellm_audit_lost_records", "securellm_bookkeeper_failures_total")
    lines = [line.split() for line in text.splitlines()]
    return [" ".join(line) for line in lines if line and line[0].startswith(zero) and float(line[-1]) != 0]


def _reserved(folder: Path, environ: dict[str, str]) -> list[str]:
    """Nothing is reserved of the key's budget when nothing is under way."""
    state = {"STATE_DIRECTORY": str(folder / "state"), "LOGS_DIRECTORY": str(folder / "log")}
    command = [sys.executable, "-m", "securellm", "budgets", "show", "key", "config01", "--json"]
    for _ in range(int(SETTLED_S)):
        done = subprocess.run(command, env=os.environ | state | environ, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return [f"budgets show: {done.stderr}"]
        (budget,) = json.loads(done.stdout)
        if float(budget["reserved_usd"]) == 0:
            return []
        trio.from_thread.run(trio.sleep, 1)
    return [f"still reserved: {budget}"]


def _records(folder: Path, ledger: Ledger) -> list[str]:
    """Each request has one intent and one end, whether its caller waited for it or not."""
    intents: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for path in log_files(folder / "log"):
        with path.open("rb") as file:
            for line in file:
                record = json.loads(line)
                if record["event_type"] == "request_received":
                    intents[record["request_id"]] += 1
                elif record["event_type"] in ("response_sent", "request_failed"):
                    ends[record["request_id"]] += 1
    found = [f"{name}: {intents[name]} intents, {ends[name]} ends" for name in intents | ends
             if (intents[name], ends[name]) != (1, 1)]  # fmt: skip
    missing = ledger.answered - intents.keys()
    print(f"{len(intents)} pairs of records for {len(ledger.answered)} good answers and what was not")
    return found[:10] + ([f"{len(missing)} good answers have no record"] if missing else [])


def _print(rows: list[dict[str, Any]]) -> None:
    columns = [*rows[0]]
    table = [columns, *([str(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[place]) for line in table) for place in range(len(columns))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long; 30 if not said")
    parser.add_argument("--lane", choices=["auto", "reference", "express"], default="auto")
    parser.add_argument("--short", action="store_true", help="some seconds, for a check")
    arguments = parser.parse_args()
    minutes, segments = (SHORT_MINUTES, SHORT_SEGMENTS) if arguments.short else (arguments.minutes, SEGMENTS)
    if not 0 < minutes <= 24 * 60:
        parser.error("a soak takes some minutes, at most a day's")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        wrong = trio.run(soak, Path(folder), minutes, segments, arguments.lane)
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
