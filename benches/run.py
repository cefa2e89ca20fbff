"""Run the benches, print a table each, keep the figures as JSON: python benches/run.py [--short] [name ...].

Times are CPU time. On a shared machine compare within one run only. `--short` checks that everything works and that
results agree; its figures mean nothing. docs/benchmarks.md explains what is measured.
"""

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_audit
import bench_features
import bench_gateway
import bench_http1
import bench_limits
import bench_product
import bench_sse
import bench_tokens
from bench_product import Plan
from processes import Absent
from product_parties import LANES

Rows = list[dict[str, Any]]
BENCHES: dict[str, Callable[[Plan], Rows]] = {
    "sse": lambda plan: bench_sse.run(plan.short),
    "http1": lambda plan: bench_http1.run(plan.short),
    "tokens": lambda plan: bench_tokens.run(plan.short),
    "audit": lambda plan: bench_audit.run(plan.short),
    "limits": lambda plan: bench_limits.run(plan.short),
    "gateway": lambda plan: bench_gateway.run(plan.short),
    "features": bench_features.run,
    "product": bench_product.run,
}
RESULTS = Path(__file__).parent / "results"


def _print(rows: Rows) -> None:
    """A table; single rounds, which are lists, are kept with the figures and not shown."""
    columns = [column for column in rows[0] if not isinstance(rows[0][column], list)]
    table = [columns, *([str(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[place]) for line in table) for place in range(len(columns))]
    texts = {0, columns.index("note") if "note" in columns else 0}
    for line in table:
        aligned = [
            cell.ljust(width) if place in texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(aligned).rstrip())
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="check, do not measure")
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], help="which ones; all of them by default")
    parser.add_argument("--rounds", type=int, default=Plan.rounds, help="of product and features")
    parser.add_argument("--seconds", type=float, default=Plan.seconds, help="each load of product and features lasts")
    parser.add_argument("--lanes", nargs="+", choices=LANES, default=LANES, help="of product and features")
    arguments = parser.parse_args()
    try:
        plan = Plan(arguments.short, arguments.rounds, arguments.seconds, tuple(arguments.lanes))
    except ValueError as exc:
        parser.error(str(exc))
    results: dict[str, Rows] = {}
    missing: list[str] = []
    load_before = os.getloadavg()
    for name in arguments.names or BENCHES:
        try:
            results[name] = BENCHES[name](plan)
        except Absent as exc:
            missing.append(f"{name}: {exc}")
            continue
        _print(results[name])
    for reason in missing:
        print(f"not run: {reason}", file=sys.stderr)
    if missing and os.environ.get("CI") == "1":
        sys.exit(1)
    if not arguments.short:
        RESULTS.mkdir(exist_ok=True)
        now = datetime.datetime.now(datetime.UTC)
        described = {
            "at": now.isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "machine": {
                "processor": _processor(),
                "cores": len(os.sched_getaffinity(0)),
                "kernel": platform.release(),
                "load_before": load_before,
                "load_after": os.getloadavg(),
            },
            "results": results,
        }
        path = RESULTS / f"{now:%Y-%m-%dT%H%M%S}.json"
        path.write_text(json.dumps(described, indent=2) + "\n")
        print(f"kept in {path.relative_to(RESULTS.parent.parent)}")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
