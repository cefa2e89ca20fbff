"""Administration as it is used: a user, a key, a budget, a request, what it spent, and the key's end."""

from typing import Any

import trio

from rig import doors, script
from rig.administration import Administrator, open_administration
from rig.pairs import PAIRS
from securellm.chat import Endpoint

CHAT = doors.CHAT
SAID = next(pair.speech for pair in PAIRS if pair.door is CHAT and pair.same_dialect)


async def _shown_once_told(admin: Administrator, spent_nusd: int) -> dict[str, Any]:
    """The budget as it is shown when the process has told the store what it settled."""
    while True:
        shown = (await admin.do("GET", "/api/admin/budgets?kind=user&subject=ada"))["budgets"][0]
        if shown["spent_nusd"] == spent_nusd:
            return shown
        assert shown["spent_nusd"] == 0
        await trio.sleep(0.05)


async def test_from_a_new_user_to_a_revoked_key(serving, provider):
    """User, key with grants, budget, a request within them, what was spent, and a revocation that holds at once."""
    provider.default = script.answer(200, SAID.whole("Hello"))
    priced = {"openai/m1": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}}
    with trio.fail_after(30):
        gateway = await serving({"openai": provider}, models=priced)
        admin = await open_administration(gateway)
        await admin.do("POST", "/api/admin/teams", {"id": "research"})
        user = await admin.do("POST", "/api/admin/users", {"id": "ada", "name": "Ada", "team_id": "research"})
        assert (user["state"], user["team_id"]) == ("active", "research")
        new = {"name": "laptop", "user_id": "ada", "grants": {"models": ["openai/m1"]}}
        made = await admin.do("POST", "/api/admin/keys", new)
        assert made["key"].startswith(f"slb_{made['id']}_")
        budget = {"kind": "user", "subject": "ada", "limit_nusd": 1_000_000_000}
        assert (await admin.do("PUT", "/api/admin/budgets", budget))["left_nusd"] == 1_000_000_000

        answer = await gateway.ask(CHAT, CHAT.body("openai/m1", max_tokens=10), key=made["key"])
        assert answer.status == 200, answer.body
        refused = await gateway.ask(CHAT, CHAT.body("openai/other"), key=made["key"])
        assert refused.status == 403
        settlement = next(one for one in gateway.settlements if one.endpoint is Endpoint.CHAT)
        assert settlement.cost_nusd
        shown = await _shown_once_told(admin, settlement.cost_nusd)
        held = shown["spent_nusd"] + shown["reserved_nusd"]
        assert shown["left_nusd"] == 1_000_000_000 - held
        assert shown["window_end_s"] > shown["window_start_s"]

        revoked = await admin.do("DELETE", f"/api/admin/keys/{made['id']}")
        assert revoked["state"] == "revoked"
        assert (await gateway.ask(CHAT, CHAT.body("openai/m1"), key=made["key"])).status == 401
        assert await admin.do("DELETE", f"/api/admin/keys/{made['id']}") == revoked
