"""What administrators see of requests under way, limits and workers, and how they end a request (guarantee 56)."""

from typing import Any

import trio

from rig import doors, script
from rig.administration import make_key, open_administration
from rig.audit_log import read_chain
from rig.doors import KEY
from rig.gateway import RunningGateway
from rig.raw_client import open_client
from securellm.web.administration.application import ROUTES

CHAT = doors.CHAT


async def test_a_request_is_seen_and_ended(gateway: RunningGateway, provider: Any) -> None:
    """A hanging request is listed with who and what, and ended by id; the audit log says by whom, its caller why."""
    provider.default = [script.never()]
    with trio.fail_after(30):
        admin = await open_administration(gateway)
        assert admin.key is not None
        async with open_client(gateway.base_url) as client:
            await client.request("POST", CHAT.path, CHAT.body("openai/m1"), CHAT.auth())
            await provider.arrived()
            (listed,) = (await admin.do("GET", "/api/admin/requests"))["requests"]
            assert (listed["key_id"], listed["requested_model"], listed["endpoint"]) == (
                "config01", "openai/m1", "chat.completions",
            )  # fmt: skip
            ended = await admin.do("POST", f"/api/admin/requests/{listed['request_id']}/cancel")
            assert ended == {"request_id": listed["request_id"], "cancelled": True}
            answer = await client.read_response()
        assert CHAT.error_of(answer)["code"] == "request_cancelled"
        assert (await admin.do("GET", "/api/admin/requests")) == {"requests": [], "missing": []}
    events = [one for one in read_chain(gateway.config.log_dir) if one.get("action") == "request_cancelled"]
    assert [one["detail"]["by"] for one in events] == [admin.key.split("_")[1]]


async def test_limits_of_a_key(serving: Any, provider: Any) -> None:
    """The limits that a key's requests meet, and whether one would be let in now, which takes nothing."""
    limits = {"enabled": True, "per_key": {"rpm": 60, "burst": 1}, "per_model": {"tpm": 1000}, "openai_rpm": 30}
    with trio.fail_after(30):
        gateway = await serving({"openai": provider}, rate_limit=limits)
        admin = await open_administration(gateway)
        key = await make_key(gateway)
        path = f"/api/admin/limits?key={key.split('_')[1]}"
        of_key = await admin.do("GET", path)
        assert [(one["scope"], one["limit"], one["burst"]) for one in of_key["limits"]] == [("key", 60, 1)]
        asking = f"{path}&model=openai/m1"
        for _ in range(3):
            told = await admin.do("GET", asking)
            assert told["refusal"] is None
        assert {one["scope"] for one in told["limits"]} == {"key", "model", "provider"}
        await gateway.ask(CHAT, CHAT.body("openai/m1"), key=key)
        refusal = (await admin.do("GET", asking))["refusal"]
        assert (refusal["code"], refusal["param"]) == ("rate_limit", "key")
        assert 0 < refusal["retry_after_s"] <= 1
        assert (await admin.do("GET", "/api/admin/limits?key=config01"))["limits"] != []


async def test_workers_and_the_document(gateway: RunningGateway) -> None:
    """The one process is listed with its epoch, and the document names every endpoint of administration."""
    with trio.fail_after(20):
        admin = await open_administration(gateway)
        (worker,) = (await admin.do("GET", "/api/admin/workers"))["workers"]
        assert (worker["slot"], worker["config_epoch"], worker["error"]) == (1, gateway.config.epoch, None)
        document = await admin.do("GET", "/api/admin/openapi.json")
        operations = {(method.upper(), path) for path, found in document["paths"].items() for method in found}
        written = {(route.methods[0], route.path.replace("<", "{").replace(">", "}")) for route in ROUTES}
        assert operations == written
        assert KEY not in str(document)
