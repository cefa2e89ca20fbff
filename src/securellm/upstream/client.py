"""What an upstream client offers: send one request, get one exchange. Pure.

Three things implement it: the httpx client, the native client of the express lane and the built-in demo provider. The
contract test runs over the first two. The native one keeps the time of a request itself (`TimedClient`), which costs
a tenth of a scope of Trio's.
"""

from typing import Protocol, runtime_checkable

import msgspec

from securellm.chat import Headers
from securellm.errors import ConnectFailed
from securellm.providers.base import Provider, UpstreamRequest


class StaleConnection(ConnectFailed):
    """A kept connection turned out to be closed: the request may be sent once more on a new one."""


class CutOff(Exception):
    """A timed exchange was ended from this side: its time is over, or it was stopped. Whoever did it knows why."""


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


class TimedExchange(Exchange, Protocol):
    """A request that has been sent, and that keeps its own time. Every wait raises CutOff once that is over.

    `whole` is a body that came with its head and needs no decoding, until it is received; otherwise b"".
    """

    whole: bytes

    async def read_head(self) -> None:
        """Return when `status` and `headers` are there. Raises StaleConnection, UpstreamTruncated, UpstreamInvalid."""

    def stop(self) -> None:
        """End it now, from outside of its task; does nothing once it is closed."""

    def keep_no_time(self) -> None:
        """Whoever reads on keeps the time."""

    def close(self) -> None:
        """As `aclose`, which waits for nothing here."""


@runtime_checkable
class TimedClient(Protocol):
    """A client whose exchanges keep the time themselves where a request can be sent at once."""

    def begin(self, request: UpstreamRequest, *, due_s: float) -> TimedExchange | None:
        """Send over a kept connection; None when that takes a wait, which is `send`'s.

        `due_s` is on Trio's clock and stands until `keep_no_time`.
        """


class Clients(Protocol):
    """Finds the client of a provider."""

    def client_of(self, provider: Provider) -> Client:
        """The one client for that provider's origin."""
