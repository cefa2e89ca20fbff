"""Run the benches, print a table each, keep the figures as JSON: python benches/run.py [--short] [name ...].

Times are CPU time. On a shared machine compare within one run only. `--short` checks that everything works and that
results agree; its figures mean nothing.
"""

import argparse
import datetime
import json
import platform
from pathlib import Path
from typing import Any

import bench_audit
import bench_gateway
import bench_http1
import bench_limits
import bench_sse
import bench_tokens

BENCHES = {
    "sse": bench_sse.run,
    "http1": bench_http1.run,
    "tokens": bench_tokens.run,
    "audit": bench_audit.run,
    "limits": bench_limits.run,
    "gateway": bench_gateway.run,
}
RESULTS = Path(__file__).parent / "results"


def _print(rows: list[dict[str, Any]]) -> None:
    columns = list(rows[0])
    table = [columns, *([str(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[place]) for line in table) for place in range(len(columns))]
    for line in table:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells))
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="check, do not measure")
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], help="which ones; all of them by default")
    arguments = parser.parse_args()
    results = {}
    for name in arguments.names or BENCHES:
        results[name] = BENCHES[name](arguments.short)
        _print(results[name])
    if not arguments.short:
        RESULTS.mkdir(exist_ok=True)
        now = datetime.datetime.now(datetime.UTC)
        described = {"at": now.isoformat(timespec="seconds"), "python": platform.python_version(), "results": results}
        path = RESULTS / f"{now:%Y-%m-%dT%H%M%S}.json"
        path.write_text(json.dumps(described, indent=2) + "\n")
        print(f"kept in {path.relative_to(RESULTS.parent.parent)}")


if __name__ == "__main__":
    main()
