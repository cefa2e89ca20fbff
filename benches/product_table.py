"""The lines of the product's table: every line has every column."""

from typing import Any

COLUMNS = (
    *("value", "unit", "spread", "x_nginx", "aim", "least", "reaches", "x_reference"),
    *("per_s", "p50_ms", "p99_ms", "foreign"),
)


def tell(case: str, note: str = "") -> dict[str, Any]:
    """A line with nothing in it yet but its name."""
    return {"case": case, "party": "", **dict.fromkeys(COLUMNS, ""), "note": note, "rounds": [], "commit_ms": []}


def reached(value: float | str, aim: float, least: float) -> dict[str, Any]:
    """What of what must be reached is; nothing can be said without a value."""
    line: dict[str, Any] = {"aim": aim, "least": least}
    if not isinstance(value, str):
        line["reaches"] = "aim" if value <= aim else "least" if value <= least else "neither"
    return line
