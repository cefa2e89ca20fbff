"""What the reader of a connection hands to the application of one request: body pieces, and that the caller is gone.

Body pieces are bounded and wait; that the caller is gone never waits and overtakes them. The first time the application
asks for the body, `before_body` runs, which is where `Expect: 100-continue` is answered.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio.task_group import TaskGroup

from securellm.errors import SecureLLMError
from securellm.telemetry.faults import describe_fault

MAX_WAITING_BYTES = 65536  # one read of the socket; more waits in the kernel, where the caller feels it

_log = logging.getLogger("securellm.web")


class Inbox:
    """One request's received events. One task puts, one receives."""

    def __init__(self, before_body: Callable[[], Awaitable[None]]) -> None:
        self._before_body: Callable[[], Awaitable[None]] | None = before_body
        self._pieces: deque[dict[str, Any]] = deque()
        self._waiting_bytes = 0
        self._failure: SecureLLMError | None = None
        self._closed = False
        self._changed = trio.Event()

    async def put(self, event: Any) -> None:
        """Take one event; a body piece waits for room, unless the exchange is over and nobody will read it."""
        if event["type"] == "http.disconnect":
            self.close()
            return
        size_bytes = len(event.get("body", b""))
        while self._waiting_bytes and self._waiting_bytes + size_bytes > MAX_WAITING_BYTES and not self._closed:
            await self._changed.wait()
        if not self._closed:
            self._pieces.append(event)
            self._waiting_bytes += size_bytes
            self._wake()

    def close(self) -> None:
        """The exchange is over or the caller is gone: `receive` says so from now on."""
        self._closed = True
        self._wake()

    def fail(self, error: SecureLLMError) -> None:
        """The rest of the body cannot be read; `receive` raises `error` after the pieces that were good."""
        self._failure = error
        self._wake()

    async def receive(self) -> Any:
        """The next ASGI event: a body piece, or `http.disconnect` as soon as it is known. Raises the body's failure."""
        if self._before_body is not None:
            before_body, self._before_body = self._before_body, None
            await before_body()
        while not (self._closed or self._pieces or self._failure):
            await self._changed.wait()
        await trio.lowlevel.checkpoint()
        if self._closed:
            return {"type": "http.disconnect"}
        if not self._pieces and self._failure is not None:
            raise self._failure
        event = self._pieces.popleft()
        self._waiting_bytes -= len(event.get("body", b""))
        self._wake()
        return event

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Tasks(TaskGroup):
    """Hypercorn's task group of one connection, with an inbox per request and a log of our own.

    Hypercorn's own wrapper prints tracebacks with request data, and raises over a cancellation.
    """

    def __init__(self, before_body: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._before_body = before_body

    async def spawn_app(self, app: Any, config: Config, scope: Any, send: Any) -> Callable[[Any], Awaitable[None]]:
        """Start the application for one request; returns where to put what the caller sends."""
        inbox = Inbox(self._before_body)
        self.spawn(_run_app, app, scope, inbox, send)
        return inbox.put


async def _run_app(app: Any, scope: Any, inbox: Inbox, send: Any) -> None:
    try:
        await app(scope, inbox.receive, send, trio.to_thread.run_sync, trio.from_thread.run)
    except OSError:
        _log.debug("the caller was gone before its answer was written")
    except Exception as error:
        _log.error("the application failed outside of any handler: %s", describe_fault(error))
    except BaseExceptionGroup as group:
        cancelled, failed = group.split(trio.Cancelled)
        if failed is not None:
            _log.error("the application failed while it was cancelled: %s", describe_fault(failed))
        if cancelled is not None:
            raise cancelled from None
    try:
        await send(None)  # closes an exchange that was left open; does nothing after a complete answer
    except OSError:
        _log.debug("the caller was gone before its exchange was closed")
