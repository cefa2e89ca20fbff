"""A past cost, computed again from the record and the table that it names (guarantee 14)."""

import json
from typing import Any

import msgspec
import pytest

from securellm.audit.entries import NO_HASHES, attempt_costs, closing_record
from securellm.audit.record import encode_line
from securellm.chat import Attempt, Endpoint, Outcome, RequestId, Settlement, Status, Usage
from securellm.config.tree import Config
from securellm.pricing.price import Listed, Period, Price, Section
from securellm.pricing.recompute import Finding, recompute, recompute_lines, timestamp_us
from securellm.pricing.table import PriceTable, make_table

NOW_US = 1_795_345_445_123_456  # 2026-11-22T11:04:05.123456Z
HOUR_S = 11 * 3600
SECTIONS = {
    "a": Section("a page", "2026-11-22", {"m": Listed(Price(input=2_500_000_000, output=10_000_000_000))}),
    "b": Section(
        "a page",
        "2026-11-22",
        {"m": Listed(Price(input=1_000_000), (Period(Price(input=3_000_000), daily_s=(HOUR_S, HOUR_S + 3600)),))},
    ),
}
TABLE = make_table(Config(), SECTIONS, {"a": "a", "b": "b"})


def _line(table: PriceTable = TABLE, provider: str = "a", usage: Usage | None = None, **changes: Any) -> bytes:
    """A closing line as the ledger writes it: a failed attempt at `b`, then one that answered."""
    spent = usage or Usage(input_tokens=12, output_tokens=3)
    settlement = Settlement(
        request_id=RequestId("r"),
        client_request_id=None,
        endpoint=Endpoint.CHAT,
        caller=None,
        client_ip="127.0.0.1",
        requested_model="auto",
        provider=provider,
        model="m",
        stream=False,
        outcome=Outcome(Status.SUCCESS, 200),
        attempts=(
            Attempt(1, "b", "m", usage=Usage(input_tokens=5)),
            Attempt(2, "a", "gone", skipped="circuit_open"),
            Attempt(3, provider, "m", usage=spent),
        ),
        usage=spent,
        usage_source="reported",
        finish_reason="stop",
        first_token_ms=None,
        duration_ms=1.0,
        bytes_in=1,
        bytes_out=1,
        dropped=(),
        upstream_request_id=None,
        context_truncated=False,
        config_epoch="e",
    )
    costs_nusd = attempt_costs(settlement.attempts, settlement.usage, table.cost_nusd, NOW_US)
    spent_nusd = [cost_nusd for cost_nusd in costs_nusd if cost_nusd is not None]
    settlement = msgspec.structs.replace(settlement, cost_nusd=sum(spent_nusd))
    record = closing_record(settlement, costs_nusd, price_table=table.sha256, hashes=NO_HASHES, now_us=NOW_US)
    return encode_line(msgspec.structs.replace(record, **changes), seq=1, slot=1, prev="0" * 64)


def _findings(*lines: bytes, tables: tuple[PriceTable, ...] = (TABLE,)) -> list[Finding]:
    kept = {table.sha256: table for table in tables}
    return list(recompute_lines([(f"f:{place}", line) for place, line in enumerate(lines, 1)], kept.get))


def test_a_record_as_it_was_written_is_confirmed() -> None:
    """The sum of the attempts, each at the price of its provider at the record's moment: 5*3 + 12*2500 + 3*10000."""
    line = _line()
    assert recompute(json.loads(line), TABLE) == 60_015
    assert _findings(line) == [Finding("f:1", "r", 60_015, 60_015)]


def test_the_moment_is_the_records_own() -> None:
    """Prices by the hour are taken at the timestamp on the record, to the microsecond."""
    assert timestamp_us("2026-11-22T11:04:05.123456Z") == NOW_US
    record = json.loads(_line())
    record["timestamp"] = "2026-11-22T10:59:59.999999Z"
    assert recompute(record, TABLE) == 60_005


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"cost_nusd": 60_016}, "the cost is another one"),
        ({"cost_nusd": None}, "the cost is another one"),
        ({"price_table": "0" * 64}, "the table of prices that it names was not kept here"),
        ({"timestamp": "yesterday"}, "not an audit record: ValueError"),
    ],
)
def test_what_does_not_fit_is_told(changes: dict[str, Any], problem: str) -> None:
    """A changed cost, a table that is not there, a record that is none."""
    assert [finding.problem for finding in _findings(_line(**changes))] == [problem]


def test_an_attempt_whose_cost_was_moved_is_told() -> None:
    """The same sum with its parts shifted between attempts is not the same record."""
    record = json.loads(_line())
    record["attempts"][0]["cost_nusd"] += 1
    record["attempts"][2]["cost_nusd"] -= 1
    assert [finding.problem for finding in _findings(json.dumps(record).encode())] == [
        "the cost of an attempt is another one"
    ]


def test_each_record_has_its_own_table() -> None:
    """After a change of prices, old records are computed with the old table and new ones with the new."""
    dearer = make_table(
        Config(),
        {**SECTIONS, "a": Section("a page", "2027-01-01", {"m": Listed(Price(input=9_000_000_000))})},
        {"a": "a"},
    )
    lines = [_line(), _line(dearer)]
    assert [finding.problem for finding in _findings(*lines, tables=(TABLE, dearer))] == [None, None]
    recomputed = [finding.recomputed_nusd for finding in _findings(*lines, tables=(TABLE, dearer))]
    assert recomputed == [60_015, 15 * 9000]


def test_what_has_no_cost_is_passed_over() -> None:
    """Intents, events, and requests that used nothing are not computed; a line that is no JSON is told."""
    record = json.loads(_line())
    other = [{**record, "event_type": name} for name in ("request_received", "attempt_started", "security_event")]
    nothing = {name: value for name, value in record.items() if name not in ("cost_nusd", "price_table", "attempts")}
    assert _findings(*(json.dumps(line).encode() for line in [*other, nothing])) == []
    assert [finding.problem for finding in _findings(b'{"event_type":')] == ["not an audit record: DecodeError"]


def test_a_free_answer_costs_nothing_and_is_confirmed() -> None:
    """0 is a cost: free models are recorded with it, and it is computed again."""
    table = make_table(Config(), {"b": Section("own", "2026-11-22", every=Price(free=True))}, {"b": "b"})
    assert _findings(_line(table, provider="b"), tables=(table,)) == [Finding("f:1", "r", 0, 0)]
