"""One answer of a provider that is being read from its connection. Implements `upstream.client.Exchange`."""

import math
from collections.abc import Callable
from typing import Protocol

from securellm._fast import http1
from securellm._fast.reactor_c import Channel
from securellm.chat import Headers
from securellm.errors import SecureLLMError, UpstreamTruncated
from securellm.express.bodies import Body, LengthBody, open_body


_NONE = LengthBody(0)


class Owner(Protocol):
    """Where the connection came from."""

    def done(self, channel: Channel | None, *, reusable: bool) -> None:
        """The exchange is over."""


class NativeExchange:
    """See the module. Whoever has it closes it."""

    __slots__ = ("_body", "_failure", "_keep_alive", "_owner", "_until_closed", "_whole", "channel", "headers", "status")

    def __init__(self, owner: Owner, channel: Channel, head: http1.ResponseHead, data: bytes) -> None:
        """`data` was read behind the head."""
        self.status: int = head.status
        self.headers: Headers = head.headers
        self.channel = channel
        self._owner: Owner | None = owner
        self._keep_alive: bool = head.keep_alive
        self._failure: SecureLLMError | None = None
        self._whole = b""  # a body that came with its head, until it is taken
        self._body: Body = _NONE
        self._until_closed = False
        if len(data) == head.body_bytes and b"content-encoding" not in dict(head.headers):
            self._whole = data
        else:
            channel.give_back(data)
            self._body, self._until_closed = open_body(head.body_bytes, head.chunked, head.headers)

    async def receive(self) -> bytes:
        """As the contract says."""
        if self._whole:
            whole, self._whole = self._whole, b""
            return whole
        channel, body = self.channel, self._body
        if self._failure is not None:
            raise self._failure
        while not body.done:
            data = channel.take()
            if data:
                piece, end = body.feed(data)
                if end < len(data):
                    channel.give_back(data[end:])
                if piece:
                    return piece
            elif not channel.eof and not channel.closed:
                await channel.receive_ready()
            elif self._until_closed and not channel.broken:
                body.done = True
            else:
                raise UpstreamTruncated("the provider's connection broke before its answer was complete")
        return b""

    async def relay(self, caller: Channel, feed: Callable[[bytes, float], bytes | None], *, until_s: float) -> bool:
        """Have the reactor pass the body on to `caller`, until `feed` or the end of it wants a look, or until then.

        Whether it was for the time alone. What went wrong is raised by `receive`.
        """
        channel = self.channel
        channel.deadline_s = until_s
        try:
            await channel.relay(caller, self._body, feed)
        except SecureLLMError as error:
            self._failure = error
        expired: bool = channel.expired
        channel.deadline_s = math.inf
        return expired

    async def aclose(self) -> None:
        """As the contract says; waits for nothing."""
        owner, self._owner = self._owner, None
        if owner is not None:
            channel = self.channel
            sound = not (channel.eof or channel.closed or channel.unread or channel.queued_bytes)
            owner.done(channel, reusable=self._body.done and self._keep_alive and sound and self._failure is None)
