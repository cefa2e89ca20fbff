"""Who is let in to administration, over every endpoint there is, at both its listeners (guarantees 7 and 9)."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import trio

from rig import smuggling
from rig.administration import Administrator, make_key, open_administration, open_local_client, socket_of
from rig.gateway import RunningGateway
from rig.raw_client import fetch, open_client
from securellm.chat import Endpoint, Grants
from securellm.web.administration.application import ROUTES
from securellm.web.app import all_routes
from securellm.web.routes import Access

OTHER_ROLES = ("user", "auditor", "operator")
BAD_KEYS = (None, "nonsense", "slb_aaaaaaaa_" + "A" * 43, "' OR 1=1 --", "x" * 9000)

At = Callable[[str | None], Administrator]


def _target(path: str) -> str:
    return re.sub(r"<\w+>", "aaaaaaaa", path)


@pytest.fixture(params=["unix", "tcp"])
async def at(request: pytest.FixtureRequest, serving: Any, provider: Any) -> tuple[RunningGateway, At]:
    """A gateway, and how one reaches its administration by one of the two listeners."""
    bind = {"admin": {"bind": "127.0.0.1:0"}} if request.param == "tcp" else {}
    gateway: RunningGateway = await serving({"openai": provider}, **bind)
    base_url = f"http://127.0.0.1:{gateway.admin_port}" if bind else None
    return gateway, lambda key: Administrator(socket_of(gateway), key, base_url)


def test_every_endpoint_is_an_administrators() -> None:
    """No endpoint of administration has another class of access, or leaves no records; none is on the main port."""
    for route in ROUTES:
        assert (route.access, route.recorded, route.asks_provider) == (Access.ADMIN, Endpoint.ADMIN, False), route.path
        assert route.path.startswith("/api/admin/")
    assert len({(route.path, route.methods) for route in ROUTES}) == len(ROUTES)
    assert all(route.access is not Access.ADMIN for route in all_routes(metrics_public=True))


async def test_strangers_are_refused(at: tuple[RunningGateway, At]) -> None:
    """Without a good key every endpoint is 401, whatever the key looks like, and nothing of the store is told."""
    gateway, reach = at
    with trio.fail_after(60):
        for route in ROUTES:
            for key in BAD_KEYS:
                refused = await reach(key).ask(route.methods[0], _target(route.path), {})
                assert (refused.status, refused.json()["error"]["code"]) == (401, "invalid_api_key"), route.path
        assert gateway.settlements == []


async def test_other_roles_are_refused(at: tuple[RunningGateway, At]) -> None:
    """Users, auditors and operators are 403 at every endpoint, and each refusal leaves its records."""
    gateway, reach = at
    with trio.fail_after(60):
        for role in OTHER_ROLES:
            someone = reach(await make_key(gateway, role))
            for route in ROUTES:
                refused = await someone.ask(route.methods[0], _target(route.path), {})
                assert (refused.status, refused.json()["error"]["code"]) == (403, "permission_denied"), route.path
        assert len(gateway.settlements) == len(OTHER_ROLES) * len(ROUTES)
        assert {one.endpoint for one in gateway.settlements} == {Endpoint.ADMIN}
        assert (await reach(gateway.key).ask("GET", "/api/admin/keys")).status == 403, "keys of the config are users'"


async def test_administrators_are_served(at: tuple[RunningGateway, At]) -> None:
    """An administrator is refused by no endpoint for who he is: each does its work, or says what is not there."""
    gateway, reach = at
    with trio.fail_after(60):
        admin = reach(await make_key(gateway, "admin"))
        for route in ROUTES:
            answer = await admin.ask(route.methods[0], _target(route.path), {} if route.schema else None)
            assert answer.status in (200, 201, 400, 404), (route.path, answer.body)
            code = answer.json().get("error", {}).get("code", "")
            assert code in ("", "invalid_request", "not_found"), route.path


@pytest.mark.parametrize(
    ("grants", "code"),
    [
        (Grants(endpoints=("chat.completions",)), "endpoint_not_allowed"),
        (Grants(networks=("10.0.0.0/8",)), "address_not_allowed"),
    ],
)
async def test_an_administrators_key_may_be_restricted(at: tuple[RunningGateway, At], grants: Grants, code: str):
    """A key with the role, but not granted this door or this address, is refused."""
    gateway, reach = at
    with trio.fail_after(20):
        refused = await reach(await make_key(gateway, "admin", grants=grants)).ask("GET", "/api/admin/keys")
        assert (refused.status, refused.json()["error"]["code"]) == (403, code)


async def test_a_key_is_needed_where_authentication_is_off(serving, provider):
    """With security.require_auth = false whoever reaches the socket needs an administrator's key all the same."""
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, security={"require_auth": False})
        assert (await Administrator(socket_of(gateway), None).ask("GET", "/api/admin/keys")).status == 401
        admin = await open_administration(gateway)
        assert (await admin.ask("GET", "/api/admin/keys")).status == 200


async def test_the_main_port_has_no_administration(serving, provider):
    """On the gateway's own port everything under /api/admin is 404 for everybody, an administrator included."""
    with trio.fail_after(30):
        gateway = await serving({"openai": provider})
        key = await make_key(gateway, "admin")
        for route in ROUTES:
            headers = {"authorization": f"Bearer {key}"}
            answer = await fetch(gateway.base_url, route.methods[0], _target(route.path), None, headers)
            assert (answer.status, answer.json()["error"]["code"]) == (404, "not_available"), route.path
            assert "admin.sock" in answer.json()["error"]["message"]


async def test_administration_has_nothing_else(at: tuple[RunningGateway, At]) -> None:
    """The main port's endpoints are not here; a wrong method is 405, an unknown path 404."""
    gateway, reach = at
    with trio.fail_after(30):
        admin = reach(await make_key(gateway, "admin"))
        for target in ("/", "/docs", "/v1/models", "/api/health", "/metrics", "/api/admin", "/api/admin/nothing"):
            assert (await admin.ask("GET", target)).status == 404, target
        assert (await admin.ask("POST", "/v1/chat/completions", {"model": "openai/m1"})).status == 404
        assert (await admin.ask("PUT", "/api/admin/keys", {})).status == 405


SPELLINGS = (
    "//api/admin/keys",
    "/api//admin/keys",
    "/%61pi/admin/keys",
    "/api%2fadmin/keys",
    "/api/admin%2fkeys",
    "/api/admin/./keys",
    "/api/x/../admin/keys",
    "http://evil/api/admin/keys",
    "/api/admin/keys/",
    "/API/admin/keys",
    "/api/admin/keys;x",
    "/api/admin\\keys",
)


@pytest.mark.parametrize("target", SPELLINGS)
async def test_other_spellings_lead_nowhere(at: tuple[RunningGateway, At], target: str) -> None:
    """No other spelling of a path reaches an endpoint, with whatever key, on either port."""
    gateway, reach = at
    with trio.fail_after(20):
        key = await make_key(gateway, "admin")
        answer = await reach(key).ask("GET", target)
        assert answer.status in (400, 404), (target, answer.status)
        main = await fetch(gateway.base_url, "GET", target, None, {"authorization": f"Bearer {key}"})
        assert main.status in (400, 404), (target, main.status)


async def test_ambiguous_requests_are_refused(serving, provider):
    """Whatever two readers could take for different requests is refused at the socket as it is at the main port."""
    with trio.fail_after(60):
        gateway = await serving({"openai": provider})
        for trick, (_, data) in smuggling.REQUESTS.items():
            async with open_local_client(socket_of(gateway)) as client:
                await client.send(data)
                with trio.move_on_after(5):
                    answer = await client.read_response()
                    assert 400 <= answer.status < 600, trick
                    assert answer.status not in (401, 403), trick


@pytest.mark.parametrize(
    "fields",
    [b"Host: a\r\nHost: b\r\n", b"Host: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n", b"Host: x/#@y\r\n"],
)
async def test_two_hosts_and_two_framings(at: tuple[RunningGateway, At], fields: bytes) -> None:
    """Two hosts, two framings and a host with a path are refused with a good key, before it is looked at."""
    gateway, reach = at
    with trio.fail_after(20):
        admin = reach(await make_key(gateway, "admin"))
        opened = open_client(admin.base_url) if admin.base_url else open_local_client(admin.path)
        async with opened as client:
            head = b"POST /api/admin/users HTTP/1.1\r\n" + fields
            await client.send(head + b"Authorization: Bearer " + str(admin.key).encode() + b"\r\n\r\n{}")
            assert (await client.read_response()).status == 400


async def test_pages_of_other_origins_are_not_answered(serving, provider):
    """An origin that the main port answers gets nothing from administration: no preflight, no header."""
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, security={"allowed_origins": ["https://page.test"]})
        admin = await open_administration(gateway)
        headers = {"origin": "https://page.test", "authorization": f"Bearer {admin.key}"}
        async with open_local_client(admin.path) as client:
            await client.request("OPTIONS", "/api/admin/keys", None, headers)
            assert (await client.read_response()).status == 403
            await client.request("GET", "/api/admin/keys", None, headers)
            answer = await client.read_response()
        assert answer.status == 200
        assert answer.header("access-control-allow-origin") is None


async def test_a_store_that_is_away_is_503(serving, provider):
    """Reading and changing are 503 while the store is away, and nothing is told as 401 or done later."""
    with trio.fail_after(20):
        gateway = await serving({"openai": provider})
        admin = await open_administration(gateway)
        path = gateway.config.database.path
        path.rename(path.with_suffix(".away"))
        for method, target, body in (("GET", "/api/admin/keys", None), ("POST", "/api/admin/users", {"id": "ada"})):
            answer = await admin.ask(method, target, body)
            assert (answer.status, answer.json()["error"]["code"]) == (503, "store_unavailable")
        path.with_suffix(".away").rename(path)
        await gateway.runtime.accounts.refresh()
        assert await admin.do("GET", "/api/admin/users") == {"users": []}
