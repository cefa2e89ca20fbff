"""Limits as callers meet them: who is refused, in which words, and that nobody is asked for what is refused (18)."""

import math

import pytest
import trio

from rig import doors, script, speech
from rig.pairs import PAIRS, Pair
from rig.speech import INPUT_TOKENS, OUTPUT_TOKENS
from rig.waiting import until_true
from securellm.chat import Status

CHAT = doors.CHAT
GOOD = script.answer(200, speech.CHAT.whole("Hello"))
ON = {"enabled": True}


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.same_dialect], ids=str)
async def test_a_provider_over_its_limit_refuses_in_the_callers_dialect(serving, provider, pair: Pair):
    """The second request within a burst of one is 429 with Retry-After and x-ratelimit-*, and reaches nobody."""
    provider.default = pair.answers()
    with trio.fail_after(20):
        limits = {**ON, f"{pair.provider}_rpm": 60, f"{pair.provider}_burst": 1}
        gateway = await serving({pair.provider: provider}, rate_limit=limits)
        first = await gateway.ask(pair.door, pair.door.body(pair.model))
        assert first.status == 200, first.body
        assert first.header("x-ratelimit-limit-requests") == "60"
        assert first.header("x-ratelimit-remaining-requests") == "0"
        second = await gateway.ask(pair.door, pair.door.body(pair.model))
        assert second.status == 429
        error = pair.door.error_of(second)
        assert error["code"] == "rate_limit"
        assert error["message"] == f"Rate limit exceeded for provider: {pair.provider}"
        if pair.door.dialect == "anthropic":
            assert error["type"] == "rate_limit_error"
        else:
            assert (error["type"], error["param"]) == ("rate_limit_exceeded", pair.provider)
        assert second.header("retry-after") == "1"
        assert second.header("x-ratelimit-remaining-requests") == "0"
        assert len(provider.asked) == 1
        settlement = await gateway.settled(2)
        assert settlement.outcome.status is Status.RATE_LIMITED
        assert [attempt.skipped for attempt in settlement.attempts] == ["rate_limit"]


async def test_waiting_retry_after_is_enough(serving, provider):
    """A sole caller who waits as long as it was told is let in, every time."""
    provider.default = GOOD
    with trio.fail_after(30):
        gateway = await serving({"openai": provider}, rate_limit={**ON, "openai_rpm": 120, "openai_burst": 1})
        for _ in range(3):
            assert (await gateway.ask(CHAT, CHAT.body("openai/m1"))).status == 200
            refused = await gateway.ask(CHAT, CHAT.body("openai/m1"))
            assert refused.status == 429
            wait_s = float(refused.header("retry-after") or math.inf)
            assert 0 < wait_s <= 1
            await trio.sleep(wait_s)


async def test_the_next_target_answers_where_one_is_at_its_limit(serving, provider, second_provider):
    """Every attempt takes from its own provider; 429 is answered only when all of them refuse."""
    provider.default = second_provider.default = GOOD
    fakes = {"openai": provider, "compat": second_provider}
    limits = {**ON, "openai_rpm": 60, "openai_burst": 1, "compat_rpm": 60, "compat_burst": 1}
    with trio.fail_after(20):
        gateway = await serving(fakes, rate_limit=limits, auto={"targets": ["openai/m1", "compat/m1"]})
        answers = [await gateway.ask(CHAT, CHAT.body("auto")) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert [answer.header("x-securellm-provider") for answer in answers[:2]] == ["openai", "compat"]
        assert (len(provider.asked), len(second_provider.asked)) == (1, 1)
        second = await gateway.settled(2)
        assert [attempt.skipped for attempt in gateway.settlements[1].attempts] == ["rate_limit", None]
        assert second.outcome.status is Status.SUCCESS


async def test_a_key_has_its_own_limit(serving, provider):
    """A limit of keys refuses before any provider is chosen, and names the key's scope."""
    provider.default = GOOD
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, rate_limit={**ON, "per_key": {"rpm": 60, "burst": 2}})
        answers = [await gateway.ask(CHAT, CHAT.body("openai/m1")) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert CHAT.error_of(answers[2])["param"] == "key"
        assert len(provider.asked) == 2


async def test_requests_at_one_time_are_bounded(serving, provider):
    """Of many at once exactly as many reach the provider as are allowed, and places are free again afterwards."""
    hold = trio.Event()
    arrived = []

    def play(request):
        arrived.append(request)
        return [script.until(hold), *GOOD]

    provider.choose = play
    with trio.fail_after(30):
        gateway = await serving({"openai": provider}, rate_limit={**ON, "per_key": {"concurrent": 5}})
        statuses: list[int] = []

        async def ask() -> None:
            statuses.append((await gateway.ask(CHAT, CHAT.body("openai/m1"))).status)

        async with trio.open_nursery() as nursery:
            for _ in range(25):
                nursery.start_soon(ask)
            await until_true(lambda: len(statuses) == 20 and len(arrived) == 5)
            hold.set()
        assert sorted(statuses) == [200] * 5 + [429] * 20
        assert len(arrived) == 5
        assert (await gateway.ask(CHAT, CHAT.body("openai/m1"))).status == 200


async def test_tokens_are_trued_up(serving, provider):
    """What was reserved and not used comes back: the bucket stands at what the provider reported."""
    provider.default = GOOD
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, rate_limit={**ON, "per_key": {"tpm": 100_000}})
        body = CHAT.body("openai/m1", metadata={"long": "x" * 8_000})
        assert (await gateway.ask(CHAT, body)).status == 200
        remaining = int((await gateway.ask(CHAT, CHAT.body("openai/m1"))).header("x-ratelimit-remaining-tokens") or 0)
        used = 100_000 - (INPUT_TOKENS + OUTPUT_TOKENS)
        assert used - len(CHAT.body("openai/m1")) // 4 - 2 <= remaining <= 100_000


async def test_what_an_answer_may_have_is_reserved(serving, provider):
    """A bound on the answer counts before the answer is there, so that many at once cannot use more than the limit."""
    hold = trio.Event()
    provider.default = [script.until(hold), *GOOD]
    statuses: list[int] = []
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, rate_limit={**ON, "per_key": {"tpm": 1000}})

        async def ask() -> None:
            statuses.append((await gateway.ask(CHAT, CHAT.body("openai/m1", max_tokens=300))).status)

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(ask)
            await until_true(lambda: len(statuses) + len(provider.asked) == 6)
            hold.set()
        assert sorted(statuses) == [200] * 2 + [429] * 4 or sorted(statuses) == [200] * 3 + [429] * 3


async def test_what_could_never_fit_is_another_error(serving, provider):
    """A request over the whole bucket is told so, and is not told to wait."""
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, rate_limit={**ON, "per_key": {"tpm": 10}})
        refused = await gateway.ask(CHAT, CHAT.body("openai/m1"))
        assert (refused.status, refused.header("retry-after")) == (413, None)
        assert CHAT.error_of(refused)["code"] == "over_limit_capacity"
        assert provider.asked == []


async def test_shadow_mode_refuses_nobody(serving, provider):
    """What would be refused is counted and served."""
    provider.default = GOOD
    with trio.fail_after(20):
        limits = {**ON, "shadow": True, "openai_rpm": 60, "openai_burst": 1}
        gateway = await serving({"openai": provider}, rate_limit=limits)
        assert [(await gateway.ask(CHAT, CHAT.body("openai/m1"))).status for _ in range(3)] == [200, 200, 200]
        metrics = (await gateway.runtime.expose_metrics()).decode()
        assert 'securellm_rate_limited_total{measure="requests",scope="provider",shadow="yes"} 2.0' in metrics
