"""What is changed of a key, its limits, its budget or the configuration decides the next request on its connection."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio

from rig import doors, script, speech
from rig.fixtures import Lane
from rig.gateway import KEY, RunningGateway, make_config
from rig.raw_client import RawClient, open_client
from securellm.accounts.records import KeyChanges
from securellm.accounts.store import Store
from securellm.chat import Grants
from securellm.config.tree import Rates

CHAT = doors.CHAT
BODY = CHAT.body("openai/m1")


@pytest.fixture(
    params=[
        pytest.param(("reference", "httpx", False), id="reference"),
        pytest.param(("express", "native", False), id="express", marks=pytest.mark.compiled),
    ]
)
def lane(request: pytest.FixtureRequest) -> Lane:
    """Both lanes: one of them knows a head again that repeats the last."""
    chosen: Lane = request.param
    return chosen


async def in_store(gateway: RunningGateway, act: Callable[[Store], Any]) -> Any:
    """Change something beside the gateway, which has looked when this returns."""

    def change() -> Any:
        store = Store(gateway.config)
        try:
            return act(store)
        finally:
            store.close()

    result = await trio.to_thread.run_sync(change)
    await gateway.runtime.accounts.refresh()
    return result


async def code_of(client: RawClient, key: str, **headers: str) -> str | None:
    """The code of the refusal of the next request, None when it is answered."""
    await client.request("POST", CHAT.path, BODY, {**CHAT.auth(key), **headers})
    response = await client.read_response()
    return None if response.status == 200 else str(response.json()["error"]["code"])


async def test_what_is_changed_decides_the_next_request(serving, provider):
    """Grants, rates, budgets and the key itself, taken away and given back, between requests that are all alike."""
    provider.default = script.answer(200, speech.CHAT.whole("ok"))
    with trio.fail_after(60):
        gateway = await serving({"openai": provider}, rate_limit={"enabled": True, "per_key": {"rpm": 0}})
        key = (await in_store(gateway, lambda store: store.create_key("a caller"))).text
        key_id = key.split("_")[1]

        def change(**changes: Any) -> Callable[[Store], Any]:
            return lambda store: store.update_key(key_id, KeyChanges(**changes))

        async with open_client(gateway.base_url) as client:
            code = partial(code_of, client, key)
            assert (await code(), await code()) == (None, None)
            for taken, given, expected in (
                (change(grants=Grants(models=("openai/m2",))), change(grants=Grants()), "model_not_allowed"),
                (change(grants=Grants(endpoints=("messages",))), change(grants=Grants()), "endpoint_not_allowed"),
                (change(grants=Grants(networks=("10.0.0.0/8",))), change(grants=Grants()), "address_not_allowed"),
                (
                    lambda store: store.set_budget("key", key_id, limit_tokens=1),
                    lambda store: store.remove_budget("key", key_id),
                    "budget_exceeded",
                ),
                (change(expires_at_s=1), change(expires_at_s=None), "invalid_api_key"),
            ):
                await in_store(gateway, taken)
                assert (await code(), await code()) == (expected, expected)
                await in_store(gateway, given)
                assert (await code(), await code()) == (None, None)
            await in_store(gateway, change(rates=Rates(rpm=1, burst=1)))
            assert (await code(), await code()) == (None, "rate_limit")
            await in_store(gateway, change(rates=None))
            assert await code() is None
            await in_store(gateway, lambda store: store.revoke_key(key_id))
            assert (await code(), await code()) == ("invalid_api_key", "invalid_api_key")


async def test_another_head_is_another_request(serving, provider, second_provider):
    """On one connection each request is its own key's, and goes where it says itself."""
    for fake in (provider, second_provider):
        fake.default = script.answer(200, speech.CHAT.whole("ok"))
    with trio.fail_after(60):
        gateway = await serving({"openai": provider, "compat": second_provider})
        one = (await in_store(gateway, lambda store: store.create_key("one"))).text
        other = (await in_store(gateway, lambda store: store.create_key("other"))).text
        asked = []
        async with open_client(gateway.base_url) as client:
            for key in (one, one, other, one[:-4] + "AAAA", KEY, one):
                code = await code_of(client, key)
                caller = gateway.settlements[-1].caller
                asked.append(code or (caller.name if caller is not None else None))
            wished = await code_of(client, one, **{"x-provider": "compat"})
            again = await code_of(client, one)
            looped = await code_of(client, one, **{"x-securellm-hop": "1"})
            encoded = await code_of(client, one, **{"content-encoding": "gzip"})
        assert asked == ["one", "one", "other", "invalid_api_key", "config key 1", "one"]
        assert (wished, again, looped, encoded) == ("provider_conflict", None, "loop_detected", "invalid_request")


async def test_a_reload_decides_the_next_request(serving, provider, tmp_path):
    """What the new configuration has no price for, limits or lets nobody spend is refused, on the same connection."""
    provider.default = script.answer(200, speech.CHAT.whole("ok"))
    with trio.fail_after(60):
        gateway = await serving({"openai": provider})
        runtime = gateway.runtime
        async with open_client(gateway.base_url) as client:
            for number, (settings, expected) in enumerate(
                (
                    ({}, None),
                    ({"budgets": {"per_key": {"tokens": 1}}}, "budget_exceeded"),
                    ({"rate_limit": {"enabled": True, "per_key": {"tpm": 1}}}, "over_limit_capacity"),
                    ({"providers": {"openai": {"enabled": False}}}, "model_not_found"),
                    ({}, None),
                )
            ):
                folder = tmp_path / f"reload{number}"
                folder.mkdir()
                config = make_config(folder, {"openai": provider}, **settings)
                runtime.commit(await runtime.prepare(config))
                assert (await code_of(client, KEY), await code_of(client, KEY)) == (expected, expected)
