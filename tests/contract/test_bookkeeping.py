"""A mixed crowd: every request leaves one settlement, and the books agree with what the providers saw (3, 5).

Whatever happens to a request (a good answer, an error, a retry, a cut, a caller who leaves) there is exactly one
settlement of it, the attempts in the settlements are the requests that the fake provider received, and the usage is
the scripted usage where an answer was complete. SECURELLM_TEST_SCALE times 1,000 requests.
"""

import os
import random
from collections import Counter
from dataclasses import dataclass, field

import trio

from rig import script
from rig.fake_provider import Received
from rig.pairs import PAIRS, Pair
from rig.raw_client import BodyCut, open_client
from rig.speech import INPUT_TOKENS, OUTPUT_TOKENS
from securellm.chat import Settlement, Status

REQUESTS = max(100, int(1000 * float(os.environ.get("SECURELLM_TEST_SCALE", "1.0"))))
AT_ONCE = 16
_KINDS = ("good", "good", "good", "refused", "retried", "cut", "hangs up", "left waiting", "left streaming", "bad key")


@dataclass
class Case:
    """One request and what becomes of it."""

    number: int
    kind: str
    pair: Pair
    stream: bool
    key: str | None = None
    reached: trio.Event = field(default_factory=trio.Event)
    asked: int = 0
    status: int = 0

    @property
    def name(self) -> str:
        """The model, by which the request and its settlement are found."""
        return f"case-{self.number}"


async def test_the_books_agree_with_the_providers(serving, provider):
    """One settlement for each request; attempts, statuses and usage as scripted."""
    chance = random.Random(5)
    pairs = [pair for pair in PAIRS if pair.speech.name not in {"count_tokens", "embeddings"}]
    cases: dict[str, Case] = {}
    for number in range(REQUESTS):
        kind, pair = chance.choice(_KINDS), chance.choice(pairs)
        stream = kind == "left streaming" or (kind != "left waiting" and chance.random() < 0.5)
        case = Case(number, kind, pair, stream)
        cases[case.name] = case

    def play(request: Received) -> script.Script:
        case = cases[request.json()["model"]]
        case.asked += 1
        case.reached.set()
        return _script(case)

    provider.choose = play
    calm = {"circuit_breaker": {"failure_threshold": 100_000}, "max_retries": 1}
    with trio.fail_after(120):
        gateway = await serving(provider, providers={name: calm for name in {pair.provider for pair in pairs}})
        limiter = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for case in cases.values():
                nursery.start_soon(_ask, gateway, case, limiter)
        await gateway.settled(REQUESTS)
    assert gateway.runtime.statistics().gateway.open_requests == 0
    by_name = _by_name(gateway.settlements)
    assert len(gateway.settlements) == REQUESTS == len({s.request_id for s in gateway.settlements})
    for case in cases.values():
        if case.kind == "bad key":
            assert case.asked == 0
            continue
        _check(case, by_name[case.name])
    recorded = sum(len([a for a in s.attempts if a.skipped is None]) for s in gateway.settlements)
    assert recorded == len(provider.asked)
    print(
        Counter(
            (case.kind, by_name[case.name].outcome.status.value) for case in cases.values() if case.kind != "bad key"
        )
    )


def _script(case: Case) -> script.Script:
    speech = case.pair.speech
    good = case.pair.answers("Hello", stream_it=case.stream)
    match case.kind:
        case "refused":
            return script.answer(400, speech.error(400))
        case "retried" if case.asked == 1:
            return script.answer(503, speech.error(503))
        case "left waiting":
            return [script.never()]
        case "hangs up":
            return [script.fin()]
        case "cut" if not case.stream:
            return [*script.answer(200, speech.whole("Hello"), length=100_000), script.fin()]
        case "cut" | "left streaming":
            assert speech.events is not None
            events = speech.events(("Hello",))
            first = next(number for number, event in enumerate(events) if b"Hello" in event)
            opening = script.stream(events[: first + 1], speech.kind, ended=False)
            return [*opening, script.fin() if case.kind == "cut" else script.never()]
    return good


async def _ask(gateway, case: Case, limiter: trio.CapacityLimiter) -> None:
    door, pair = case.pair.door, case.pair
    body = door.body(f"{pair.provider}/{case.name}", stream=case.stream)
    headers = door.auth("slb_wrong") if case.kind == "bad key" else door.auth()
    async with limiter, open_client(gateway.base_url) as client:
        await client.request("POST", door.path, body, headers)
        if case.kind == "left waiting":
            await case.reached.wait()
            client.fin()
            return
        head = await client.read_head()
        case.status = head.status
        if case.kind == "left streaming":
            await client.read_until(b"Hello")
            client.rst()
            return
        try:
            await client.read_body()
        except BodyCut:
            assert case.kind == "cut"


def _by_name(settlements: list[Settlement]) -> dict[str, Settlement]:
    found: dict[str, Settlement] = {}
    for settlement in settlements:
        if settlement.requested_model is not None:
            name = settlement.requested_model.partition("/")[2]
            assert name not in found, "two settlements of one request"
            found[name] = settlement
    return found


def _check(case: Case, settlement: Settlement) -> None:
    ended = settlement.outcome.status
    expected = {
        "good": {Status.SUCCESS},
        # The bucket of retries of an origin may be empty; then the first failure is the answer.
        "retried": {Status.SUCCESS if case.asked == 2 else Status.FAILED},
        "refused": {Status.FAILED},
        "cut": {Status.TRUNCATED},
        "hangs up": {Status.TRUNCATED, Status.FAILED},
        "left waiting": {Status.CANCELLED},
        "left streaming": {Status.CANCELLED},
    }[case.kind]
    assert ended in expected, (case, settlement)
    assert len([a for a in settlement.attempts if a.skipped is None]) == case.asked, (case, settlement)
    if case.status:
        assert settlement.outcome.http_status == case.status, (case, settlement)
    if ended is Status.SUCCESS:
        assert settlement.usage is not None
        assert settlement.usage_source == "reported"
        assert (settlement.usage.prompt_tokens, settlement.usage.completion_tokens) == (INPUT_TOKENS, OUTPUT_TOKENS)
    elif case.stream and case.kind in {"cut", "left streaming"}:
        assert settlement.usage is not None
        assert settlement.usage.completion_tokens > 0
        assert settlement.usage_source == "estimated"
    else:
        assert settlement.usage is None or settlement.usage.completion_tokens == 0, (case, settlement)
