"""Budgets as callers meet them: reserved before anybody is asked, settled after, and never overspent (4, 35)."""

import os

import pytest
import trio

from rig import doors, script, speech
from rig.books import INPUT_NUSD, OUTPUT_NUSD, PRICED
from rig.pairs import PAIRS, Pair
from rig.speech import INPUT_TOKENS, OUTPUT_TOKENS
from rig.waiting import until_true
from securellm.chat import Status

CHAT = doors.CHAT
MAX_TOKENS = 1000
BODY = CHAT.body("openai/m1", max_tokens=MAX_TOKENS)
MOST_NUSD = 150 * INPUT_NUSD * 2 + MAX_TOKENS * OUTPUT_NUSD  # above what BODY may cost, and below twice that
COST_NUSD = INPUT_TOKENS * INPUT_NUSD + OUTPUT_TOKENS * OUTPUT_NUSD  # of one answer
CALLERS = max(50, int(1000 * float(os.environ.get("SECURELLM_TEST_SCALE", "1.0"))))


def usd(nusd: int) -> float:
    return nusd / 1_000_000_000


def settings(nusd: int, **more: object) -> dict[str, object]:
    return {"models": {"openai/*": PRICED | {"free": False}}, "budgets": {"per_key": {"usd": usd(nusd), **more}}}


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.same_dialect and pair.provider == "openai"], ids=str)
async def test_what_does_not_fit_is_refused_in_the_callers_dialect(serving, provider, pair: Pair):
    """402 that says whose budget it is, before anybody is asked."""
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, **settings(1))
        refused = await gateway.ask(pair.door, pair.door.body(pair.model))
        error = pair.door.error_of(refused)
        assert (refused.status, error["code"], error["type"]) == (402, "budget_exceeded", "budget_exceeded")
        assert provider.asked == []
        assert (await gateway.only_settlement()).outcome.status is Status.REJECTED


async def test_a_request_is_settled_to_what_it_cost(serving, provider):
    """What was reserved and not used is free for the next: far more requests fit than worst cases would."""
    provider.default = script.answer(200, speech.CHAT.whole("Hello"))
    with trio.fail_after(30):
        gateway = await serving({"openai": provider}, **settings(MOST_NUSD + 20 * COST_NUSD))
        for _ in range(20):
            assert (await gateway.ask(CHAT, BODY)).status == 200
        assert sum(settlement.cost_nusd or 0 for settlement in gateway.settlements) == 20 * COST_NUSD


@pytest.mark.slow
async def test_exactly_as_many_at_once_as_the_budget_holds(serving, provider):
    """Of many concurrent requests exactly ten reach the provider when ten worst cases fit."""
    hold = trio.Event()
    provider.default = [script.until(hold), *script.answer(200, speech.CHAT.whole("Hello"))]
    statuses: list[int] = []
    with trio.fail_after(120):
        gateway = await serving({"openai": provider}, **settings(10 * MOST_NUSD))

        async def ask() -> None:
            statuses.append((await gateway.ask(CHAT, BODY)).status)

        async with trio.open_nursery() as nursery:
            for _ in range(CALLERS):
                nursery.start_soon(ask)
            await until_true(lambda: len(statuses) + len(provider.asked) == CALLERS)
            hold.set()
        spent = sum(settlement.cost_nusd or 0 for settlement in gateway.settlements)
        # Between ten (each reserves at most MOST_NUSD) and what the same budget holds of the cheapest worst case.
        assert 10 <= len(provider.asked) <= 10 * MOST_NUSD // (MAX_TOKENS * OUTPUT_NUSD)
        assert statuses.count(200) == len(provider.asked)
        assert statuses.count(402) == CALLERS - len(provider.asked)
        assert spent <= 10 * MOST_NUSD


async def test_free_models_stay_usable(serving, provider):
    """An exhausted budget in USD refuses nothing that costs nothing."""
    provider.default = script.answer(200, speech.CHAT.whole("Hello"))
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, budgets={"per_key": {"usd": 0.0}})
        assert (await gateway.ask(CHAT, BODY)).status == 200


async def test_a_budget_of_tokens(serving, provider):
    """Tokens are bounded as money is."""
    provider.default = script.answer(200, speech.CHAT.whole("Hello"))
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, budgets={"per_key": {"tokens": MAX_TOKENS}})
        assert (await gateway.ask(CHAT, BODY)).status == 402
        assert (await gateway.ask(CHAT, CHAT.body("openai/m1", max_tokens=10))).status == 200


async def test_a_failure_gives_back_what_was_reserved(serving, provider):
    """A provider that cannot be asked costs nothing."""
    provider.default = script.answer(500, speech.CHAT.error(500))
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, **settings(MOST_NUSD))
        for _ in range(3):
            assert (await gateway.ask(CHAT, BODY)).status == 500
        provider.default = script.answer(200, speech.CHAT.whole("Hello"))
        assert (await gateway.ask(CHAT, BODY)).status == 200


async def test_an_overrun_is_recorded_and_blocks_the_next(serving, provider):
    """A provider that reports more than was reserved is charged in full, noted, and the next request is refused."""
    greedy = speech.CHAT.whole("Hello")
    greedy["usage"] = {"prompt_tokens": 11, "completion_tokens": 5 * MAX_TOKENS, "total_tokens": 11 + 5 * MAX_TOKENS}
    provider.default = script.answer(200, greedy)
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, **settings(2 * MOST_NUSD))
        assert (await gateway.ask(CHAT, BODY)).status == 200
        settlement = await gateway.only_settlement()
        cost_nusd = 11 * INPUT_NUSD + 5 * MAX_TOKENS * OUTPUT_NUSD
        assert settlement.cost_nusd == cost_nusd
        assert settlement.overrun_nusd is not None
        assert cost_nusd - MOST_NUSD <= settlement.overrun_nusd <= cost_nusd - MAX_TOKENS * OUTPUT_NUSD
        assert (await gateway.ask(CHAT, BODY)).status == 402
        assert len(provider.asked) == 1


async def test_a_stream_beyond_its_reservation_ends_with_an_error(serving, provider):
    """A provider that ignores the bound on its output is cut off, in the caller's dialect, without a [DONE]."""
    pieces = ["word " * 40 for _ in range(40)]
    assert speech.CHAT.events is not None
    provider.default = script.stream(speech.CHAT.events(pieces, ()), "sse")
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, **settings(MOST_NUSD))
        response = await gateway.ask(CHAT, CHAT.body("openai/m1", stream=True, max_tokens=10))
        assert response.status == 200
        assert CHAT.error_event_of(response.body)["code"] == "budget_exceeded"
        assert b"[DONE]" not in response.body
        assert len(response.body) < len("".join(pieces))
        assert (await gateway.only_settlement()).outcome.error_code == "budget_exceeded"
