"""The cache of answers: who is given what, who asks, who waits, and what becomes of those who wait."""

import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from rig.redis_server import open_redis_server
from rig.waiting import until_true
from securellm.cache.answers import MAX_BODY_BYTES, MOST_IN_ROW, OFF_LOOP_BYTES, Answers, Hit, Key, Lead
from securellm.cache.memory import MemoryCache
from securellm.cache.redis import RedisCache
from securellm.cache.replay import replay
from securellm.cache.service import Cache
from securellm.chat import Caller, Endpoint, KeyId, Usage
from securellm.config.secrets import Secret
from securellm.config.tree import Cache as Settings
from securellm.config.tree import Redis
from securellm.redis_link.link import open_redis

QUESTION = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "b"}, "logprobs": None, "finish_reason": "stop"}
ANSWER = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE], "usage": None}
USAGE = Usage(input_tokens=3, output_tokens=4)
ALICE = Caller(KeyId("a"), "alice")


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def in_memory(store: Cache | None = None, **settings: Any) -> Answers:
    return Answers(Settings(enabled=True, **settings), 60.0, store or MemoryCache(1_000_000, time.monotonic))


async def key_of(answers: Answers, caller: Caller = ALICE, body: object = QUESTION) -> Key:
    key = await answers.key_of(
        Endpoint.CHAT, encoded(body), caller, provider="openai", model="m", epoch="e", headers=[]
    )
    assert key is not None
    return key


async def find(answers: Answers, key: Key, *, stream: bool = False) -> Hit | Lead:
    return await answers.find(key, stream=stream, include_usage=False)


async def lead(answers: Answers, key: Key) -> Lead:
    found = await find(answers, key)
    assert isinstance(found, Lead)
    return found


def keep(lead: Lead, answer: object = ANSWER, *, stream: bool = False) -> bool:
    body = replay(Endpoint.CHAT, encoded(answer), include_usage=False) if stream else encoded(answer)
    return lead.keep(
        body,
        stream=stream,
        provider="openai",
        model="m",
        usage=USAGE,
        usage_source="reported",
        finish_reason="stop",
        cost_nusd=1234,
    )


async def test_an_answer_is_found_again() -> None:
    """The same bytes, with what it took to get them."""
    answers = in_memory()
    key = await key_of(answers)
    assert keep(await lead(answers, key))
    hit = await find(answers, key)
    assert isinstance(hit, Hit)
    assert (hit.body, hit.content_type) == (encoded(ANSWER), b"application/json")
    assert (hit.entry.usage, hit.entry.cost_nusd, hit.entry.provider) == (USAGE, 1234, "openai")
    figures = answers.statistics()
    assert (figures.hits, figures.misses, figures.leads) == (1, 1, 0)


@pytest.mark.parametrize("kept_as_stream", [False, True])
async def test_an_answer_is_found_in_either_form(kept_as_stream: bool) -> None:
    """Kept from a body or from a stream, it is served as a body and as a stream."""
    answers = in_memory()
    key = await key_of(answers)
    assert keep(await lead(answers, key), stream=kept_as_stream)
    whole, stream = await find(answers, key), await find(answers, key, stream=True)
    assert isinstance(whole, Hit)
    assert isinstance(stream, Hit)
    assert json.loads(whole.body)["choices"] == [CHOICE]
    assert stream.body.endswith(b"data: [DONE]\n\n")
    assert stream.content_type == b"text/event-stream; charset=utf-8"
    if kept_as_stream:
        assert json.loads(whole.body)["usage"]["total_tokens"] == 7


async def test_an_answer_that_no_stream_carries_is_a_miss_for_who_streams() -> None:
    """It is served whole, and whoever wants a stream asks the provider."""
    answers = in_memory()
    key = await key_of(answers)
    strange = {**ANSWER, "choices": [{**CHOICE, "message": {"role": "assistant", "content": "b", "hologram": 1}}]}
    assert keep(await lead(answers, key), strange)
    assert isinstance(await find(answers, key), Hit)
    leads = await find(answers, key, stream=True)
    assert isinstance(leads, Lead)
    leads.abandon()


async def test_tenants_never_meet() -> None:
    """Another user, another team and another key of nobody do not find it; the same team does."""
    answers = in_memory()
    team = Caller(KeyId("a"), "alice", team_id="t")
    keep(await lead(answers, await key_of(answers, team)))
    assert isinstance(await find(answers, await key_of(answers, Caller(KeyId("b"), "bob", team_id="t"))), Hit)
    for caller in (Caller(KeyId("a"), "alice"), Caller(KeyId("a"), "alice", team_id="u"), Caller(KeyId("a"), None)):
        (await lead(answers, await key_of(answers, caller))).abandon()


@pytest.mark.parametrize(
    "answer",
    [
        {**ANSWER, "choices": [{**CHOICE, "finish_reason": "content_filter"}]},
        {**ANSWER, "choices": [{**CHOICE, "message": {"tool_calls": [{"id": "x"}]}, "finish_reason": "tool_calls"}]},
        {**ANSWER, "choices": [{**CHOICE, "message": {"role": "assistant", "content": "x" * 5000}}]},
        {"error": {"message": "x"}},
    ],
)
async def test_what_is_not_kept(answer: object) -> None:
    """Filtered answers, calls of tools, what is too long, errors: the next one asks again."""
    answers = in_memory(max_entry_bytes=4000)
    key = await key_of(answers)
    assert not keep(await lead(answers, key), answer)
    (await lead(answers, key)).abandon()
    assert answers.statistics().unkept == 1
    assert answers.statistics().store.entries == 0


async def test_a_stream_that_was_cut_is_not_kept() -> None:
    """Frames without the end are no answer."""
    answers = in_memory()
    key = await key_of(answers)
    leads = await lead(answers, key)
    frames = replay(Endpoint.CHAT, encoded(ANSWER), include_usage=False).removesuffix(b"data: [DONE]\n\n")
    rest: dict[str, Any] = {"usage_source": None, "finish_reason": None, "cost_nusd": None, "usage": None}
    assert not leads.keep(frames, stream=True, provider="openai", model="m", **rest)
    (await lead(answers, key)).abandon()


async def test_one_asks_for_many(autojump_clock: trio.testing.MockClock) -> None:
    """Of a hundred who ask at once one leads, and all get what it got."""
    answers = in_memory()
    key = await key_of(answers)
    led, hits = 0, []

    async def ask() -> None:
        nonlocal led
        found = await find(answers, key)
        if isinstance(found, Lead):
            led += 1
            await trio.sleep(5)
            keep(found)
        else:
            hits.append(found.body)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(ask)
    assert (led, len(hits), set(hits)) == (1, 99, {encoded(ANSWER)})
    assert answers.statistics().followed == 99


async def test_the_next_one_leads_when_the_first_fails(autojump_clock: trio.testing.MockClock) -> None:
    """Two leaders fail, one is cancelled; the fourth gets the answer for all who still wait."""
    answers = in_memory()
    key = await key_of(answers)
    ends = ["fail", "cancel", "fail", "keep"]
    hits = 0

    async def ask() -> None:
        nonlocal hits
        with trio.CancelScope() as scope:
            found = await find(answers, key)
            if isinstance(found, Hit):
                hits += 1
                return
            end = ends.pop(0)
            try:
                await trio.sleep(1)
                if end == "cancel":
                    scope.cancel()
                    await trio.sleep_forever()
                if end == "keep":
                    keep(found)
            finally:
                found.abandon()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
    assert (hits, ends) == (16, [])
    assert answers.statistics().leads == 0


async def test_who_waits_keeps_its_own_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """A follower whose time is over goes, and neither the leader nor the other followers notice."""
    answers = in_memory()
    key = await key_of(answers)
    leads = await lead(answers, key)
    hits = []

    async def follow() -> None:
        hits.append(await find(answers, key))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            with trio.move_on_after(3) as scope:
                await find(answers, key)
            assert scope.cancelled_caught
            keep(leads)
    assert isinstance(hits[0], Hit)


async def test_nobody_waits_in_a_row_for_what_is_not_kept(autojump_clock: trio.testing.MockClock) -> None:
    """When the leader's answer is of a kind that is not kept, all who wait ask at the same time."""
    answers = in_memory()
    key = await key_of(answers)
    filtered = {**ANSWER, "choices": [{**CHOICE, "finish_reason": "content_filter"}]}

    async def ask() -> None:
        found = await find(answers, key)
        assert isinstance(found, Lead)
        await trio.sleep(1)
        keep(found, filtered)

    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
    assert trio.current_time() - began_s == pytest.approx(2.0)


@pytest.mark.parametrize(("end", "rounds"), [(Lead.decline, 2), (Lead.abandon, MOST_IN_ROW + 1)])
async def test_the_row_of_those_who_wait_is_short(
    end: Callable[[Lead], None], rounds: int, autojump_clock: trio.testing.MockClock
) -> None:
    """One answer that is not for them, or a few that fail, and all who wait ask at the same time."""
    answers = in_memory()
    key = await key_of(answers)

    async def ask() -> None:
        leads = await lead(answers, key)
        await trio.sleep(1)
        end(leads)

    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
    assert trio.current_time() - began_s == pytest.approx(rounds)


async def test_a_lead_ends_once() -> None:
    """What comes after its end changes nothing."""
    answers = in_memory()
    key = await key_of(answers)
    leads = await lead(answers, key)
    leads.abandon()
    assert not keep(leads)
    second = await lead(answers, key)
    leads.abandon()
    assert keep(second)
    second.abandon()
    assert isinstance(await find(answers, key), Hit)


async def test_large_bodies() -> None:
    """One that is read in a thread has the key that it would have; one that is too large has none."""
    answers = in_memory()
    large = {**QUESTION, "pad": "x" * OFF_LOOP_BYTES}
    assert await key_of(answers, body=large) == await key_of(answers, body=large)
    assert await key_of(answers, body=large) != await key_of(answers, body={**large, "pad": "y" * OFF_LOOP_BYTES})
    huge = encoded({**QUESTION, "pad": "x" * MAX_BODY_BYTES})
    none = await answers.key_of(Endpoint.CHAT, huge, ALICE, provider="p", model="m", epoch="e", headers=[])
    assert none is None


async def test_a_damaged_entry_is_a_miss() -> None:
    """What cannot be read, of an older version or damaged, is as good as not there."""
    store = MemoryCache(1_000_000, time.monotonic)
    answers = in_memory(store)
    key = await key_of(answers)
    for junk in (b"", b"\xff", b"\x93\x01\x02\x03"):
        await store.set(key.digest, junk, 60.0)
        (await lead(answers, key)).abandon()


@contextlib.asynccontextmanager
async def _on_redis(url: str) -> AsyncIterator[Answers]:
    async with open_redis(Redis(url=Secret(url))) as link:
        assert link is not None
        with trio.fail_after(20):
            await until_true(lambda: link.statistics().status == "healthy")
        yield in_memory(RedisCache(link))


@pytest.mark.tool("redis-server")
async def test_answers_are_shared_by_redis_and_missed_without_it(tmp_path: Path) -> None:
    """Another process finds the answer; with Redis hung or gone everybody asks for themselves, after 50 ms at most."""
    with open_redis_server(tmp_path) as server:
        async with _on_redis(server.url) as one, _on_redis(server.url) as two:
            key = await key_of(one)
            with trio.fail_after(20):
                keep(await lead(one, key))
                await until_true(lambda: server.command("DBSIZE") == "1")
                assert isinstance(await find(two, key), Hit)
                server.hang()
                began_s = time.monotonic()
                (await lead(two, key)).abandon()
                print(f"a miss after {(time.monotonic() - began_s) * 1000:.0f} ms")
                server.kill()
                keep(await lead(two, key))
                assert two.statistics().store.unavailable == 3
