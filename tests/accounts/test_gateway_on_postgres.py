"""A whole gateway whose store is a PostgreSQL server: it starts without it, serves with it, and outlives it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from rig.doors import CHAT
from rig.fake_provider import FakeProvider
from rig.gateway import RunningGateway
from rig.pairs import PAIRS
from rig.postgres_server import PASSWORD, PostgresServer
from rig.waiting import until_true
from securellm.accounts.store import Store
from securellm.chat import Grants

pytestmark = [pytest.mark.slow, pytest.mark.tool("postgres")]

PAIR = next(pair for pair in PAIRS if pair.door is CHAT and pair.provider == "openai")
BODY = PAIR.door.body(PAIR.model)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def settings(server: PostgresServer, tmp_path: Path) -> dict[str, Any]:
    """Sections that put the store on the server, with a URL that holds its password."""
    (tmp_path / "url").write_text(server.create_database("gateway").reveal())
    (tmp_path / "pepper").write_text("a pepper that machines share\n")
    return {
        "database": {"url": f"file:{tmp_path / 'url'}", "max_stale_s": 600},
        "security": {"pepper": f"file:{tmp_path / 'pepper'}"},
    }


@pytest.fixture
def answering(provider: FakeProvider) -> FakeProvider:
    """The provider with a good answer to whatever may come."""
    for _ in range(100):
        provider.enqueue(*PAIR.answers("Hello"))
    return provider


async def _status(gateway: RunningGateway, key: str) -> int:
    return (await gateway.ask(CHAT, BODY, key=key)).status


async def _until_status(gateway: RunningGateway, key: str, status: int) -> None:
    while await _status(gateway, key) != status:  # noqa: ASYNC110  another process's change is announced by nobody
        await trio.sleep(0.05)


async def test_keys_of_a_server(serving, answering, settings, caplog) -> None:
    """A key made beside the gateway works, keeps to its grants, is told in the audit log and stops when revoked."""
    with trio.fail_after(60):
        gateway = await serving({"openai": answering}, **settings)
        store = Store(gateway.config)

        def make(**settings: Any) -> str:
            minted = store.create_key("n", **settings)
            assert minted is not None
            return minted.text

        good = await trio.to_thread.run_sync(make)
        narrow = await trio.to_thread.run_sync(lambda: make(grants=Grants(models=("other/*",))))
        await _until_status(gateway, narrow, 403)
        assert await _status(gateway, good) == 200
        await trio.to_thread.run_sync(store.revoke_key, good[4:12])
        await _until_status(gateway, good, 401)
        await until_true(lambda: not store.read_events(), look_every_s=0.05)
        health = (await gateway.get("/api/health")).json()
        assert health["database"]["status"] == "healthy"
        assert (await gateway.get("/readyz")).status == 200
        store.close()
    assert PASSWORD not in caplog.text


async def test_a_start_without_the_server(serving, answering, server: PostgresServer, settings, caplog) -> None:
    """It serves at once what needs no store and says 503 of the rest; when the server comes all is well by itself."""
    with trio.fail_after(90):
        await trio.to_thread.run_sync(server.stop)
        began_s = trio.current_time()
        gateway = await serving({"openai": answering}, **settings)
        print(f"started in {trio.current_time() - began_s:.2f} s without the server")
        assert await _status(gateway, gateway.key) == 200  # a key of the configuration
        unknown = "slb_aaaaaaaa_" + "x" * 43
        assert await _status(gateway, unknown) == 503
        assert (await gateway.get("/readyz")).status == 503
        body = (await gateway.get("/api/health")).body
        assert PASSWORD.encode() not in body
        await trio.to_thread.run_sync(server.start)
        await _until_status(gateway, unknown, 401)
        while (await gateway.get("/readyz")).status != 200:  # noqa: ASYNC110  nothing announces it
            await trio.sleep(0.05)
        await trio.to_thread.run_sync(server.kill)
        await _until_status(gateway, unknown, 503)
        assert await _status(gateway, gateway.key) == 200
        await trio.to_thread.run_sync(server.start)
        await _until_status(gateway, unknown, 401)
    assert PASSWORD not in caplog.text
