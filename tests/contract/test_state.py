"""What the gateway says of itself agrees with what happened: health, metrics, models (guarantees 13, 36, 45, 52)."""

import re

import trio

from rig import doors, script, speech
from rig.raw_client import fetch, open_client
from rig.speech import INPUT_TOKENS, OUTPUT_TOKENS
from securellm.chat import Status

_CHAT = doors.CHAT


async def test_metrics_agree_with_the_books(serving, provider):
    """Requests, attempts, errors and tokens in the metrics are those of the settlements."""
    outcomes = [
        script.answer(200, speech.CHAT.whole()),
        script.answer(429, speech.CHAT.error(429)),
        script.stream(speech.CHAT.events()),
        script.answer(200, speech.CHAT.whole()),
        [*script.stream(speech.CHAT.events()[:3], ended=False), script.fin()],
    ]
    for steps in outcomes:
        provider.enqueue(*steps)
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, telemetry={"metrics_public": True})
        for steps in outcomes:
            streams = steps[0] is not outcomes[0][0] and len(steps) > 2
            await gateway.ask(_CHAT, _CHAT.body("openai/m1", stream=streams))
        await gateway.ask(_CHAT, _CHAT.body("openai/m1"), key="slb_wrong")
        await gateway.settled(len(outcomes) + 1)
        text = (await fetch(gateway.base_url, "GET", "/metrics")).body.decode()
    shown = _samples(text, "securellm_requests_total")
    by_status = {status.value: 0 for status in Status}
    for settlement in gateway.settlements:
        by_status[settlement.outcome.status.value] += 1
    assert {labels["status"]: value for labels, value in shown} == {k: v for k, v in by_status.items() if v}
    assert _samples(text, "securellm_provider_requests_total") == [({"provider": "openai"}, len(provider.asked))]
    assert _samples(text, "securellm_provider_errors_total") == [({"provider": "openai"}, 2)]
    usages = [settlement.usage for settlement in gateway.settlements if settlement.usage is not None]
    tokens = {labels["type"]: value for labels, value in _samples(text, "securellm_token_usage_total")}
    assert tokens["prompt"] == sum(usage.prompt_tokens for usage in usages) >= 3 * INPUT_TOKENS
    assert tokens["completion"] == sum(usage.completion_tokens for usage in usages) > 3 * OUTPUT_TOKENS
    assert "sk-rig" not in text


async def test_health_shows_an_open_breaker_without_asking(serving, provider, second_provider):
    """Health comes from real state and costs no request: after five failures the breaker is open there."""
    provider.default = script.answer(500, speech.CHAT.error(500))
    with trio.fail_after(20):
        gateway = await serving({"openai": provider, "compat": second_provider})
        before = (await gateway.get("/api/health")).json()
        assert before["status"] == "healthy"
        for _ in range(5):
            await gateway.ask(_CHAT, _CHAT.body("openai/m1"))
        asked, connections = len(provider.requests), len(provider.connections)
        for _ in range(20):
            after = (await gateway.get("/api/health")).json()
        shown = {entry["name"]: entry for entry in after["providers"]}
        assert after["status"] == "degraded"
        assert shown["openai"]["circuit_breaker"] == "open"
        assert shown["compat"]["circuit_breaker"] == "closed"
        assert "500" in shown["openai"]["last_error"]
        assert (len(provider.requests), len(provider.connections)) == (asked, connections)
        assert second_provider.connections == []


async def test_models_are_learnt_and_listed(gateway, provider):
    """A sync asks the providers for their lists; what they say is listed under their names and can be asked for."""
    provider.models = ["m1", "family/m2"]
    with trio.fail_after(20):
        await gateway.runtime.sync_models()
        listed = (await gateway.get("/v1/models")).json()["data"]
        ids = {model["id"] for model in listed}
        assert {"openai/m1", "openai/family/m2", "anthropic/m1", "ollama/m1"} <= ids
        one = (await gateway.get("/v1/models/openai/family/m2")).json()
        assert (one["id"], one["owned_by"]) == ("openai/family/m2", "openai")
        headers = {"anthropic-version": "2023-06-01"}
        theirs = (await gateway.get("/v1/models", headers)).json()
        assert theirs["data"][0]["type"] == "model"
        provider.default = script.answer(200, speech.CHAT.whole())
        assert (await gateway.ask(_CHAT, _CHAT.body("openai/family/m2"))).status == 200
        assert provider.asked[-1].json()["model"] == "family/m2"


async def test_a_bare_name_with_several_owners(gateway, provider):
    """A bare name that several providers own is 400 and lists them; X-Provider decides."""
    provider.default = script.answer(200, speech.CHAT.whole())
    with trio.fail_after(20):
        await gateway.runtime.sync_models()
        response = await gateway.ask(_CHAT, _CHAT.body("m1"))
        assert response.status == 400
        error = _CHAT.error_of(response)
        assert error["code"] == "ambiguous_model"
        assert "openai/m1" in error["message"]
        assert (await gateway.ask(_CHAT, _CHAT.body("m1"), {"x-provider": "openai"})).status == 200


async def test_a_bare_name_with_one_owner(serving, provider):
    """A bare name that one provider owns goes to it, unchanged."""
    provider.default = script.answer(200, speech.CHAT.whole())
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, providers={"openai": {"models": ["m1"]}})
        body = _CHAT.body("m1")
        response = await gateway.ask(_CHAT, body)
        assert response.status == 200, response
        assert provider.asked[0].body == body
        assert response.header("x-securellm-provider") == "openai"


async def test_an_alias(serving, provider):
    """An alias is spliced into the provider's own name for the model."""
    provider.default = script.answer(200, speech.CHAT.whole())
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, aliases={"fast": "openai/m1"})
        assert (await gateway.ask(_CHAT, _CHAT.body("fast"))).status == 200
        assert provider.asked[0].body == _CHAT.body("m1")
        assert (await gateway.only_settlement()).requested_model == "fast"


async def test_a_caller_who_leaves_before_the_retry(serving, provider):
    """A caller who goes while a retry is being waited for is settled as cancelled at once, and nothing is retried."""
    provider.default = script.answer(503, speech.CHAT.error(503), {"retry-after": "1"})
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, providers={"openai": {"max_retries": 3}})
        async with open_client(gateway.base_url) as client:
            await client.request("POST", _CHAT.path, _CHAT.body("openai/m1"), _CHAT.auth())
            await provider.arrived()
            left_s = trio.current_time()
        settlement = await gateway.settled()
        assert trio.current_time() - left_s < 0.9
        assert settlement.outcome.status is Status.CANCELLED
        await trio.sleep(1.5)  # past the time at which the retry would have come
        assert len(provider.asked) == 1


async def test_silence_is_filled_only_where_it_was_asked_for(serving, provider):
    """Heartbeats are a setting: with it a silent stream carries comments, without it not one byte (guarantee 36)."""
    events = speech.CHAT.events(("Hel", "lo"))
    for heartbeat, expected in (({}, False), ({"heartbeat": {"chat_s": 0.1}}, True)):
        go = trio.Event()
        opening = script.chunk(events[0] + events[1])
        provider.enqueue(script.stream_head(), opening, script.until(go), *script.stream(events[2:])[1:])
        with trio.fail_after(20):
            gateway = await serving({"openai": provider}, **heartbeat)
            async with open_client(gateway.base_url) as client:
                await client.request("POST", _CHAT.path, _CHAT.body("openai/m1", stream=True), _CHAT.auth())
                await client.read_head()
                seen = await client.read_until(b"Hel")
                with trio.move_on_after(0.5):
                    seen += await client.read_until(b": ")
                assert (b"\n\n: " in seen) is expected
                go.set()
                seen += await client.read_body()
            assert _CHAT.text_of_stream is not None
            assert _CHAT.text_of_stream(seen) == "Hello"


def _samples(text: str, name: str) -> list[tuple[dict[str, str], float]]:
    found = re.findall(rf"^{name}\{{(.*?)\}} (\S+)$", text, re.MULTILINE)
    return [(dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for labels, value in found]
