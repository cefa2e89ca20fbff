"""The relay loop of the reference lane: a request in, whatever the gateway makes of it out.

No policy lives here. A stream is an object, not a generator: nothing is ever suspended inside a nursery or a scope, and
there is nothing that the garbage collector would have to close.
"""

from types import TracebackType
from typing import Any, Self

from quart.wrappers import Response
from quart.wrappers.response import ResponseBody

from securellm.chat import Answer, Endpoint, Outcome, Status
from securellm.errors import InternalError
from securellm.web.answers import answer_with, whole
from securellm.web.asgi import EdgeRequest


async def infer(edge: EdgeRequest, endpoint: Endpoint) -> Response:
    """Serve one request at a front door that asks a provider."""
    gateway = edge.runtime.gateway
    admitted = await gateway.admit(edge.call(endpoint))
    if isinstance(admitted, Answer):
        return _complete(admitted)
    edge.permit = admitted
    try:
        asked = await gateway.ask(admitted)
    except Exception:
        edge.settle(Outcome(Status.FAILED, 500, InternalError.code, "internal error"))
        raise
    if isinstance(asked, Answer):
        return _complete(asked)
    edge.upstream = asked
    return answer_with(Relay(edge, asked), asked.status, asked.headers)


def _complete(answer: Answer) -> Response:
    headers = [(name, value) for name, value in answer.headers if name != b"content-length"]
    return whole(answer.body, answer.status, headers)


class Relay(ResponseBody):
    """The body of a streamed answer: pulls from the provider, and lets the held bytes go when the gateway says so."""

    def __init__(self, edge: EdgeRequest, upstream: Any) -> None:
        self._edge = edge
        self._upstream = upstream
        self._last: Any = None  # the last thing pulled, once it is known that there is no more
        self._over = False

    async def __aenter__(self) -> Self:
        self._edge.upstream = None  # closed from here, from now on
        await self._upstream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._upstream.__aexit__(kind, error, trace)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while self._last is None:
            pulled = await self._upstream.pull()
            if pulled.last:
                self._last = pulled
            if pulled.data:
                return bytes(pulled.data)
        if not self._over:
            self._over = True
            held = await self._finish()
            if held:
                return held
        raise StopAsyncIteration

    async def convert_to_sequence(self) -> bytes:
        """All of it, as Quart asks of every body; nothing here does."""
        pieces = []
        async with self:
            async for piece in self:
                pieces.append(piece)
        return b"".join(pieces)

    async def make_conditional(self, begin: int, end: int | None, max_partial_size: int | None = None) -> int:
        """A stream has no ranges: asked for one, it stays whole."""
        return 0

    async def _finish(self) -> bytes:
        ending = await self._edge.runtime.gateway.finish(self._edge.permit, self._upstream, self._last)
        self._edge.cut = ending.abort
        return bytes(ending.held)
