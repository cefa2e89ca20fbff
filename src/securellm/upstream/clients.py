"""The upstream clients of all providers: httpx for real ones, in-process for `demo`.

They are made at the start, because importing httpx and reading the system's certificates takes longer than some
requests may.
"""

from collections.abc import Mapping

from securellm.providers.base import Provider
from securellm.upstream.client import Client, ClientStatistics
from securellm.upstream.demo_client import DemoClient


class UpstreamClients:
    """One client for each provider. Whoever opens it calls `aclose`."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self._clients = {name: _open_client(provider) for name, provider in providers.items()}

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


def _open_client(provider: Provider) -> Client:
    if provider.is_demo:
        return DemoClient(provider)
    from securellm.upstream.httpx_client import HttpxClient  # where only `demo` serves, httpx is not needed

    return HttpxClient(provider)
