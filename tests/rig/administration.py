"""A client of a gateway's administration: requests by its Unix socket, or by TCP where `[admin] bind` says so."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import trio

from rig.gateway import RunningGateway
from rig.raw_client import RawClient, Response, fetch
from securellm.accounts.store import Store


def socket_of(gateway: RunningGateway) -> Path:
    """Where its socket is."""
    return gateway.config.state_dir / "admin.sock"


@contextlib.asynccontextmanager
async def open_local_client(path: Path) -> AsyncIterator[RawClient]:
    """A client connected to a Unix socket, closed with the block."""
    peer = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    with peer:
        await peer.connect(str(path))
        yield RawClient(peer)


class Administrator:
    """Whoever holds a key, at a gateway's administration: by TCP where there is a `base_url`, else by the socket."""

    def __init__(self, path: Path, key: str | None, base_url: str | None = None) -> None:
        self.path = path
        self.key = key
        self.base_url = base_url

    async def ask(self, method: str, target: str, body: Any = None) -> Response:
        """One request; `body` is sent as JSON."""
        headers = {"authorization": f"Bearer {self.key}"} if self.key is not None else {}
        data = json.dumps(body).encode() if body is not None else None
        if self.base_url is not None:
            return await fetch(self.base_url, method, target, data, headers)
        async with open_local_client(self.path) as client:
            await client.request(method, target, data, headers)
            return await client.read_response()

    async def do(self, method: str, target: str, body: Any = None) -> Any:
        """One request that must be answered well; returns what it says."""
        response = await self.ask(method, target, body)
        assert response.status in (200, 201), (response.status, response.body)
        return response.json()


async def make_key(gateway: RunningGateway, role: str = "user", **facts: Any) -> str:
    """A key of the store, made as a command beside the gateway does, and in force when this returns."""

    def make() -> str:
        store = Store(gateway.config)
        try:
            minted = store.create_key("a caller", role, **facts)
            assert minted is not None
            return minted.text
        finally:
            store.close()

    text = await trio.to_thread.run_sync(make)
    await gateway.runtime.accounts.refresh()
    return text


async def open_administration(gateway: RunningGateway) -> Administrator:
    """An administrator with a key, at the Unix socket."""
    return Administrator(socket_of(gateway), await make_key(gateway, "admin"))
