"""What a key may be used for, over every endpoint there is, and how requests under way are ended (7, 9, 34, 45, 56)."""

from functools import partial
from typing import Any

import pytest
import trio

from rig import doors, script, speech
from rig.audit_log import read_chain
from rig.doors import DOORS, Door
from rig.gateway import RunningGateway
from rig.pairs import PAIRS
from rig.raw_client import Response, fetch
from rig.waiting import until_true
from securellm.accounts.store import Store
from securellm.chat import Endpoint, Grants, Status
from securellm.web.app import all_routes
from securellm.web.routes import Access

CHAT = doors.CHAT
ASKING = [route for route in all_routes(metrics_public=False) if route.asks_provider]


async def make_key(gateway: RunningGateway, **facts: Any) -> str:
    """A key of the store, in force when this returns."""

    def make() -> str:
        store = Store(gateway.config)
        try:
            minted = store.create_key("a caller", **facts)
            assert minted is not None
            return minted.text
        finally:
            store.close()

    text = await trio.to_thread.run_sync(make)
    await gateway.runtime.accounts.refresh()
    return text


async def revoke_key(gateway: RunningGateway, key: str) -> None:
    """Revoke it as a command beside the gateway does."""

    def revoke() -> None:
        store = Store(gateway.config)
        try:
            assert store.revoke_key(key.split("_")[1])
        finally:
            store.close()

    await trio.to_thread.run_sync(revoke)


def door_of(path: str) -> Door:
    """The rig's door at that path; a route without one fails its test."""
    return next(door for door in DOORS if door.path == path)


@pytest.mark.parametrize("route", ASKING, ids=lambda route: route.path)
@pytest.mark.parametrize(
    ("grants", "code"),
    [
        (Grants(models=("openai/other", "anthropic/other")), "model_not_allowed"),
        (Grants(models=()), "model_not_allowed"),
        (Grants(providers=("compat",)), "model_not_allowed"),
        (Grants(endpoints=()), "endpoint_not_allowed"),
        (None, "endpoint_not_allowed"),
        (Grants(networks=("10.0.0.0/8",)), "address_not_allowed"),
    ],
    ids=["other models", "no models", "other providers", "no endpoints", "other endpoints", "other addresses"],
)
async def test_no_endpoint_lets_a_key_do_more_than_it_was_granted(
    serving, provider, route, grants: Grants | None, code: str
):
    """At every endpoint that asks a provider the same four grants are checked, before anybody is asked."""
    door = door_of(route.path)
    if grants is None:
        grants = Grants(endpoints=("embeddings" if door is not doors.EMBEDDINGS else "messages",))
    model = "anthropic/m1" if door.dialect == "anthropic" else "openai/m1"
    with trio.fail_after(20):
        gateway = await serving({"openai": provider, "anthropic": provider})
        key = await make_key(gateway, grants=grants)
        refused = await gateway.ask(door, door.body(model), key=key)
        assert (refused.status, door.error_of(refused)["code"]) == (403, code)
        assert provider.asked == []
        assert (await gateway.only_settlement()).outcome.status is Status.REJECTED


@pytest.mark.parametrize("route", ASKING, ids=lambda route: route.path)
async def test_what_was_granted_is_let_in(serving, provider, route):
    """The same key with fitting grants is answered: it is the grants that refuse, and nothing else."""
    door = door_of(route.path)
    provider_name = "anthropic" if door.dialect == "anthropic" else "openai"
    endpoints = tuple(endpoint.value for endpoint in Endpoint)
    grants = Grants((f"{provider_name}/*",), (provider_name,), endpoints, ("127.0.0.0/8",))
    pair = next(pair for pair in PAIRS if pair.same_dialect and pair.door is door)
    provider.default = pair.answers()
    with trio.fail_after(20):
        gateway = await serving({"openai": provider, "anthropic": provider})
        key = await make_key(gateway, grants=grants)
        answer = await gateway.ask(door, door.body(f"{provider_name}/m1"), key=key)
        assert answer.status == 200, answer.body


@pytest.mark.parametrize(
    ("name", "door", "field"),
    [("openrouter", CHAT, "models"), ("openrouter", CHAT, "mode\\u006cs"), ("anthropic", doors.MESSAGES, "fallbacks")],
)
async def test_a_body_names_no_models_past_the_grants(serving, provider, name: str, door: Door, field: str):
    """A key for one model cannot have the provider fall back to another; who may use all models can."""
    pair = next(pair for pair in PAIRS if pair.same_dialect and pair.door is door)
    provider.default = pair.answers()
    with trio.fail_after(20):
        gateway = await serving({name: provider})
        body = door.body(f"{name}/m1")[:-1] + f', "{field}": ["dear"]}}'.encode()

        async def ask(**facts: Any) -> Response:
            key = await make_key(gateway, **facts)
            headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
            return await fetch(gateway.base_url, "POST", door.path, body=body, headers=headers)

        refused = await ask(grants=Grants(models=(f"{name}/m1",)))
        assert (refused.status, door.error_of(refused)["code"]) == (403, "model_not_allowed")
        assert provider.asked == []
        assert (await ask()).status == 200


def test_every_endpoint_says_who_may_call_it():
    """No route without a class of access; what asks a provider needs a key."""
    for route in all_routes(metrics_public=True):
        assert isinstance(route.access, Access)
        assert route.access is Access.KEY or not route.asks_provider


async def test_models_are_listed_by_what_the_key_may_use(serving, provider, second_provider):
    """A key never sees the models of another's provider, neither in the list nor by name."""
    provider.models, second_provider.models = ["alpha"], ["beta"]
    with trio.fail_after(20):
        gateway = await serving({"openai": provider, "compat": second_provider})
        await gateway.runtime.sync_models()
        key = await make_key(gateway, grants=Grants(providers=("compat",)))
        get = partial(fetch, gateway.base_url, "GET", body=None, headers={"authorization": f"Bearer {key}"})
        assert [model["id"] for model in (await get("/v1/models")).json()["data"]] == ["compat/beta"]
        assert (await get("/v1/models/compat/beta")).status == 200
        assert (await get("/v1/models/openai/alpha")).status == 404


async def test_a_target_that_is_not_granted_is_passed_over(serving, provider, second_provider):
    """`auto` goes on to what the key may use, and the record says why the first was left out."""
    second_provider.default = script.answer(200, speech.CHAT.whole("Hello"))
    with trio.fail_after(20):
        fakes = {"openai": provider, "compat": second_provider}
        gateway = await serving(fakes, auto={"targets": ["openai/m1", "compat/m1"]})
        key = await make_key(gateway, grants=Grants(models=("compat/*",)))
        assert (await gateway.ask(CHAT, CHAT.body("auto"), key=key)).status == 200
        assert provider.asked == []
        settlement = await gateway.only_settlement()
        assert [attempt.skipped for attempt in settlement.attempts] == ["model_not_allowed", None]


async def test_the_record_names_user_and_key(serving, provider):
    """A key that belongs to a user leaves the user's id in the audit log."""
    provider.default = script.answer(200, speech.CHAT.whole("Hello"))
    with trio.fail_after(20):
        gateway = await serving({"openai": provider})

        def make_user() -> None:
            store = Store(gateway.config)
            store.create_user("ada", name="Ada")
            store.close()

        await trio.to_thread.run_sync(make_user)
        key = await make_key(gateway, user_id="ada")
        assert (await gateway.ask(CHAT, CHAT.body("openai/m1"), key=key)).status == 200
        await gateway.stop()
        records = [record for record in read_chain(gateway.config.log_dir) if record.get("endpoint")]
        assert {(record["user_id"], record["key_id"]) for record in records} == {("ada", key.split("_")[1])}


async def test_a_revoked_keys_stream_is_cut(serving, provider):
    """Revoking ends what is under way within two seconds, with an error event, and closes the provider's connection."""
    events = speech.CHAT.events(("Hel", "lo"), ())
    provider.default = [script.stream_head(), *(script.chunk(event) for event in events[:2]), script.never()]
    with trio.fail_after(20):
        gateway = await serving({"openai": provider})
        key = await make_key(gateway)
        async with trio.open_nursery() as nursery:

            async def revoke_later() -> None:
                await until_true(lambda: bool(provider.asked))
                await trio.sleep(0.1)
                await revoke_key(gateway, key)

            nursery.start_soon(revoke_later)
            response = await gateway.ask(CHAT, CHAT.body("openai/m1", stream=True), key=key)
        assert CHAT.error_event_of(response.body)["code"] == "request_cancelled"
        await provider.connections[0].closed.wait()
        assert (await gateway.only_settlement()).outcome.status is Status.CANCELLED
        assert (await gateway.ask(CHAT, CHAT.body("openai/m1"), key=key)).status == 401


@pytest.mark.parametrize("own", [True, False])
async def test_a_request_is_ended_by_its_owner(serving, provider, own: bool):
    """POST /v1/requests/{id}/cancel ends one's own request, and is 404 for another's; the log names the actor."""
    provider.default = [script.never()]
    with trio.fail_after(20):
        gateway = await serving({"openai": provider})
        owner = await make_key(gateway)
        other = owner if own else await make_key(gateway)
        answers = []

        async def ask() -> None:
            answers.append(await gateway.ask(CHAT, CHAT.body("openai/m1"), key=owner))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await until_true(lambda: bool(provider.asked))
            (request,) = (await gateway.runtime.under_way.requests()).requests
            assert (request.endpoint, request.provider, request.requested_model) == (
                "chat.completions",
                "openai",
                "openai/m1",
            )
            target = f"/v1/requests/{request.request_id}/cancel"
            auth = {"authorization": f"Bearer {other}"}
            cancelled = await fetch(gateway.base_url, "POST", target, b"", auth)
            assert cancelled.status == (200 if own else 404)
            if not own:
                assert not answers
                nursery.cancel_scope.cancel()
        if own:
            assert CHAT.error_of(answers[0])["code"] == "request_cancelled"
            settlement = await gateway.only_settlement()
            assert settlement.outcome.status is Status.CANCELLED
            await gateway.stop()
            events = [r for r in read_chain(gateway.config.log_dir) if r.get("action") == "request_cancelled"]
            assert [event["detail"]["by"] for event in events] == [owner.split("_")[1]]
