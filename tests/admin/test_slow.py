"""Nobody waits for ever for administration: neither for a store that hangs nor for a body that does not come."""

import time

import pytest
import trio

from rig.administration import open_administration, open_local_client
from rig.gateway import RunningGateway
from securellm.web.administration.asking import BODY_S, STORE_S

pytestmark = pytest.mark.slow


async def test_a_store_that_hangs_is_503(gateway: RunningGateway, nursery: trio.Nursery) -> None:
    """While the store's thread is stuck an administrator is told so in bounded time, and served when it is free."""
    admin = await open_administration(gateway)
    with trio.fail_after(STORE_S + 20):
        nursery.start_soon(gateway.runtime.store.in_thread, time.sleep, STORE_S + 2)
        started_s = trio.current_time()
        refused = await admin.ask("GET", "/api/admin/keys")
        assert (refused.status, refused.json()["error"]["code"]) == (503, "store_unavailable")
        assert STORE_S <= trio.current_time() - started_s < STORE_S + 2
        assert (await admin.ask("GET", "/api/admin/keys")).status == 200


async def test_a_body_that_does_not_come_is_408(gateway: RunningGateway) -> None:
    """Whoever announces a body and does not send it is refused in bounded time, and has changed nothing."""
    admin = await open_administration(gateway)
    with trio.fail_after(BODY_S + 10):
        async with open_local_client(admin.path) as client:
            head = f"POST /api/admin/users HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {admin.key}\r\n"
            await client.send(head.encode() + b'content-length: 20\r\n\r\n{"id":')
            refused = await client.read_response()
        assert (refused.status, refused.json()["error"]["code"]) == (408, "request_timeout")
        assert await admin.do("GET", "/api/admin/users") == {"users": []}
