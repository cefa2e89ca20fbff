"""What keys, limits, budgets and the audit log add to a request: the same load on gateways that have them or not."""

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench_product import Figures, Plan, measure
from processes import build_native, choose_cores
from product_books import check_books
from product_load import ROWS, Loader
from product_parties import Features, Gateway, open_gateway, open_mock, prepare_gateway

NOTHING = Features(keys=False, limits=False, budgets=False, audit=False)
CASES = {
    "nothing": NOTHING,
    "audit": replace(NOTHING, audit=True),
    "audit, keys": replace(NOTHING, audit=True, keys=True),
    "audit, keys, limits": replace(NOTHING, audit=True, keys=True, limits=True),
    "audit, keys, limits, budgets": Features(),
}
LOADS = ("S2", "S4")


def run(plan: Plan) -> list[dict[str, Any]]:
    """One row a load and case; what each case adds is to the case before it, in the median of the rounds."""
    rows = [row for row in ROWS if row.name in LOADS]
    if plan.short:
        plan = Plan(True, 1, 0.3, plan.lanes)
        rows = [row.shortened() for row in rows]
    lane = plan.lanes[-1] if len(plan.lanes) == 1 else "auto"
    cores = choose_cores()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        programs = build_native(folder)
        mock = stack.enter_context(open_mock(programs["mock_upstream"], folder, cores))
        gateways: list[Gateway] = []
        for number, (name, features) in enumerate(CASES.items()):
            gateway = prepare_gateway(f"gateway-{number}", folder, mock, features)
            gateway.name = name
            gateways.append(stack.enter_context(open_gateway(gateway, lane, cores.measured)))
        loader = Loader(programs["loadgen"], folder, mock, cores)
        figures = measure(plan, rows, [*gateways], mock, loader)
        for gateway in gateways:
            check_books(gateway)
    return [line for row in rows for line in _describe(row.name, row.title, row.unit, figures)]


def _describe(load: str, title: str, unit: str, figures: Figures) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    before = None
    for name in CASES:
        value = figures[load, name].median("cpu_us")
        lines.append(
            {
                "case": f"{load} {title}",
                "with": name,
                "cpu_us": round(value, 1),
                "a": unit,
                "adds_us": round(value - before, 1) if before is not None else "",
                "rounds": [measured.__dict__ for measured in figures[load, name].rounds],
            }
        )
        before = value
    return lines
