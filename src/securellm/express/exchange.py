"""One answer of a provider that is being read from its connection. Implements `upstream.client.TimedExchange`."""

import math
from collections.abc import Callable
from typing import Protocol

from securellm._fast import http1
from securellm._fast.reactor_c import Channel
from securellm.chat import Headers
from securellm.errors import SecureLLMError, UpstreamTruncated
from securellm.express.bodies import Body, LengthBody, open_body
from securellm.upstream.client import CutOff, StaleConnection

MAX_HEAD_BYTES = 100 * 1024

_NONE = LengthBody(0)


class Owner(Protocol):
    """Where the connection came from; its name is what callers read."""

    @property
    def name(self) -> str:
        """`provider <name>`."""

    def done(self, channel: Channel | None, *, reusable: bool) -> None:
        """The exchange is over."""


class NativeExchange:
    """See the module. Whoever has it closes it."""

    __slots__ = (
        "_before_bytes",
        "_body",
        "_failure",
        "_keep_alive",
        "_kept",
        "_of_head",
        "_owner",
        "_until_closed",
        "channel",
        "headers",
        "status",
        "whole",
    )

    headers: Headers

    def __init__(self, owner: Owner, channel: Channel, *, kept: bool, of_head: bool) -> None:
        """Made before the request is written to the channel, which was `kept` or is new."""
        self.status = 0  # until `read_head` has returned
        self.channel = channel
        self._owner: Owner | None = owner
        self._kept = kept
        self._of_head = of_head
        self._before_bytes = channel.received_bytes
        self._keep_alive = False
        self._failure: SecureLLMError | None = None
        self.whole = b""  # until it is received
        self._body: Body = _NONE
        self._until_closed = False

    async def read_head(self) -> None:
        """As the contract says."""
        channel = self.channel
        data = b""
        while True:
            more = channel.take()
            if more:
                data += more
                parsed = http1.parse_response(data, 0, MAX_HEAD_BYTES, self._of_head)
                while parsed is not None:
                    head, end = parsed
                    data = data[end:]
                    if head.status >= 200:
                        self._take_head(head, data)
                        return
                    parsed = http1.parse_response(data, 0, MAX_HEAD_BYTES, self._of_head)
            elif channel.eof:
                name = self._owner.name if self._owner is not None else "the provider"
                if self._kept and channel.received_bytes == self._before_bytes:
                    raise StaleConnection(f"{name} had closed a kept connection")
                raise UpstreamTruncated(f"{name} closed the connection before it answered")
            elif channel.closed or channel.expired:
                raise CutOff
            else:
                await channel.receive_ready()

    def _take_head(self, head: http1.ResponseHead, data: bytes) -> None:
        """The head is there, and `data` was read behind it."""
        headers = self.headers = head.headers
        self._keep_alive = head.keep_alive
        encoded = False
        for name, _ in headers:
            if name == b"content-encoding":
                encoded = True
        if len(data) == head.body_bytes and not encoded:
            self.whole = data
        else:
            if data:
                self.channel.give_back(data)
            self._body, self._until_closed = open_body(head.body_bytes, head.chunked, headers)
        self.status = head.status

    async def receive(self) -> bytes:
        """As the contract says."""
        if self.whole:
            whole, self.whole = self.whole, b""
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
            elif channel.eof:
                if not self._until_closed or channel.broken:
                    raise UpstreamTruncated("the provider's connection broke before its answer was complete")
                body.done = True
            elif channel.closed or channel.expired:
                raise CutOff
            else:
                await channel.receive_ready()
        return b""

    def stop(self) -> None:
        """As the contract says: the connection is closed, and whoever waits for it is woken."""
        if self._owner is not None:  # afterwards the connection may be another request's
            self.channel.close()

    def keep_no_time(self) -> None:
        """As the contract says."""
        self.channel.deadline_s = math.inf

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

    def close(self) -> None:
        """As the contract says."""
        owner, self._owner = self._owner, None
        if owner is not None:
            channel = self.channel
            sound = not (channel.eof or channel.closed or channel.unread or channel.queued_bytes)
            whole = self._keep_alive and self._body.done  # without a head there is nothing to keep alive
            owner.done(channel, reusable=whole and sound and self._failure is None)

    async def aclose(self) -> None:
        """As the contract says; waits for nothing."""
        self.close()
