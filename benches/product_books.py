"""What the gateway wrote down after a load is what the load generator saw: records, tokens, money, to the last one."""

import json
import re
import time
from collections import Counter
from pathlib import Path

from product_parties import INPUT_NUSD, OUTPUT_NUSD, Gateway, fetch

WHOLE_TOKENS = (57, 38)  # what the mock says of its whole answers, in and out
STREAM_TOKENS = (57, 100)  # and of its streams, whatever their length
SETTLED_S = 20.0  # what was spent reaches the store within this


def check_books(gateway: Gateway) -> None:
    """Compare audit log, metrics and budget with the tally. Raises AssertionError."""
    streams = sum(gateway.tally.streamed.values())
    answers = gateway.tally.whole + streams
    tokens = (
        gateway.tally.whole * WHOLE_TOKENS[0] + streams * STREAM_TOKENS[0],
        gateway.tally.whole * WHOLE_TOKENS[1] + streams * STREAM_TOKENS[1],
    )
    cost_nusd = tokens[0] * INPUT_NUSD + tokens[1] * OUTPUT_NUSD if gateway.features.budgets else 0
    _equal(gateway, "metrics", _metrics(gateway), {"tokens": tokens, "cost_nusd": cost_nusd})
    if gateway.features.audit:
        _check_audit(gateway, answers, tokens, cost_nusd)
        gateway.command("audit", "verify")
    if gateway.features.budgets and gateway.features.keys:
        _check_budget(gateway, cost_nusd)


def _check_audit(gateway: Gateway, answers: int, tokens: tuple[int, int], cost_nusd: int) -> None:
    """Each request has one intent and one good end, and their sums are the load's."""
    seen: Counter[str] = Counter()
    ids: dict[str, set[str]] = {"request_received": set(), "response_sent": set()}
    for path in sorted((gateway.folder / "audit").glob("*.log")):
        for line in path.read_bytes().splitlines():
            record = json.loads(line)
            kind = record["event_type"]
            seen[kind] += 1
            if kind in ids:
                ids[kind].add(record["request_id"])
            if kind == "response_sent":
                seen["input"] += record["prompt_tokens"]
                seen["output"] += record["completion_tokens"]
                seen["cost_nusd"] += record.get("cost_nusd", 0)
    _equal(gateway, "intents", (seen["request_received"], len(ids["request_received"])), (answers, answers))
    _equal(gateway, "ends", (seen["response_sent"], ids["response_sent"]), (answers, ids["request_received"]))
    _equal(gateway, "failures", seen["request_failed"], 0)
    _equal(gateway, "tokens", (seen["input"], seen["output"]), tokens)
    _equal(gateway, "cost", seen["cost_nusd"], cost_nusd)


def _metrics(gateway: Gateway) -> dict[str, object]:
    text = fetch(gateway.port, "/api/metrics", gateway.headers).decode()

    def total(name: str, label: str = "") -> float:
        found = re.findall(rf"^{name}{{[^}}]*{label}[^}}]*}} (\S+)$", text, re.MULTILINE)
        return sum(float(value) for value in found)

    return {
        "tokens": tuple(
            round(total("securellm_token_usage_total", f'type="{kind}"')) for kind in ("prompt", "completion")
        ),
        "cost_nusd": round(total("securellm_cost_usd_total") * 1e9),
    }


def _check_budget(gateway: Gateway, cost_nusd: int) -> None:
    deadline = time.monotonic() + SETTLED_S
    while True:
        (budget,) = json.loads(gateway.command("budgets", "show", "key", gateway.key_id, "--json").stdout)
        held = (round(float(budget["spent_usd"]) * 1e9), float(budget["reserved_usd"]))
        if held == (cost_nusd, 0.0) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    _equal(gateway, "budget", held, (cost_nusd, 0.0))


def _equal(gateway: Gateway, what: str, got: object, expected: object) -> None:
    if got != expected:
        shown = [text if len(text := repr(value)) < 300 else f"{text[:300]}…" for value in (got, expected)]
        raise AssertionError(f"{gateway.name}: {what}: got {shown[0]}, expected {shown[1]}")


def audit_folder(gateway: Gateway) -> Path:
    """Where its records are, for a measurement of that disk."""
    return gateway.folder / "audit"
