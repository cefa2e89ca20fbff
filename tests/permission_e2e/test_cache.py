"""The cache of answers as callers meet it: who is given what again, what is recorded, and one call for many (33)."""

import json

import pytest
import trio

from rig import doors, script, speech
from rig.audit_log import read_chain
from rig.books import INPUT_NUSD, OUTPUT_NUSD, PRICED
from rig.pairs import PAIRS, Pair
from rig.speech import INPUT_TOKENS, OUTPUT_TOKENS
from rig.waiting import until_true

CHAT = doors.CHAT
ON = {"cache": {"enabled": True}}
CACHED = [pair for pair in PAIRS if pair.same_dialect and pair.speech.name != "count_tokens"]


@pytest.mark.parametrize("pair", CACHED, ids=str)
async def test_the_same_question_is_asked_once(serving, provider, pair: Pair):
    """The second answer is the first one's bytes, and says that it comes from the cache; nobody is asked."""
    provider.default = pair.answers()
    with trio.fail_after(20):
        gateway = await serving({pair.provider: provider}, **ON)
        first = await gateway.ask(pair.door, pair.door.body(pair.model))
        second = await gateway.ask(pair.door, pair.door.body(pair.model))
        assert (first.status, second.status) == (200, 200)
        assert first.body == second.body
        assert (first.header("x-securellm-cache"), second.header("x-securellm-cache")) == (None, "hit")
        assert len(provider.asked) == 1
        assert [settlement.cache for settlement in gateway.settlements] == ["miss", "hit"]


@pytest.mark.parametrize("pair", [pair for pair in CACHED if pair.speech.events], ids=str)
async def test_a_whole_answer_is_given_again_as_a_stream(serving, provider, pair: Pair):
    """A hit comes in the form that is asked for, with the stream's own end."""
    provider.default = pair.answers("Hello there")
    with trio.fail_after(20):
        gateway = await serving({pair.provider: provider}, **ON)
        whole = await gateway.ask(pair.door, pair.door.body(pair.model))
        stream = await gateway.ask(pair.door, pair.door.body(pair.model, stream=True))
        assert stream.header("x-securellm-cache") == "hit"
        assert pair.door.text_of_stream is not None
        assert pair.door.text_of_stream(stream.body) == pair.door.text_of_whole(whole.json()) == "Hello there"
        assert pair.door.terminal in stream.body
        assert len(provider.asked) == 1


async def test_a_stream_is_given_again_whole(serving, provider):
    """And the other way round."""
    events = speech.CHAT.events
    assert events is not None
    provider.default = script.stream(events(("Hel", "lo"), ()), "sse")
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, **ON)
        assert (await gateway.ask(CHAT, CHAT.body("openai/m1", stream=True))).status == 200
        whole = await gateway.ask(CHAT, CHAT.body("openai/m1"))
        assert whole.header("x-securellm-cache") == "hit"
        assert CHAT.text_of_whole(whole.json()) == "Hello"


async def test_a_hit_costs_nothing_and_is_recorded_with_what_it_saved(serving, provider):
    """Both records are written, without an attempt, and the saving is what the answer had cost."""
    provider.default = script.answer(200, speech.CHAT.whole("Hello"))
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, models={"openai/*": PRICED | {"free": False}}, **ON)
        for _ in range(2):
            await gateway.ask(CHAT, CHAT.body("openai/m1"))
        await gateway.stop()
        closings = [r for r in read_chain(gateway.config.log_dir) if r["event_type"] == "response_sent"]
        cost_nusd = INPUT_TOKENS * INPUT_NUSD + OUTPUT_TOKENS * OUTPUT_NUSD
        assert [closing.get("cost_nusd") for closing in closings] == [cost_nusd, None]
        assert (closings[1]["saved_nusd"], closings[1]["cache"]) == (cost_nusd, "hit")
        assert "attempts" not in closings[1]


async def test_many_who_ask_the_same_at_once_make_one_call(serving, provider):
    """Followers wait for the leader and are given its answer."""
    hold = trio.Event()
    provider.default = [script.until(hold), *script.answer(200, speech.CHAT.whole("Hello"))]
    answers = []
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, **ON)

        async def ask() -> None:
            answers.append(await gateway.ask(CHAT, CHAT.body("openai/m1")))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
            await until_true(lambda: len(provider.asked) == 1)
            await trio.sleep(0.3)  # time for a second call, if there were one
            hold.set()
        assert {json.dumps(answer.json()) for answer in answers} == {json.dumps(answers[0].json())}
        assert len(provider.asked) == 1


async def test_a_leader_that_fails_takes_nobody_down(serving, provider):
    """Who waited for an answer that failed asks for itself."""
    provider.enqueue(*script.answer(500, speech.CHAT.error(500)))
    provider.default = script.answer(200, speech.CHAT.whole("Hello"))
    statuses: list[int] = []
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, **ON)

        async def ask() -> None:
            statuses.append((await gateway.ask(CHAT, CHAT.body("openai/m1"))).status)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
        assert sorted(statuses) == [200] * 9 + [500]


@pytest.mark.parametrize("cut", ["fin", "rst"])
async def test_a_truncated_stream_is_not_kept(serving, provider, cut: str):
    """Only what ended as the provider ends it is given again."""
    events = speech.CHAT.events
    assert events is not None
    frames = events(("Hel", "lo"), ())
    ending = script.fin() if cut == "fin" else script.rst()
    provider.enqueue(script.stream_head(), *(script.chunk(frame) for frame in frames[:2]), ending)
    provider.default = script.stream(frames, "sse")
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, **ON)
        await gateway.ask(CHAT, CHAT.body("openai/m1", stream=True))
        again = await gateway.ask(CHAT, CHAT.body("openai/m1", stream=True))
        assert again.header("x-securellm-cache") is None
        assert len(provider.asked) == 2


async def test_a_callers_other_question_is_asked(serving, provider):
    """Any difference in the body is another question, and so is another caller's same one."""
    provider.default = script.answer(200, speech.CHAT.whole("Hello"))
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, **ON)
        for fields in ({}, {"temperature": 0.5}, {"unknown": 1}):
            await gateway.ask(CHAT, CHAT.body("openai/m1", **fields))
        assert len(provider.asked) == 3


async def test_without_the_setting_nothing_is_kept(serving, provider):
    """Off by default."""
    provider.default = script.answer(200, speech.CHAT.whole("Hello"))
    with trio.fail_after(20):
        gateway = await serving({"openai": provider})
        for _ in range(2):
            await gateway.ask(CHAT, CHAT.body("openai/m1"))
        assert len(provider.asked) == 2
        assert [settlement.cache for settlement in gateway.settlements] == ["off", "off"]
