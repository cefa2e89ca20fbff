"""Addresses that never answer: to hold a connection in its making."""

import contextlib
import socket
from collections.abc import AsyncIterator

import trio

from rig.fake_provider import Connection


class SilentListener:
    """An https address that accepts connections and never answers the handshake; it sees them close."""

    def __init__(self, port: int) -> None:
        self.base_url = f"https://127.0.0.1:{port}"
        self.connections: list[Connection] = []
        self._arrival = trio.Event()

    async def connected(self, count: int = 1) -> Connection:
        """Wait until that many connections have been made; returns the last of them."""
        while len(self.connections) < count:
            await self._arrival.wait()
        return self.connections[count - 1]

    async def _serve(self, listener: trio.socket.SocketType) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                peer, _ = await listener.accept()
                connection = Connection(len(self.connections), trio.current_time())
                self.connections.append(connection)
                self._arrival.set()
                self._arrival = trio.Event()
                nursery.start_soon(self._read, peer, connection)

    async def _read(self, peer: trio.socket.SocketType, connection: Connection) -> None:
        with peer:
            try:
                while await peer.recv(65536):
                    pass
            except ConnectionError:
                connection.mark_closed("RST")
            else:
                connection.mark_closed("FIN")


@contextlib.asynccontextmanager
async def open_silent_listener() -> AsyncIterator[SilentListener]:
    """Such a listener while the block runs."""
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with sock:
        await sock.bind(("127.0.0.1", 0))
        sock.listen(1024)
        silent = SilentListener(sock.getsockname()[1])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(silent._serve, sock)
            yield silent
            nursery.cancel_scope.cancel()
