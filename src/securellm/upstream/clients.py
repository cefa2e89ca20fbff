"""The upstream clients of all providers: those of the lane for real ones (httpx at first), in-process for `demo`.

They are made at the start, because importing httpx and reading the system's certificates takes longer than some
requests may.
"""

from collections.abc import Callable, Mapping

from securellm.providers.base import Provider
from securellm.upstream.client import Client, ClientStatistics
from securellm.upstream.demo_client import DemoClient

OpenClient = Callable[[Provider], Client]


def open_httpx(provider: Provider) -> Client:
    """The reference client of one provider."""
    from securellm.upstream.httpx_client import HttpxClient  # where only `demo` serves, httpx is not needed

    return HttpxClient(provider)


class UpstreamClients:
    """One client for each provider. Whoever opens it calls `aclose`."""

    def __init__(self, providers: Mapping[str, Provider], open_client: OpenClient = open_httpx) -> None:
        self._clients = {
            name: DemoClient(provider) if provider.is_demo else open_client(provider)
            for name, provider in providers.items()
        }

    def client_of(self, provider: Provider) -> Client:
        """The one client for that provider."""
        return self._clients[provider.name]

    async def aclose(self) -> None:
        """Close all of them."""
        for client in self._clients.values():
            await client.aclose()

    def statistics(self) -> list[ClientStatistics]:
        """One entry for each provider."""
        return [client.statistics() for client in self._clients.values()]
