"""What administrators keep: keys, users, teams and budgets, as they are made, shown, changed, refused and recorded."""

import logging
from pathlib import Path
from typing import Any

import pytest
import trio

from rig import doors, script
from rig.administration import open_administration, open_local_client
from rig.audit_log import read_chain
from rig.gateway import RunningGateway
from rig.pairs import PAIRS
from rig.waiting import until_true

CHAT = doors.CHAT
SAID = next(pair.speech for pair in PAIRS if pair.door is CHAT and pair.same_dialect)

MISTAKES: list[tuple[str, str, Any, str]] = [
    ("POST", "keys", {"role": "root"}, "role"),
    ("POST", "keys", {"rolle": "admin"}, "rolle"),
    ("POST", "keys", {"name": 7}, "name"),
    ("POST", "keys", {"expires_at_s": -1}, "expires_at_s"),
    ("POST", "keys", {"expires_at_s": "2030-01-01"}, "expires_at_s"),
    ("POST", "keys", {"user_id": "nobody"}, "user_id"),
    ("POST", "keys", {"team_id": "nobody"}, "team_id"),
    ("POST", "keys", {"grants": {"model": ["openai/*"]}}, "grants.model"),
    ("POST", "keys", {"grants": {"models": ["gpt-5"]}}, "grants.models"),
    ("POST", "keys", {"grants": {"models": "openai/*"}}, "grants.models"),
    ("POST", "keys", {"grants": {"endpoints": ["chat"]}}, "grants.endpoints"),
    ("POST", "keys", {"grants": {"networks": ["here"]}}, "grants.networks"),
    ("POST", "keys", {"grants": None}, "grants"),
    ("POST", "keys", {"rates": {"rpms": 1}}, "rates.rpms"),
    ("POST", "keys", {"rates": {"rpm": -1}}, "rates.rpm"),
    ("POST", "users", {}, "id"),
    ("POST", "users", {"id": "../x"}, "id"),
    ("POST", "users", {"id": "ada", "team_id": "nobody"}, "team_id"),
    ("POST", "teams", {"id": ""}, "id"),
    ("PUT", "budgets", {"kind": "user"}, "subject"),
    ("PUT", "budgets", {"kind": "planet", "subject": "x", "limit_nusd": 1}, "kind"),
    ("PUT", "budgets", {"kind": "user", "subject": "x"}, "limit_nusd"),
    ("PUT", "budgets", {"kind": "user", "subject": "x", "limit_nusd": 1, "window": "year"}, "window"),
    ("PUT", "budgets", {"kind": "user", "subject": "x", "limit_nusd": 0.5}, "limit_nusd"),
    ("DELETE", "budgets", None, "kind"),
    ("DELETE", "budgets?kind=user", None, "subject"),
    ("GET", "keys?usr_id=ada", None, "usr_id"),
    ("GET", "keys?user_id=a&user_id=b", None, "user_id"),
    ("GET", "limits", None, "key"),
]


async def test_mistakes_name_their_field(gateway: RunningGateway) -> None:
    """Whatever cannot be taken is 400 with the name of its field, in the message as well, and changes nothing."""
    with trio.fail_after(60):
        admin = await open_administration(gateway)
        before = gateway.runtime.accounts.statistics().generation
        for method, target, body, param in MISTAKES:
            refused = await admin.ask(method, f"/api/admin/{target}", body)
            error = refused.json()["error"]
            assert (refused.status, error["param"]) == (400, param), (target, body, error)
            assert param.rpartition(".")[2] in error["message"] or "unknown parameter" in error["message"], error
        await gateway.runtime.accounts.refresh()
        assert gateway.runtime.accounts.statistics().generation == before


@pytest.mark.parametrize("data", [b"{", b"[]", b"\xff", b'"x"', b"{} {}", b"null"])
async def test_bodies_that_are_no_objects(gateway: RunningGateway, data: bytes) -> None:
    """A body that is not one JSON object is 400, and what it said is not repeated."""
    with trio.fail_after(20):
        admin = await open_administration(gateway)
        async with open_local_client(admin.path) as client:
            await client.request("POST", "/api/admin/users", data, {"authorization": f"Bearer {admin.key}"})
            assert (await client.read_response()).status == 400


async def test_a_body_without_end_is_refused(gateway: RunningGateway) -> None:
    """More than a mebibyte is 413, however it is sent."""
    with trio.fail_after(20):
        admin = await open_administration(gateway)
        assert (await admin.ask("POST", "/api/admin/users", {"id": "x" * 1_100_000})).status == 413


@pytest.mark.parametrize("sort", ["keys", "users", "teams"])
async def test_what_is_not_there_is_404(gateway: RunningGateway, sort: str) -> None:
    """Showing, changing and deleting what is not there is 404."""
    with trio.fail_after(20):
        admin = await open_administration(gateway)
        for method, body in (("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)):
            assert (await admin.ask(method, f"/api/admin/{sort}/nobody", body)).status == 404, method
        assert (await admin.ask("DELETE", "/api/admin/budgets?kind=user&subject=ada")).status == 404
        assert (await admin.ask("POST", "/api/admin/requests/x/cancel")).status == 404
        assert (await admin.ask("GET", "/api/admin/limits?key=aaaaaaaa")).status == 404


async def test_what_is_shown_can_be_sent_back(gateway: RunningGateway) -> None:
    """A key's own words: what GET shows of name, role, owners, grants and rates, PATCH takes, and only that changes."""
    with trio.fail_after(20):
        admin = await open_administration(gateway)
        facts = {
            "name": "laptop",
            "role": "operator",
            "expires_at_s": 4_000_000_000,
            "grants": {
                "models": ["openai/*"],
                "providers": None,
                "endpoints": ["messages"],
                "networks": ["10.0.0.0/8"],
            },
            "rates": {"rpm": 60, "burst": 5, "tpm": None, "concurrent": 0},
        }
        made = await admin.do("POST", "/api/admin/keys", facts)
        shown = await admin.do("GET", f"/api/admin/keys/{made['id']}")
        assert {**shown, "key": made["key"]} == made
        assert {name: shown[name] for name in facts} == facts
        again = await admin.do("PATCH", f"/api/admin/keys/{made['id']}", {name: shown[name] for name in facts})
        assert again == shown
        changed = await admin.do("PATCH", f"/api/admin/keys/{made['id']}", {"rates": None, "expires_at_s": None})
        assert changed == {**shown, "rates": None, "expires_at_s": None}
        assert "digest" not in str(sorted(shown))


async def test_users_and_teams(gateway: RunningGateway, provider: Any) -> None:
    """Made, shown, changed, disabled (which stops the keys at once), enabled, and deleted once nothing needs them."""
    provider.default = script.answer(200, SAID.whole("Hello"))
    with trio.fail_after(30):
        admin = await open_administration(gateway)
        await admin.do("POST", "/api/admin/teams", {"id": "research", "rates": {"rpm": 10}})
        await admin.do("POST", "/api/admin/users", {"id": "ada@x.org", "team_id": "research"})
        assert (await admin.ask("POST", "/api/admin/teams", {"id": "research"})).status == 400
        key = (await admin.do("POST", "/api/admin/keys", {"user_id": "ada@x.org"}))["key"]
        for sort, owner in (("users", "ada@x.org"), ("teams", "research")):
            path = f"/api/admin/{sort}/{owner}"
            assert (await gateway.ask(CHAT, CHAT.body("openai/m1"), key=key)).status == 200
            assert (await admin.do("PATCH", path, {"disabled": True}))["state"] == "disabled"
            assert (await gateway.ask(CHAT, CHAT.body("openai/m1"), key=key)).status == 401
            assert (await admin.do("PATCH", path, {"disabled": False, "name": "N"}))["state"] == "active"
            assert (await admin.do("GET", path))["name"] == "N"
            assert (await admin.ask("DELETE", path)).status == 400, "there are keys"
        assert [one["id"] for one in (await admin.do("GET", "/api/admin/users?team_id=research"))["users"]] == [
            "ada@x.org"
        ]
        await admin.do("DELETE", f"/api/admin/keys/{key.split('_')[1]}")
        for path in ("/api/admin/users/ada@x.org", "/api/admin/teams/research"):
            assert (await admin.do("DELETE", path))["deleted"] is True
        assert (await admin.do("GET", "/api/admin/teams"))["teams"] == []


async def test_a_rotation_holds_at_once(gateway: RunningGateway, provider: Any) -> None:
    """The new secret works when the answer is there, and the old one for as long as was asked."""
    provider.default = script.answer(200, SAID.whole("Hello"))
    with trio.fail_after(20):
        admin = await open_administration(gateway)
        first = await admin.do("POST", "/api/admin/keys")
        second = await admin.do("POST", f"/api/admin/keys/{first['id']}/rotate")
        assert (second["id"], second["previous_until_s"] is not None) == (first["id"], True)
        third = await admin.do("POST", f"/api/admin/keys/{first['id']}/rotate", {"overlap_s": 0})
        statuses = [
            (await gateway.ask(CHAT, CHAT.body("openai/m1"), key=one["key"])).status for one in (first, second, third)
        ]
        assert statuses == [401, 401, 200]


async def test_budgets(serving: Any, provider: Any) -> None:
    """Set, listed by subject, replaced, removed; a subject without one shows what the configuration gives everybody."""
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, budgets={"per_user": {"usd": 2.0, "window": "day"}})
        admin = await open_administration(gateway)
        await admin.do("POST", "/api/admin/users", {"id": "ada"})
        path = "/api/admin/budgets?kind=user&subject=ada"
        (default,) = (await admin.do("GET", path))["budgets"]
        assert (default["limit_nusd"], default["window"], default["left_nusd"]) == (2_000_000_000, "day", 2_000_000_000)
        assert default["window_end_s"] - default["window_start_s"] == 86_400
        assert (await admin.do("GET", "/api/admin/budgets"))["budgets"] == []
        own = {"kind": "user", "subject": "ada", "limit_tokens": 500, "window": "rolling", "rolling_s": 3600}
        kept = await admin.do("PUT", "/api/admin/budgets", own)
        assert (kept["left_tokens"], kept["left_nusd"], kept["rolling_s"]) == (500, None, 3600)
        await admin.do("PUT", "/api/admin/budgets", {**own, "limit_tokens": 700})
        assert [one["left_tokens"] for one in (await admin.do("GET", path))["budgets"]] == [700]
        assert await admin.do("DELETE", f"{path}&window=rolling") == {"removed": 1}
        assert (await admin.do("GET", path))["budgets"] == [default]


async def test_everything_is_recorded(gateway: RunningGateway) -> None:
    """Each request leaves its pair, and each change an event that names the administrator's key and what changed."""
    with trio.fail_after(30):
        admin = await open_administration(gateway)
        assert admin.key is not None
        by = admin.key.split("_")[1]
        made = await admin.do("POST", "/api/admin/keys", {"name": "laptop"})
        await admin.do("PATCH", f"/api/admin/keys/{made['id']}", {"role": "operator"})
        await admin.do("DELETE", f"/api/admin/keys/{made['id']}")
        await admin.ask("POST", "/api/admin/keys", {"role": "root"})
        await admin.do("POST", "/api/admin/users", {"id": "ada"})
        await admin.do("PUT", "/api/admin/budgets", {"kind": "user", "subject": "ada", "limit_nusd": 1})
        wanted = {"key_created", "key_updated", "key_revoked", "user_created", "budget_set"}
        while True:
            records = read_chain(gateway.config.log_dir)
            events = {str(one["action"]): one["detail"] for one in records if one.get("actor") or _actor(one) == by}
            if wanted <= set(events):
                break
            await trio.sleep(0.1)
        assert {events[action]["actor"] for action in wanted} == {by}
        assert "operator" in events["key_updated"]["changed"]
    pairs = [one for one in records if one.get("endpoint") == "admin"]
    outcomes = [one for one in pairs if one.get("status")]
    assert len(outcomes) * 2 == len(pairs) == 12
    assert {one["key_id"] for one in pairs} == {by}
    assert {one["client_ip"] for one in pairs} == {"unix"}
    assert [one["http_status"] for one in outcomes].count(400) == 1


def _actor(record: dict[str, Any]) -> Any:
    detail = record.get("detail")
    return detail.get("actor") if isinstance(detail, dict) else None


async def test_a_new_key_is_shown_once(serving: Any, provider: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The text of a key that is made or rotated is in its answer, and in no log, record, file, list or metric."""
    caplog.set_level(logging.DEBUG)
    with trio.fail_after(30):
        gateway = await serving({"openai": provider}, audit={"content": "full"})
        admin = await open_administration(gateway)
        made = await admin.do("POST", "/api/admin/keys", {"name": "canary"})
        rotated = await admin.do("POST", f"/api/admin/keys/{made['id']}/rotate")
        secrets = [one["key"].split("_", 2)[2] for one in (made, rotated)]
        told = [await admin.ask("GET", f"/api/admin/{path}") for path in ("keys", f"keys/{made['id']}", "openapi.json")]
        texts = [one.body.decode() for one in told]
        texts += [(await gateway.runtime.expose_metrics()).decode(), caplog.text, repr(gateway.settlements)]
        await until_true(lambda: "key_rotated" in str(read_chain(gateway.config.log_dir)), look_every_s=0.1)
        files = [path for folder in (gateway.config.state_dir, gateway.config.log_dir) for path in _files(folder)]
        assert len(files) > 3
        for secret in secrets:
            assert not [text for text in texts if secret in text]
            assert not [path for path in files if secret.encode() in path.read_bytes()]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
