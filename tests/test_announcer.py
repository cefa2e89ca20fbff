"""What a command does to the keys is in the audit log of the gateway that runs beside it, or of the next one."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from rig.waiting import until_true
from securellm.accounts.store import Store
from securellm.announcer import Announcer
from securellm.config.tree import Config, Database
from securellm.errors import AuditUnavailable


def events_of(gateway: Any) -> list[dict[str, Any]]:
    lines = b"".join(path.read_bytes() for path in sorted(Path(gateway.config.log_dir).glob("audit.*.log")))
    records = [json.loads(line) for line in lines.splitlines()]
    return [record for record in records if record.get("action") in ("key_created", "key_revoked", "content_erased")]


async def test_a_key_made_beside_the_gateway_is_told(serving, provider):
    """Created and revoked by another opening of the store: one event each, in order, then forgotten."""
    with trio.fail_after(30):
        gateway = await serving({"vllm": provider})
        store = Store(gateway.config)
        minted = await trio.to_thread.run_sync(store.create_key, "a person")
        assert minted is not None
        await trio.to_thread.run_sync(store.revoke_key, minted.id)
        await until_true(lambda: len(events_of(gateway)) == 2)
        assert [event["action"] for event in events_of(gateway)] == ["key_created", "key_revoked"]
        assert {event["detail"]["key_id"] for event in events_of(gateway)} == {minted.id}
        await until_true(lambda: not store.read_events())
        store.close()


async def test_erasing_is_told(serving, provider):
    """A request's bodies that were erased beside the gateway are an event with the request's id."""
    with trio.fail_after(30):
        gateway = await serving({"vllm": provider})
        store = Store(gateway.config)
        await trio.to_thread.run_sync(store.note_event, "content_erased", "0198d2e0-0000-7000-8000-000000000000")
        await until_true(lambda: len(events_of(gateway)) == 1)
        (event,) = events_of(gateway)
        assert event["detail"]["request_id"] == "0198d2e0-0000-7000-8000-000000000000"
        store.close()


async def test_what_was_changed_is_told(serving, provider):
    """Who did what to which user, team, key or budget, with the change in words, each under its own name."""
    with trio.fail_after(30):
        gateway = await serving({"vllm": provider})
        store = Store(gateway.config)

        def change() -> None:
            store.create_team("core", actor="cli:root")
            store.create_user("alice", team_id="core", actor="cli:root")
            store.set_budget("user", "alice", limit_tokens=9, actor="aaaaaaaa")

        await trio.to_thread.run_sync(change)
        told: list[dict[str, Any]] = []

        def all_told() -> bool:
            lines = b"".join(path.read_bytes() for path in Path(gateway.config.log_dir).glob("audit.*.log"))
            told[:] = [record for record in map(json.loads, lines.splitlines()) if "actor" in record.get("detail", {})]
            return len(told) == 3

        await until_true(all_told, look_every_s=0.05)
        assert [record["action"] for record in told] == ["team_created", "user_created", "budget_set"]
        details = [record["detail"] for record in told]
        assert [detail["actor"] for detail in details] == ["cli:root", "cli:root", "aaaaaaaa"]
        assert (details[0]["team_id"], details[1]["user_id"]) == ("core", "alice")
        assert details[2]["budget_id"] == "user:alice:month"
        assert json.loads(details[1]["changed"])["team_id"] == "core"
        store.close()


class _FullLog:
    """A ledger whose log takes nothing."""

    def note(self, action: str, *, detail: dict[str, str | int]) -> None:
        raise AuditUnavailable("the disk is full")


async def test_what_the_log_does_not_take_is_told_later(tmp_path: Path) -> None:
    """An event that could not be told is given back at once, for whoever comes next."""
    with trio.fail_after(30):
        store = Store(Config(state_dir=tmp_path, database=Database(path=tmp_path / "models.db")))
        await trio.to_thread.run_sync(store.create_team, "core")
        with pytest.raises(AuditUnavailable):
            await Announcer(store, _FullLog()).tell()
        (event,) = await trio.to_thread.run_sync(store.read_events)
        assert (event.action, event.subject) == ("team_created", "core")
        store.close()
