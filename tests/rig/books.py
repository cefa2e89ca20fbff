"""A gateway's audit log as an auditor finds it: read from its files, verified, and sorted by request."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rig.audit_log import read_chain
from rig.gateway import RunningGateway
from rig.waiting import until_true
from securellm.audit.keys import load_signing_key
from securellm.audit.verify import Report, parse_key, verify_directory

INPUT_NUSD = 3_000  # a token, where PRICED is in force: 3 USD per million
OUTPUT_NUSD = 15_000
PRICED = {"input_usd_per_mtok": 3, "output_usd_per_mtok": 15}

Fields = dict[str, Any]


@dataclass
class Entry:
    """What the log has of one request."""

    intents: list[Fields] = field(default_factory=list)
    attempts: list[Fields] = field(default_factory=list)
    closings: list[Fields] = field(default_factory=list)

    @property
    def intent(self) -> Fields:
        """The one intent."""
        (intent,) = self.intents
        return intent

    @property
    def closing(self) -> Fields:
        """The one closing record."""
        (closing,) = self.closings
        return closing

    @property
    def asked(self) -> list[Fields]:
        """The attempts in the closing record that were sent."""
        return [attempt for attempt in self.closing.get("attempts", []) if "skipped" not in attempt]


def read_entries(records: Iterable[Fields]) -> dict[str, Entry]:
    """Request id -> what there is of it, in the order of the intents. Raises AssertionError for what has no intent."""
    entries: dict[str, Entry] = {}
    for record in records:
        kind = record["event_type"]
        if kind == "security_event":
            continue
        if kind == "request_received":
            entries.setdefault(record["request_id"], Entry()).intents.append(record)
            continue
        entry = entries[record["request_id"]]
        assert not entry.closings, f"something follows the end: {record}"
        (entry.attempts if kind == "attempt_started" else entry.closings).append(record)
    return entries


def check_pairs(records: Sequence[Fields]) -> dict[str, Entry]:
    """The entries, each of which must be one intent and one end."""
    entries = read_entries(records)
    for name, entry in entries.items():
        assert (len(entry.intents), len(entry.closings)) == (1, 1), (name, entry)
        assert entry.intent["seq"] < entry.closing["seq"]
        succeeded = entry.closing["status"] == "success"
        assert entry.closing["event_type"] == ("response_sent" if succeeded else "request_failed"), entry.closing
        check_cost(entry.closing)
    return entries


def check_cost(closing: Fields) -> None:
    """The sums and the two ways of writing the cost agree; what was not used costs nothing."""
    usage = closing.get("usage")
    assert (usage is None) == ("usage_source" not in closing) == ("total_tokens" not in closing), closing
    costs = [attempt["cost_nusd"] for attempt in closing.get("attempts", []) if "cost_nusd" in attempt]
    assert closing.get("cost_nusd") == (sum(costs) if costs else None), closing
    if "cost_nusd" in closing:
        assert round(closing["estimated_cost_usd"] * 1e9) == closing["cost_nusd"], closing
        assert len(closing["price_table"]) == 64, closing


def events(records: Iterable[Fields], action: str) -> list[Fields]:
    """The security events of that action."""
    return [record for record in records if record.get("action") == action]


async def read_books(gateway: RunningGateway) -> list[Fields]:
    """Every record of a running gateway, once nothing waits for the disk; the chain is dense and unbroken."""
    await until_true(lambda: not _figures(gateway).pending)
    return read_chain(gateway.config.log_dir)


async def only_entry(gateway: RunningGateway) -> Entry:
    """The one request that the log knows of; nothing of it is still open, and no room is still taken."""
    await gateway.only_settlement()
    (entry,) = check_pairs(await read_books(gateway)).values()
    await until_true(lambda: not _figures(gateway).reserved)
    return entry


def verify(folder: Path, *, every: bool = True) -> Report:
    """The verdict on the log of a gateway under `folder`; `every` signature or the last. Raises AssertionError: bad."""
    key = load_signing_key(folder / "state", create=False).encode_public_key()
    report = verify_directory(str(folder / "log"), [parse_key(key)], every=every)
    assert report.good, report.problems
    return report


def _figures(gateway: RunningGateway) -> Any:
    return gateway.runtime.gateway.statistics().ledger.audit
