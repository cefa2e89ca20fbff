"""The built-in provider `demo` behind the client contract: it answers in this process and opens no connection."""

from collections.abc import Iterator

import trio

from securellm.chat import Headers
from securellm.providers.base import Provider, UpstreamRequest
from securellm.providers.demo import answer_demo, endpoint_at
from securellm.upstream.client import ClientStatistics, Exchange


class DemoClient:
    """Asks the demo provider."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._in_use = 0

    async def send(self, request: UpstreamRequest, *, connect_s: float) -> Exchange:
        """The answer to the request; `connect_s` is not needed."""
        await trio.lowlevel.checkpoint()
        answer = answer_demo(endpoint_at(request.url), request.content)
        self._in_use += 1
        return DemoExchange(self, answer.status, answer.headers, answer.chunks)

    async def aclose(self) -> None:
        """There is nothing to close."""

    def statistics(self) -> ClientStatistics:
        """The figures now."""
        return ClientStatistics(self._provider.origin, self._in_use, 0, 0, self._provider.max_connections)

    def done(self) -> None:
        """One exchange has been closed."""
        self._in_use -= 1


class DemoExchange:
    """One demo answer that is being read."""

    def __init__(self, client: DemoClient, status: int, headers: Headers, chunks: Iterator[bytes]) -> None:
        self.status = status
        self.headers = headers
        self._client: DemoClient | None = client
        self._chunks = chunks

    async def receive(self) -> bytes:
        """The next chunk, b"" at the end."""
        await trio.lowlevel.checkpoint()
        return next(self._chunks, b"")

    async def aclose(self) -> None:
        """Once."""
        if self._client is not None:
            self._client.done()
            self._client = None
