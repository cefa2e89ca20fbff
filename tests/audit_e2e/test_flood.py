"""Failed authentications cannot fill the disk: a line a second and address, with the count of what it stands for."""

import os

import trio

from rig import doors
from rig.audit_log import read_chain
from rig.books import check_pairs, events, verify
from rig.gateway import RunningGateway
from rig.raw_client import open_client

_CHAT = doors.CHAT
ATTEMPTS = max(1000, round(10_000 * float(os.environ.get("SECURELLM_TEST_SCALE", "1.0"))))
AT_ONCE = 8
LINE_BYTES = 600  # more than such a line has


async def test_a_flood_of_wrong_keys(serving, provider):
    """Every attempt is counted, in as many lines as there were seconds; nothing of it waits for the disk."""
    with trio.fail_after(180):
        gateway: RunningGateway = await serving(provider)
        before_bytes = _size(gateway)
        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(_knock, gateway, ATTEMPTS // AT_ONCE)
        took_s = trio.current_time() - began_s
        await gateway.stop()
    records = read_chain(gateway.config.log_dir)
    found = events(records, "authentication_failed")
    assert sum(event["count"] for event in found) == ATTEMPTS // AT_ONCE * AT_ONCE
    assert len(found) <= took_s + 3
    assert {event["client_ip"] for event in found} == {"127.0.0.1"}
    assert not check_pairs(records)
    assert not provider.asked
    assert _size(gateway) - before_bytes <= (len(found) + 2) * LINE_BYTES
    verify(gateway.config.state_dir.parent)


async def _knock(gateway: RunningGateway, times: int) -> None:
    async with open_client(gateway.base_url) as client:
        for _ in range(times):
            await client.request("POST", _CHAT.path, b"{}", _CHAT.auth("sk-wrong"))
            response = await client.read_response()
            assert response.status == 401, response


def _size(gateway: RunningGateway) -> int:
    return sum(path.stat().st_size for path in gateway.config.log_dir.glob("audit.*.log"))
