"""The loads of the product's bench, and what one party did under one of them."""

import json
import os
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from processes import Cores, busy_s
from product_parties import Mock, Party, flags

GRACE_S = 45  # what is in flight at the end of a load may take this long
SHORT_CONNECTIONS = 8
SYSTEM = {"role": "system", "content": "You are a concise assistant. Answer in plain text."}
QUESTION = {"role": "user", "content": "What differs between a mutex and a semaphore? Two sentences, please."}
LARGE_BYTES = 100_000
# JSON has to escape this and UTF-8 has to encode it, as in real prompts.
_PARAGRAPH = (
    'The gateway took a request at 12:03 and said "proceed"; the log shows 200 OK.\n'
    "\tPath: C:\\srv\\data — café, naïve, 東京. Totals: 1,204 tokens (38% cached).\n"
)


@dataclass(frozen=True)
class Row:
    """One load. CPU is told per `unit`; aim and least are ratios to nginx (S8: milliseconds beside two commits)."""

    name: str
    title: str
    mode: str  # closed, open, stream: the load generator's
    connections: int
    body: str
    unit: str
    aim: float
    least: float
    chunks: int | None = None
    interval_us: int = 0
    rate: int = 0  # requests a second of an open loop
    ramp_ms: int = 0

    def shortened(self) -> "Row":
        """The same load from few connections, for a check."""
        return replace(self, connections=min(self.connections, SHORT_CONNECTIONS), ramp_ms=0)


ROWS = (
    Row("S2", "JSON 300 B, 64 connections", "closed", 64, "small", "request", 3, 5),
    Row("S4", "burst of 100 chunks, 64 streams", "stream", 64, "stream", "chunk", 1.3, 2, chunks=100),
    Row(
        "S5", "200 streams, a chunk every 20 ms", "stream", 200, "stream", "chunk", 1.3, 2,
        chunks=50, interval_us=20_000, ramp_ms=1000,
    ),
    Row("S3", "100 KB prompt, 32 connections", "closed", 32, "large", "request", 2, 4),
    Row("S8", "JSON 300 B, 100 requests/s", "open", 64, "small", "request", 0.3, 1, rate=100),
)  # fmt: skip


def encode_body(kind: str, model: str) -> bytes:
    """A request of that kind: small (300 B), large (100 KB of prompt) or stream."""
    fields: dict[str, Any] = {"model": model, "temperature": 0.2, "max_tokens": 256}
    messages = [SYSTEM, QUESTION]
    if kind == "large":
        paragraph_bytes = len(json.dumps(_PARAGRAPH))
        messages = [SYSTEM, {"role": "user", "content": _PARAGRAPH * (LARGE_BYTES // paragraph_bytes)}]
    if kind == "stream":
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps({**fields, "messages": messages}, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Measured:
    """One party under one load for one round."""

    answers: int
    units: int
    cpu_s: float
    per_s: float
    latency_ms: tuple[float, float]  # median and 99th percentile: of an answer, or of a chunk from the mock's stamp
    first_ms: float | None  # median time to a stream's first chunk
    foreign: float  # cores that others kept busy meanwhile

    @property
    def cpu_us(self) -> float:
        """CPU microseconds for a unit."""
        return self.cpu_s / self.units * 1e6


class Loader:
    """Runs loads, and sees that every answer was whole and that the provider was asked once for each."""

    def __init__(self, program: Path, folder: Path, mock: Mock, cores: Cores) -> None:
        self._program = program
        self._folder = folder
        self._mock = mock
        self._cores = cores

    def measure(self, row: Row, party: Party, seconds: float) -> Measured:
        """Load the party. Raises AssertionError when an answer is missing or wrong."""
        self._mock.control(chunks=row.chunks or 0, interval_us=row.interval_us, delay_us=0, reset=1)
        cpu_before, own_before, busy_before = _cpu_s(party), _cpu_s(self._mock), busy_s()
        started = time.monotonic()
        found = self._run(row, party, seconds)
        wall_s = time.monotonic() - started
        cpu_s = _cpu_s(party) - cpu_before
        own_s = (_cpu_s(self._mock) - own_before if party is not self._mock else 0.0) + found["loadgen_cpu_s"]
        asked = self._mock.statistics()
        answers, chunks = found["done_all"], found["chunks_all"]
        party.tally.add(answers, row.chunks)
        if asked["requests"] != answers or asked["bad"]:
            raise AssertionError(f"{row.name}, {party.name}: {answers} answers, but the provider saw {asked}")
        if row.chunks is not None and chunks != answers * row.chunks:
            raise AssertionError(f"{row.name}, {party.name}: {chunks} chunks in {answers} streams of {row.chunks}")
        latency = found["chunk_us" if row.chunks is not None else "lat_us"]
        return Measured(
            answers=answers,
            units=chunks if row.unit == "chunk" else answers,
            cpu_s=cpu_s,
            per_s=found["chunks_per_s"] if row.unit == "chunk" else found["rps"],
            latency_ms=(latency["p50"] / 1000, latency["p99"] / 1000),
            first_ms=found["ttft_us"]["p50"] / 1000 if "ttft_us" in found else None,
            foreign=(busy_s() - busy_before - cpu_s - own_s) / wall_s,
        )

    def _run(self, row: Row, party: Party, seconds: float) -> dict[str, Any]:
        body = self._folder / f"{party.name}-{row.body}.json"
        if not body.exists():
            body.write_bytes(encode_body(row.body, party.model))
        options = {
            "m": row.mode,
            "c": row.connections,
            "d": seconds,
            "b": body,
            "u": f"http://127.0.0.1:{party.port}/v1/chat/completions",
            "g": GRACE_S,
            "R": row.ramp_ms,
            **({"n": row.chunks} if row.chunks is not None else {}),
            **({"r": row.rate} if row.rate else {}),
        }
        headers = [word for name, value in party.headers.items() for word in ("-H", f"{name}: {value}")]
        done = subprocess.run(
            [self._program, *flags(options), *headers],
            preexec_fn=lambda: os.sched_setaffinity(0, {self._cores.loading}),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + GRACE_S + 30,
        )
        try:
            found: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            raise AssertionError(f"{row.name}, {party.name}: {done.stdout[-500:]} {done.stderr[-500:]}") from None
        if done.returncode != 0 or any(found["errors"].values()):
            raise AssertionError(
                f"{row.name}, {party.name}: {found['errors']}, first: "
                f"{found.get('bad_status')} {found.get('bad_sample')}"
            )
        return found


def _cpu_s(party: Party) -> float:
    assert party.running is not None, f"{party.name} was not started"
    return party.running.cpu_s()
