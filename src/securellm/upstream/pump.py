"""An exchange whose `receive` can be given up and tried again without losing anything.

Cancelling a read of the client closes the provider's connection, which is right when the caller is gone and wrong when
only a heartbeat is due. So one task reads, and whoever waits, waits for what it has read. Nothing is read ahead: the
next read begins when the last one was taken. Only streams with heartbeats pay for it.
"""

from types import TracebackType

import trio

from securellm.errors import SecureLLMError
from securellm.upstream.client import Exchange


class Pump:
    """Reads an exchange while it is open. It is entered and left within the task that serves the request."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._send, self._receive = trio.open_memory_channel[bytes](0)
        self._error: SecureLLMError | None = None
        self._opening = trio.open_nursery()
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> "Pump":
        self._nursery = await self._opening.__aenter__()
        self._nursery.start_soon(self._run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        await self._opening.__aexit__(None, None, None)  # what the body raised goes on by itself, not in a group

    async def receive(self) -> bytes:
        """As `Exchange.receive`, and safe to cancel."""
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            if self._error is not None:
                raise self._error from None
            return b""

    async def _run(self) -> None:
        with self._send:
            try:
                while data := await self._exchange.receive():
                    await self._send.send(data)
            except SecureLLMError as error:
                self._error = error
