"""The log against what really happened: a mixed crowd, odd answers included (3, 5, the reconcile check).

The attempts in the log are the requests that reached the providers, and what it says was spent is the usage that was
scripted times the price in the configuration, worked out here with fractions; the metrics agree with the log.
SECURELLM_TEST_SCALE times 1,000 requests.
"""

import contextlib
import json
import os
import random
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
import trio

from rig import doors, script, speech
from rig.audit_log import read_chain
from rig.books import Entry, check_pairs, events, verify
from rig.doors import Door
from rig.fake_provider import Received
from rig.gateway import RunningGateway
from rig.raw_client import BodyCut, open_client
from rig.script import Script, Step

REQUESTS = max(150, round(1000 * float(os.environ.get("SECURELLM_TEST_SCALE", "1.0"))))
AT_ONCE = 16
BREAKS_NEVER = {"circuit_breaker": {"failure_threshold": 1_000_000}}

# USD per million tokens; each has more digits than the last, so that rounding shows.
PRICES: dict[str, dict[str, float]] = {
    "openai": {"input": 2.5, "cache_read": 1.25, "output": 10},
    "anthropic": {"input": 3, "cache_read": 0.3, "cache_write_5m": 3.75, "cache_write_1h": 6, "output": 15},
    "compat": {"input": 0.0007, "cache_read": 0.0003, "output": 0.0019},
}
MODELS = {
    f"{provider}/*": {"free": False, **{f"{bucket}_usd_per_mtok": usd for bucket, usd in prices.items()}}
    for provider, prices in PRICES.items()
}
KINDS = (
    *["good"] * 4,
    "refused",
    "422",
    "falls back",
    "null id",
    "no id",
    "no usage",
    "null usage",
    "null body",
    "empty body",
    "text for JSON",
    "cut",
    "caller leaves",
    "bad key",
)
_REPORTED = ("good", "falls back", "null id", "no id")


@dataclass
class Case:
    """One request, and the usage in the provider's own buckets."""

    number: int
    kind: str
    provider: str
    stream: bool
    buckets: dict[str, int]
    status: int = 0

    @property
    def name(self) -> str:
        """The caller's own id, by which its entry is found."""
        return f"case-{self.number}"

    @property
    def trace(self) -> str:
        """The trace's id, by which the providers know it."""
        return f"{self.number + 1:032x}"

    @property
    def model(self) -> str:
        """As the caller names it."""
        return "auto" if self.kind == "falls back" else f"{self.provider}/m1"

    @property
    def attempts(self) -> int:
        """How often providers are asked."""
        return {"bad key": 0, "falls back": 2}.get(self.kind, 1)

    @property
    def door(self) -> Door:
        return doors.MESSAGES if self.provider == "anthropic" else doors.CHAT

    @property
    def cost_nusd(self) -> int:
        """The scripted usage times the configured price, rounded once, half up."""
        prices = PRICES[self.provider]
        exact = sum(Fraction(str(prices[bucket])) * tokens * 1000 for bucket, tokens in self.buckets.items())
        return int(Fraction(exact) + Fraction(1, 2))

    def usage(self) -> dict[str, Any]:
        """As the provider reports it."""
        buckets = self.buckets
        if self.provider == "anthropic":
            written = {
                "ephemeral_5m_input_tokens": buckets["cache_write_5m"],
                "ephemeral_1h_input_tokens": buckets["cache_write_1h"],
            }
            return {
                "input_tokens": buckets["input"],
                "cache_read_input_tokens": buckets["cache_read"],
                "cache_creation_input_tokens": sum(written.values()),
                "cache_creation": written,
                "output_tokens": buckets["output"],
            }
        prompt = buckets["input"] + buckets["cache_read"]
        return {
            "prompt_tokens": prompt,
            "completion_tokens": buckets["output"],
            "total_tokens": prompt + buckets["output"],
            "prompt_tokens_details": {"cached_tokens": buckets["cache_read"]},
        }


async def test_the_log_agrees_with_the_providers(serving, provider, second_provider):
    """One pair for each request; the attempts are those that arrived, the costs those of the scripted usage."""
    chance = random.Random(3)
    cases = [_make_case(chance, number) for number in range(REQUESTS)]
    by_trace = {case.trace: case for case in cases}
    provider.choose = lambda request: _answer(by_trace[_trace_of(request)])
    second_provider.default = script.answer(503, speech.CHAT.error(503))
    with trio.fail_after(180):
        gateway: RunningGateway = await serving(
            {**dict.fromkeys(PRICES, provider), "down": second_provider},
            models=MODELS,
            providers=dict.fromkeys((*PRICES, "down"), BREAKS_NEVER),
            auto={"targets": ["down/m1", "openai/m1"]},
        )
        limiter = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for case in cases:
                nursery.start_soon(_ask, gateway, case, limiter)
        await gateway.settled(REQUESTS)
        await gateway.stop()
    records = read_chain(gateway.config.log_dir)
    entries = check_pairs(records)
    by_name = {entry.intent["client_request_id"]: entry for entry in entries.values()}
    known = [case for case in cases if case.kind != "bad key"]
    assert len(entries) == len(by_name) == len(known)
    assert sum(event["count"] for event in events(records, "authentication_failed")) == REQUESTS - len(known)
    for case in known:
        _check(case, by_name[case.name])
    asked = Counter(_trace_of(request) for request in [*provider.asked, *second_provider.asked])
    assert {case.trace: len(by_name[case.name].asked) for case in known} == asked
    assert asked == {case.trace: case.attempts for case in known}
    reported = [entry.closing for entry in entries.values() if entry.closing.get("usage_source") == "reported"]
    assert sum(closing["cost_nusd"] for closing in reported) == sum(
        case.cost_nusd for case in known if case.kind in _REPORTED
    )
    for name in PRICES:
        spent_nusd = sum(e.closing.get("cost_nusd", 0) for e in entries.values() if e.closing.get("provider") == name)
        assert _metric(gateway, f'securellm_cost_usd_total{{provider="{name}"}}') == pytest.approx(spent_nusd / 1e9)
    verify(gateway.config.state_dir.parent)


def _metric(gateway: RunningGateway, name: str) -> float:
    lines = gateway.runtime.metrics.expose().decode().splitlines()
    (value,) = [line.removeprefix(name) for line in lines if line.startswith(name)]
    return float(value)


def _make_case(chance: random.Random, number: int) -> Case:
    kind = KINDS[number % len(KINDS)]
    provider = "openai" if kind == "falls back" else chance.choice(list(PRICES))
    buckets = {bucket: chance.choice([0, 1, 7, chance.randrange(200_000)]) for bucket in PRICES[provider]}
    buckets["output"] += 1
    stream = kind in ("cut", "caller leaves") or (kind in (*_REPORTED, "no usage") and chance.random() < 0.5)
    return Case(number, kind, provider, stream, buckets)


def _trace_of(request: Received) -> str:
    trace = request.header("traceparent")
    assert trace is not None
    return trace.split("-")[1]


def _answer(case: Case) -> Script:
    spoken = speech.MESSAGES if case.provider == "anthropic" else speech.CHAT
    match case.kind:
        case "refused":
            return script.answer(400, spoken.error(400))
        case "422":
            return script.answer(422, spoken.error(422))
        case "null body":
            return script.answer(200, b"null")
        case "empty body":
            return script.answer(200, b"")
        case "text for JSON":
            return script.answer(200, b"<html>good morning</html>")
    if not case.stream:
        return script.answer(200, _odd(spoken.whole("Hello"), case))
    assert spoken.events is not None
    frames = [_odd_frame(frame, case) for frame in spoken.events(("Hel", "lo"))]
    if case.kind in ("cut", "caller leaves"):
        first = next(number for number, frame in enumerate(frames) if b"Hel" in frame)
        ending: Step = script.fin() if case.kind == "cut" else script.never()
        return [*script.stream(frames[: first + 1], ended=False), ending]
    return script.stream(frames)


def _odd_frame(frame: bytes, case: Case) -> bytes:
    head, mark, data = frame.partition(b"data: ")
    if not data.startswith(b"{"):
        return frame
    value = json.loads(data)
    if "message" in value:
        value["message"] = _odd(value["message"], case)
    elif value.get("type", "message_delta") == "message_delta":
        value = _odd(value, case)
    return head + mark + script.json_bytes(value) + b"\n\n"


def _odd(value: dict[str, Any], case: Case) -> dict[str, Any]:
    """What the provider says, with the usage of the case and its oddity."""
    value = dict(value)
    if "usage" in value:
        value["usage"] = None if case.kind == "null usage" else case.usage()
        if case.kind == "no usage":
            del value["usage"]
    if "id" in value and case.kind in ("null id", "no id"):
        value["id"] = None
        if case.kind == "no id":
            del value["id"]
    return value


async def _ask(gateway: RunningGateway, case: Case, limiter: trio.CapacityLimiter) -> None:
    headers = {
        **case.door.auth("sk-wrong" if case.kind == "bad key" else doors.KEY),
        "traceparent": f"00-{case.trace}-00000000000000aa-01",
        "x-request-id": case.name,
    }
    async with limiter, open_client(gateway.base_url) as client:
        await client.request("POST", case.door.path, case.door.body(case.model, stream=case.stream), headers)
        case.status = (await client.read_head()).status
        if case.kind == "caller leaves":
            await client.read_until(b"Hel")
            client.rst()
            return
        with contextlib.suppress(BodyCut):
            await client.read_body()


def _check(case: Case, entry: Entry) -> None:
    closing = entry.closing
    status = {
        "refused": "failed",
        "422": "failed",
        "null body": "failed",
        "empty body": "failed",
        "text for JSON": "failed",
        "cut": "truncated",
        "caller leaves": "cancelled",
    }.get(case.kind, "success")
    assert closing["status"] == status, (case, closing)
    assert closing["http_status"] == case.status, (case, closing)
    if case.kind in _REPORTED:
        assert closing["usage_source"] == "reported", (case, closing)
        assert closing["cost_nusd"] == case.cost_nusd, (case, closing)
        assert closing["total_tokens"] == sum(case.buckets.values()), (case, closing)
    elif status == "failed":
        assert "usage" not in closing, (case, closing)
    else:
        assert closing["usage_source"] == "estimated", (case, closing)
        assert closing["completion_tokens"] > 0, (case, closing)
