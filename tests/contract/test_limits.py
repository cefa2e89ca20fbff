"""Rate limits as callers meet them: who is let in, what the others are told, and what every answer shows."""

import pytest
import trio

from rig import doors, script, speech
from rig.pairs import FAMILIES
from rig.waiting import until_true
from securellm.chat import Status

_CHAT = doors.CHAT
_GOOD = script.answer(200, speech.CHAT.whole("Hello"))
_MODEL = "openai/m1"


async def test_over_a_provider_s_limit(serving, provider):
    """The words that the first users' scripts look for, Retry-After and x-ratelimit-*; the provider is not asked."""
    provider.default = _GOOD
    with trio.fail_after(20):
        limits = {"enabled": True, "openai_rpm": 6, "openai_burst": 2}
        gateway = await serving({"openai": provider}, rate_limit=limits)
        good = [await gateway.ask(_CHAT, _CHAT.body(_MODEL)) for _ in range(2)]
        refused = await gateway.ask(_CHAT, _CHAT.body(_MODEL))
        assert [response.status for response in [*good, refused]] == [200, 200, 429]
        assert refused.json() == {
            "error": {
                "message": "Rate limit exceeded for provider: openai",
                "type": "rate_limit_exceeded",
                "code": "rate_limit",
                "param": "openai",
            }
        }
        shown = [response.header("x-ratelimit-remaining-requests") for response in [*good, refused]]
        assert shown == ["1", "0", "0"]
        assert {response.header("x-ratelimit-limit-requests") for response in [*good, refused]} == {"6"}
        assert 9 <= int(refused.header("retry-after")) <= 10
        assert refused.header("x-securellm-error-source") == "gateway"
        assert len(provider.asked) == 2
        assert (await gateway.settled(3)).outcome.status is Status.RATE_LIMITED


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.door.name)
@pytest.mark.parametrize("stream", [False, True])
async def test_every_door_refuses_in_its_own_dialect(serving, provider, family, stream: bool):
    """Whole or streamed, a caller over its key's limit gets 429 before anything else, in its door's envelope."""
    door = family.door
    with trio.fail_after(20):
        gateway = await serving(provider, rate_limit={"enabled": True, "per_key": {"rpm": 1, "burst": 1}})
        body = door.body(f"{family.provider}/m1", stream=stream and door.text_of_stream is not None)
        await gateway.ask(door, body)
        refused = await gateway.ask(door, body)
        assert refused.status == 429
        assert door.error_of(refused)["message"].startswith("Rate limit exceeded for key: ")
        assert refused.header("x-ratelimit-limit-requests") == "1"
        assert 59 <= int(refused.header("retry-after")) <= 60


async def test_the_next_target_is_tried(serving, provider, second_provider):
    """Where one provider's limit refuses, the next of the route answers; 429 is for when every one refuses."""
    provider.default = second_provider.default = _GOOD
    limits = {"enabled": True, "openai_rpm": 1, "openai_burst": 1, "compat_rpm": 1, "compat_burst": 1}
    with trio.fail_after(20):
        gateway = await serving(
            {"openai": provider, "compat": second_provider},
            rate_limit=limits,
            auto={"targets": ["openai/m1", "compat/m1"]},
        )
        answers = [await gateway.ask(_CHAT, _CHAT.body("auto")) for _ in range(3)]
        assert [response.status for response in answers] == [200, 200, 429]
        assert [response.header("x-securellm-provider") for response in answers[:2]] == ["openai", "compat"]
        assert (len(provider.asked), len(second_provider.asked)) == (1, 1)


async def test_requests_at_one_time(serving, provider):
    """Of four times the limit at once exactly the limit reaches the provider; when they have ended, others may."""
    finish = trio.Event()
    provider.default = (script.until(finish), *_GOOD)
    statuses: list[int] = []

    async def ask() -> None:
        statuses.append((await gateway.ask(_CHAT, _CHAT.body(_MODEL))).status)

    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, rate_limit={"enabled": True, "per_key": {"concurrent": 3}})
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(ask)
            await until_true(lambda: len(statuses) == 9 and len(provider.asked) == 3)
            assert statuses == [429] * 9
            finish.set()
        assert sorted(statuses) == [200] * 3 + [429] * 9
        assert len(provider.asked) == 3
        await ask()
        assert statuses[-1] == 200


async def test_tokens_are_trued_up_to_what_the_provider_says(serving, provider):
    """What the next request finds is less by what the last one really used, whatever was reserved for it."""
    provider.default = _GOOD
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, rate_limit={"enabled": True, "per_key": {"tpm": 200}})
        body = _CHAT.body(_MODEL)
        left = [int((await gateway.ask(_CHAT, body)).header("x-ratelimit-remaining-tokens")) for _ in range(2)]
        reserved = 200 - left[0]
        used = speech.INPUT_TOKENS + speech.OUTPUT_TOKENS
        assert used != reserved
        assert left[1] - (200 - used - reserved) in range(5)  # the rate brings some meanwhile


async def test_more_tokens_than_the_limit_ever_grants(serving, provider):
    """Waiting would not help: 413, which the SDKs do not retry."""
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, rate_limit={"enabled": True, "per_key": {"tpm": 5}})
        refused = await gateway.ask(_CHAT, _CHAT.body(_MODEL))
        assert (refused.status, _CHAT.error_of(refused)["code"]) == (413, "over_limit_capacity")
        assert provider.asked == []


async def test_shadow(serving, provider):
    """Nothing is refused, and the metric tells what would have been."""
    provider.default = _GOOD
    limits = {"enabled": True, "shadow": True, "openai_rpm": 1, "openai_burst": 1}
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, rate_limit=limits, telemetry={"metrics_public": True})
        assert [(await gateway.ask(_CHAT, _CHAT.body(_MODEL))).status for _ in range(3)] == [200] * 3
        scraped = (await gateway.get("/metrics")).body.decode()
        assert 'securellm_rate_limited_total{measure="requests",scope="provider",shadow="yes"} 2.0' in scraped
