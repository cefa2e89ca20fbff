"""What an upstream client offers: send one request, get one exchange. Pure.

Two things implement it: the httpx client and the built-in demo provider. The contract test runs over both.
"""

from typing import Protocol

import msgspec

from securellm.chat import Headers
from securellm.errors import ConnectFailed
from securellm.providers.base import Provider, UpstreamRequest


class StaleConnection(ConnectFailed):
    """A kept connection turned out to be closed: the request may be sent once more on a new one."""


class Exchange(Protocol):
    """One request that was sent, and its answer as it arrives. Whoever gets it calls `aclose`."""

    status: int
    headers: Headers

    async def receive(self) -> bytes:
        """The next bytes of the body, content-encoding undone; b"" at its proper end.

        Raises UpstreamTruncated when the connection ends before the body does, UpstreamInvalid when the body cannot
        be decoded.
        """

    async def aclose(self) -> None:
        """Give the connection back when the body was read to its end, close it at once otherwise.

        Runs under a shield of its own, bounded in time, so that a cancelled caller closes, too.
        """


class ClientStatistics(msgspec.Struct, frozen=True):
    """What one origin's client holds: requests that hold a slot, requests that wait for one, open connections."""

    origin: str
    in_use: int
    waiting: int
    connections: int
    max_connections: int


class Client(Protocol):
    """Sends requests to one provider's origin. Nothing is retried here and no redirect is followed."""

    async def send(self, request: UpstreamRequest, *, connect_s: float) -> Exchange:
        """Send, and return when the head of the answer is there.

        `connect_s` bounds TCP and TLS together. Raises ConnectTimeout, ConnectFailed (nothing was sent),
        StaleConnection (a kept connection was closed under us, nothing came back), UpstreamTruncated (it broke after
        the request was sent), DestinationRefused, UpstreamInvalid. Cancelling closes the connection.
        """

    async def aclose(self) -> None:
        """Close every kept connection."""

    def statistics(self) -> ClientStatistics:
        """The figures now."""


class Clients(Protocol):
    """Finds the client of a provider."""

    def client_of(self, provider: Provider) -> Client:
        """The one client for that provider's origin."""
