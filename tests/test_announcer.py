"""What a command does to the keys is in the audit log of the gateway that runs beside it, or of the next one."""

import json
from pathlib import Path
from typing import Any

import trio

from rig.waiting import until_true
from securellm.accounts.store import Store


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
