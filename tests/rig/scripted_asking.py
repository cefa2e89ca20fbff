"""A client in memory that does what a script says, waiting under the asker's scope or keeping the time itself."""

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import trio

from securellm.chat import Headers
from securellm.errors import AuditUnavailable
from securellm.ledger import Page
from securellm.providers.base import Provider, UpstreamRequest
from securellm.routing import Target
from securellm.upstream.client import CutOff

Step = bytes | float | Exception
T = TypeVar("T")


class ScriptedExchange:
    """What a script says of one request, step by step."""

    def __init__(self, client: "ScriptedClient", status: int, headers: Headers, steps: list[Step]) -> None:
        self.status, self.headers, self._steps, self._client = status, headers, steps, client
        only = steps[0] if len(steps) == 1 else b""
        self.whole = only if isinstance(only, bytes) else b""

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while self._steps:
            step = self._steps.pop(0)
            if isinstance(step, Exception):
                raise step
            if isinstance(step, bytes):
                return step
            await trio.sleep(step)
        return b""

    def close(self) -> None:
        self._client.closed += 1

    async def aclose(self) -> None:
        self.close()


class ScriptedClient:
    """Each send takes the next script: an exception, or (status, headers, steps); steps are bytes, seconds, errors."""

    def __init__(self, *scripts: Any) -> None:
        self.scripts = list(scripts)
        self.sent: list[tuple[float, UpstreamRequest]] = []
        self.closed = 0

    async def send(self, request: UpstreamRequest, *, connect_s: float) -> ScriptedExchange:
        self.sent.append((trio.current_time(), request))
        script = self.scripts.pop(0)
        if isinstance(script, float):
            await trio.sleep(script)
            script = self.scripts.pop(0)
        if isinstance(script, Exception):
            raise script
        status, headers, steps = script
        return ScriptedExchange(self, status, headers, list(steps))


class TimedExchange:
    """What a scripted client does, within a time of its own."""

    status: int
    headers: Headers
    whole: bytes

    def __init__(self, client: ScriptedClient, request: UpstreamRequest, due_s: float) -> None:
        self._client, self._request, self._due_s = client, request, due_s
        self._exchange: ScriptedExchange | None = None
        self._scope = trio.CancelScope()

    async def read_head(self) -> None:
        self._exchange = await self._in_time(partial(self._client.send, self._request, connect_s=5))
        self.status, self.headers, self.whole = self._exchange.status, self._exchange.headers, self._exchange.whole

    async def receive(self) -> bytes:
        assert self._exchange is not None
        return await self._in_time(self._exchange.receive)

    async def _in_time(self, act: Callable[[], Awaitable[T]]) -> T:
        with trio.CancelScope(deadline=self._due_s) as self._scope:
            return await act()
        raise CutOff

    def stop(self) -> None:
        self._scope.cancel()

    def keep_no_time(self) -> None:
        self._due_s = math.inf

    def close(self) -> None:
        if self._exchange is not None:
            self._exchange.close()

    async def aclose(self) -> None:
        self.close()


class TimedClient:
    """A scripted client that keeps the time itself; every third request needs a wait, as without a connection."""

    def __init__(self, client: ScriptedClient) -> None:
        self._client = client
        self._begun = 0

    def begin(self, request: UpstreamRequest, *, due_s: float) -> TimedExchange | None:
        self._begun += 1
        return TimedExchange(self._client, request, due_s) if self._begun % 3 else None

    async def send(self, request: UpstreamRequest, *, connect_s: float) -> ScriptedExchange:
        return await self._client.send(request, connect_s=connect_s)


class ScriptedClients:
    """Finds the scripted client of a provider; `timed` wraps each in one that keeps the time itself."""

    timed = False

    def __init__(self, clients: dict[str, ScriptedClient]) -> None:
        self._clients = {name: TimedClient(client) if self.timed else client for name, client in clients.items()}

    def client_of(self, provider: Provider) -> ScriptedClient | TimedClient:
        return self._clients[provider.name]


class SlowPage:
    """A page whose records are on disk after some seconds."""

    def __init__(self, page: Page, takes_s: float) -> None:
        self.tariff = page.tariff
        self._takes_s = takes_s
        self._scope = trio.CancelScope()

    def asking(self, target: Target, number: int) -> "SlowPage":
        return self

    async def durable(self) -> None:
        with self._scope:
            await trio.sleep(self._takes_s)
            return
        raise AuditUnavailable("let go")

    def let_go(self) -> None:
        self._scope.cancel()


class NoBody:
    """The body of a call whose body nobody reads."""

    length = 0

    async def receive(self) -> bytes:
        return b""


class SlowHold:
    """A provider's limit that takes its time to say yes."""

    def take_provider(self, provider: str, tokens: int) -> bool:
        return False

    async def ask_provider(self, provider: str, tokens: int) -> None:
        await trio.sleep(0.05)
