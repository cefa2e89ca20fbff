"""What the audit log costs: durable records a second, how long a record takes to be durable, CPU for both records.

Beside it, in the same run and on the same disk, a bare loop of write and fdatasync. A request here is what the gateway
asks of the log: room, the intent, waiting for it, the closing record, waiting for it. Figures are of the disk that
holds the directory for temporary files (TMPDIR).
"""

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trio

from securellm.audit.keys import SigningKey
from securellm.audit.log import AuditLog, AuditSettings, Receipt, open_audit_log
from securellm.audit.record import Record, decimal, timestamp
from securellm.audit.verify import parse_key, verify_directory

KEY = SigningKey(bytes(32))
SATURATING = 50_000  # records
AT_ONCE = 500  # requests
RATES = (200, 2_000)  # requests a second
RATED_S = 5.0
BARE_SYNCS = 300
BATCH = 1_000  # lines in one bare write


def _now_us() -> int:
    return time.time_ns() // 1000


_FACTS: dict[str, Any] = {
    "epoch": "0123456789abcdef",
    "user_id": "0192f3a0-7c11-7000-8000-000000000001",
    "key_id": "k1234567",
    "client_ip": "192.0.2.17",
    "endpoint": "chat.completions",
    "requested_model": "openai/gpt-4o-mini",
    "provider": "openai",
    "model": "gpt-4o-mini",
    "stream": True,
}


def _intent(name: str) -> Record:
    return Record(timestamp(_now_us()), "request_received", request_id=name, **_FACTS)


def _closing(name: str) -> Record:
    return Record(
        timestamp(_now_us()),
        "response_sent",
        request_id=name,
        **_FACTS,
        status="success",
        http_status=200,
        prompt_tokens=812,
        completion_tokens=155,
        total_tokens=967,
        usage={"input_tokens": 812, "output_tokens": 155},
        usage_source="reported",
        estimated_cost_usd=decimal(214_800, places=9),
        cost_nusd=214_800,
        price_table="ab" * 32,
        finish_reason="stop",
        duration_ms=decimal(812_345, places=3),
        first_token_ms=decimal(212_345, places=3),
        bytes_in=3_411,
        bytes_out=18_120,
        cache="off",
        upstream_request_id="req_0123456789abcdef0123456789abcdef",
    )


def _names() -> Iterator[str]:
    return (f"0192f3a0-7c11-7000-8000-{number:012x}" for number in itertools.count())


def _row(
    case: str,
    *,
    per_s: float | None = None,
    latencies_s: list[float] | None = None,
    cpu_us: float | None = None,
) -> dict[str, Any]:
    cuts = statistics.quantiles(latencies_s, n=100) if latencies_s else None
    return {
        "case": f"audit: {case}",
        "records_per_s": round(per_s) if per_s is not None else "",
        "durable_p50_ms": round(cuts[49] * 1000, 2) if cuts else "",
        "durable_p99_ms": round(cuts[98] * 1000, 2) if cuts else "",
        "cpu_us_per_request": round(cpu_us, 1) if cpu_us is not None else "",
    }


def _bare(directory: Path, lines: int, syncs: int) -> dict[str, Any]:
    """The disk alone: `lines` lines in one write, one fdatasync, and again."""
    data = (b"x" * 899 + b"\n") * lines
    handle = os.open(directory / f"bare-{lines}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    took = []
    try:
        began_s = time.perf_counter()
        for _ in range(syncs):
            before_s = time.perf_counter()
            os.write(handle, data)
            os.fdatasync(handle)
            took.append(time.perf_counter() - before_s)
        per_s = syncs * lines / (time.perf_counter() - began_s)
    finally:
        os.close(handle)
    return _row(f"bare write and fdatasync, {lines} in one", per_s=per_s, latencies_s=took)


async def _request(log: AuditLog, name: str, latencies_s: list[float]) -> None:
    reservation = log.reserve()
    for record in (_intent, _closing):
        before_s = time.perf_counter()
        receipt = reservation.append(record(name))
        if record is _closing:
            reservation.close()
        await receipt.durable()
        latencies_s.append(time.perf_counter() - before_s)


async def _off(name: str) -> None:
    """The same task without a log: both records are made, nothing is kept, and both waits end at once."""
    for record in (_intent, _closing):
        record(name)
        await trio.lowlevel.checkpoint()


async def _saturated(directory: Path, records: int) -> dict[str, Any]:
    settings = AuditSettings(directory, KEY, max_reserved=records)
    async with open_audit_log(settings, now_us=_now_us) as log:
        lines = [_closing(name) for name in itertools.islice(_names(), records)]
        reservations = [log.reserve() for _ in range(records)]
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        receipt: Receipt | None = None
        for reservation, line in zip(reservations, lines, strict=True):
            receipt = reservation.append(line)
            reservation.close()
        if receipt is not None:
            await receipt.durable()
        took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    _check(directory, records)
    return _row("saturated", per_s=records / took_s, cpu_us=2 * cpu_s / records * 1e6)


async def _many(directory: Path, requests: int, mode: Any) -> dict[str, Any]:
    """`AT_ONCE` tasks, each making requests one after the other."""
    names = list(itertools.islice(_names(), requests))
    latencies_s: list[float] = []

    async def some(log: AuditLog | None, mine: list[str]) -> None:
        for name in mine:
            if log is not None:
                await _request(log, name, latencies_s)
            else:
                await _off(name)

    async def all_of_them(log: AuditLog | None) -> tuple[float, float]:
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        async with trio.open_nursery() as nursery:
            for place in range(AT_ONCE):
                nursery.start_soon(some, log, names[place::AT_ONCE])
        return time.perf_counter() - began_s, time.process_time() - began_cpu_s

    if mode == "off":
        took_s, cpu_s = await all_of_them(None)
        return _row(f"{AT_ONCE} at once, off", per_s=2 * requests / took_s, cpu_us=cpu_s / requests * 1e6)
    async with open_audit_log(AuditSettings(directory, KEY, mode=mode), now_us=_now_us) as log:
        took_s, cpu_s = await all_of_them(log)
    if mode == "strict":
        _check(directory, 2 * requests)
    case = f"{AT_ONCE} at once, {mode}"
    return _row(case, per_s=2 * requests / took_s, latencies_s=latencies_s, cpu_us=cpu_s / requests * 1e6)


async def _rated(directory: Path, per_s: int, seconds: float, mode: Any) -> dict[str, Any]:
    """Requests at a rate, whether the earlier ones are done or not. Most of the CPU is waking up: compare with off."""
    latencies_s: list[float] = []
    requests = int(per_s * seconds)

    async def at_their_times(log: AuditLog | None) -> float:
        began_cpu_s = time.process_time()
        async with trio.open_nursery() as nursery:
            began_s = trio.current_time()
            for number, name in enumerate(itertools.islice(_names(), requests)):
                await trio.sleep_until(began_s + number / per_s)
                if log is not None:
                    nursery.start_soon(_request, log, name, latencies_s)
                else:
                    nursery.start_soon(_off, name)
        return time.process_time() - began_cpu_s

    case = f"{per_s} requests/s, {mode}"
    if mode == "off":
        return _row(case, cpu_us=await at_their_times(None) / requests * 1e6)
    async with open_audit_log(AuditSettings(directory, KEY), now_us=_now_us) as log:
        cpu_s = await at_their_times(log)
    _check(directory, 2 * requests)
    return _row(case, latencies_s=latencies_s, cpu_us=cpu_s / requests * 1e6)


def _check(directory: Path, records: int) -> None:
    """Every record is there, and the log verifies."""
    report = verify_directory(str(directory), [parse_key(KEY.encode_public_key())])
    if report.problems:
        raise AssertionError(f"the log does not verify: {report.problems[0]}")
    (slot,) = report.slots
    if slot.records != records + 2:
        raise AssertionError(f"{slot.records} records, expected {records} and two of the writer")


def run(short: bool) -> list[dict[str, Any]]:
    """One row a case; `short` checks that every record is there and measures nothing worth quoting."""
    scale = 50 if short else 1
    with tempfile.TemporaryDirectory(prefix="bench-audit-") as made:
        root = Path(made)
        rows = [_bare(root, 1, BARE_SYNCS // scale), _bare(root, BATCH, BARE_SYNCS // scale)]
        rows.append(trio.run(_saturated, root / "saturated", SATURATING // scale))
        for mode in ("strict", "relaxed", "off"):
            rows.append(trio.run(_many, root / mode, SATURATING // 2 // scale, mode))
        for per_s, mode in itertools.product(RATES, ("strict", "off")):
            rows.append(trio.run(_rated, root / f"{per_s}-{mode}", per_s, RATED_S / scale, mode))
    return rows
