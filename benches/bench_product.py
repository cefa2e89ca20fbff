"""The gateway beside nginx and on each of its lanes, with everything on that it promises: one run, interleaved rounds.

The primary figure is CPU time for a request or a chunk, of the whole process, in user and kernel mode; ratios are of
the same round. What is measured has one core, the mock provider and the load generator have another. Every answer is
checked, and at the end the books: docs/benchmarks.md says how to read the figures.
"""

import contextlib
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import Absent, build_native, choose_cores
from product_books import audit_folder, check_books
from product_load import ROWS, Loader, Measured, Row
from product_parties import LANES, Features, Gateway, Mock, Party, open_gateway, open_mock, open_nginx, prepare_gateway
from product_start import describe_memory, describe_starts
from product_table import reached, tell

COMMITS = 100
COMMIT_BYTES = 1100  # a record
COMMIT_EVERY_S = 0.005  # two a request, at a hundred requests a second
STARTS = 5
IDLE_S = 2.0


@dataclass(frozen=True)
class Plan:
    """How much is measured. `short` checks that all is right and measures nothing worth quoting."""

    short: bool = False
    rounds: int = 3
    seconds: float = 3.0
    lanes: tuple[str, ...] = LANES

    def __post_init__(self) -> None:
        if self.rounds < 1 or not 0 < self.seconds <= 60:
            raise ValueError("at least one round, of at most 60 seconds")


@dataclass
class Series:
    """What one party did under one load, round by round."""

    rounds: list[Measured] = field(default_factory=list)
    commits_ms: list[float] = field(default_factory=list)  # the disk's, in the same rounds

    def median(self, of: str) -> float:
        """The median over the rounds."""
        return statistics.median(getattr(measured, of) for measured in self.rounds)


Figures = dict[tuple[str, str], Series]  # (load, party)


def run(plan: Plan) -> list[dict[str, Any]]:
    """One row a load and party, then start-up and memory."""
    if plan.short:
        plan = Plan(True, 1, 0.3, plan.lanes)
    rows = [row.shortened() for row in ROWS] if plan.short else list(ROWS)
    cores = choose_cores()
    told = [tell("one core for everything", "latencies mean nothing")] if cores.shared else []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        programs = build_native(folder)
        mock = stack.enter_context(open_mock(programs["mock_upstream"], folder, cores))
        parties: list[Party] = []
        try:
            parties.append(stack.enter_context(open_nginx(folder, mock, cores)))
        except Absent as exc:
            told.append(tell("nginx", f"not run: {exc}"))
        others = []
        for lane in plan.lanes:
            gateway = prepare_gateway(lane, folder, mock, Features())
            try:
                others += describe_starts(gateway, lane, cores, 1 if plan.short else STARTS)
                parties.append(stack.enter_context(open_gateway(gateway, lane, cores.measured)))
            except Absent as exc:
                told.append(tell(lane, f"not run: {exc}"))
        time.sleep(0 if plan.short else IDLE_S)
        others += describe_memory(parties, {"idle": "VmRSS"})
        loader = Loader(programs["loadgen"], folder, mock, cores)
        figures = measure(plan, rows, parties, mock, loader)
        others += describe_memory(parties, {"after load": "VmRSS", "peak": "VmHWM"})
        for party in parties:
            if isinstance(party, Gateway):
                check_books(party)
    absent = [line["note"] for line in told if line["note"].startswith("not run")]
    if absent and os.environ.get("CI") == "1":
        raise AssertionError("; ".join(absent))
    return [*_describe(rows, figures), *others, *told]


def measure(plan: Plan, rows: list[Row], parties: list[Party], mock: Mock, loader: Loader) -> Figures:
    """Every load on every party, round by round; each round begins with another party."""
    figures: Figures = {}
    for number in range(plan.rounds):
        for row in rows:
            turn = number % len(parties)
            order = [*parties[turn:], *parties[:turn]]
            for party in [mock, *order] if row.mode == "open" else order:
                series = figures.setdefault((row.name, party.name), Series())
                if not plan.short:
                    loader.measure(row, party, min(1.0, plan.seconds))  # caches, pools, branch predictors
                if row.mode == "open" and isinstance(party, Gateway):
                    series.commits_ms.append(_commit_ms(audit_folder(party), 10 if plan.short else COMMITS))
                series.rounds.append(loader.measure(row, party, plan.seconds))
                print(f"round {number + 1}/{plan.rounds}, {row.name}, {party.name}", file=sys.stderr)
    return figures


def _commit_ms(folder: Path, count: int) -> float:
    """The median time of a write and an fdatasync where the audit log is, at the pace of that load."""
    times = []
    with tempfile.TemporaryFile(dir=folder.parent) as file:
        for _ in range(count):
            time.sleep(COMMIT_EVERY_S)
            started = time.perf_counter()
            os.write(file.fileno(), b"x" * COMMIT_BYTES)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def _describe(rows: list[Row], figures: Figures) -> list[dict[str, Any]]:
    described = []
    for row in rows:
        for (name, party), series in figures.items():
            if name == row.name:
                described.append(_line(row, party, series, figures))
    return described


def _line(row: Row, party: str, series: Series, figures: Figures) -> dict[str, Any]:
    cpu = [measured.cpu_us for measured in series.rounds]
    value = statistics.median(cpu)
    line = tell(f"{row.name} {row.title}", "")
    line |= {
        "party": party,
        "value": round(value, 1) if value < 100 else round(value),
        "unit": f"CPU us/{row.unit}",
        "spread": f"{(max(cpu) - min(cpu)) / 2 / value * 100:.0f} %" if value and len(cpu) > 1 else "",
        "per_s": round(series.median("per_s")),
        "p50_ms": round(statistics.median(measured.latency_ms[0] for measured in series.rounds), 2),
        "p99_ms": round(statistics.median(measured.latency_ms[1] for measured in series.rounds), 2),
        "foreign": round(series.median("foreign"), 2),
        "rounds": [measured.__dict__ for measured in series.rounds],
    }
    first = [measured.first_ms for measured in series.rounds if measured.first_ms is not None]
    if first:
        line["note"] = f"first chunk {statistics.median(first):.1f} ms"
    if row.mode == "open":
        return line | _added(row, party, series, figures)
    for other, column in (("nginx", "x_nginx"), ("reference", "x_reference")):
        beside = figures.get((row.name, other))
        if beside is not None and party != other and (ratio := _ratio(series, beside)) is not None:
            line[column] = round(ratio, 2)
    if party in LANES and "x_nginx" in line:
        line |= reached(line["x_nginx"], row.aim, row.least)
    return line


def _ratio(series: Series, beside: Series) -> float | None:
    """The median of the ratios of each round; None where the clock, in steps of 10 ms, saw no time at all."""
    pairs = zip(series.rounds, beside.rounds, strict=True)
    ratios = [one.cpu_us / other.cpu_us for one, other in pairs if other.cpu_us]
    return statistics.median(ratios) if ratios else None


def _added(row: Row, party: str, series: Series, figures: Figures) -> dict[str, Any]:
    """The latency that a party adds to the mock's own; a gateway's beside two commits of the disk."""
    direct = figures[row.name, "direct"]
    if series is direct:
        return {"value": "", "unit": "", "spread": ""}
    each = [one.latency_ms[0] - other.latency_ms[0] for one, other in zip(series.rounds, direct.rounds, strict=True)]
    added = statistics.median(each)
    line: dict[str, Any] = {"value": round(added, 2), "unit": "ms added", "spread": ""}
    if not series.commits_ms:
        return line
    commit = statistics.median(series.commits_ms)
    beyond = added - 2 * commit
    line |= {"note": f"two commits of {commit:.2f} ms, and {beyond:.2f} ms", "commit_ms": series.commits_ms}
    return line | reached(beyond, row.aim, row.least)
