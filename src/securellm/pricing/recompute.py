"""The cost on an audit record, computed again from its usage and the table that it names.

What is computed: for each attempt that has a usage, the price of its provider and model at the record's timestamp; the
record's own cost is the sum. Recomputed and recorded are the same, or something has been changed.
"""

import datetime
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from securellm.chat import Usage
from securellm.pricing.table import PriceTable

CLOSING = ("response_sent", "request_failed")

Tables = Callable[[str], PriceTable | None]  # by SHA-256; None when it was not kept, ValueError when it was changed


class Finding(msgspec.Struct, frozen=True):
    """One record whose cost was computed again. `problem` is None when it is the recorded one."""

    place: str  # file:line
    request_id: str
    recorded_nusd: int | None
    recomputed_nusd: int | None
    problem: str | None = None


def recompute(record: dict[str, Any], table: PriceTable) -> int | None:
    """What the record's attempts cost together, in nano-USD; None when none of them has both a usage and a price."""
    costs = [cost for cost in attempt_costs(record, table) if cost is not None]
    return sum(costs) if costs else None


def attempt_costs(record: dict[str, Any], table: PriceTable) -> list[int | None]:
    """What each attempt of the record costs, in nano-USD. Raises KeyError, TypeError or ValueError when it is none."""
    at_us = timestamp_us(record["timestamp"])
    return [
        None
        if attempt.get("usage") is None
        else table.cost_nusd(attempt["provider"], attempt["model"], Usage(**attempt["usage"]), at_us)
        for attempt in record.get("attempts") or ()
    ]


def recompute_lines(lines: Iterable[tuple[str, bytes]], tables: Tables) -> Iterator[Finding]:
    """A finding for every closing record that has a cost; `lines` are (file:line, line of JSON)."""
    known: dict[str, PriceTable | str] = {}  # by name: the table, or why there is none
    for place, line in lines:
        try:
            record = msgspec.json.decode(line)
            if not isinstance(record, dict) or record.get("event_type") not in CLOSING:
                continue
            recorded, name = record.get("cost_nusd"), record.get("price_table")
            if name is None and recorded is None:
                continue
            if str(name) not in known:
                known[str(name)] = _open_table(str(name), tables)
            yield _compare(place, record, known[str(name)])
        except (ValueError, KeyError, TypeError) as exc:
            yield Finding(place, "", None, None, f"not an audit record: {type(exc).__name__}")


def timestamp_us(text: str) -> int:
    """Unix microseconds of a record's timestamp. Raises ValueError."""
    moment = datetime.datetime.fromisoformat(text)
    delta = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _open_table(name: str, tables: Tables) -> PriceTable | str:
    try:
        return tables(name) or "the table of prices that it names was not kept here"
    except ValueError as exc:
        return str(exc)


def _compare(place: str, record: dict[str, Any], table: PriceTable | str) -> Finding:
    recorded, request_id = record.get("cost_nusd"), str(record.get("request_id", ""))
    if isinstance(table, str):
        return Finding(place, request_id, recorded, None, table)
    costs = attempt_costs(record, table)
    recomputed = recompute(record, table)
    problem = None
    if recomputed != recorded:
        problem = "the cost is another one"
    elif costs != [attempt.get("cost_nusd") for attempt in record.get("attempts") or ()]:
        problem = "the cost of an attempt is another one"
    return Finding(place, request_id, recorded, recomputed, problem)
