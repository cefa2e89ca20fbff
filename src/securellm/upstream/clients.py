"""The upstream clients of all providers, made when first used: httpx for real ones, in-process for `demo`."""

from securellm.providers.base import Provider
from securellm.upstream.client import Client, ClientStatistics
from securellm.upstream.demo_client import DemoClient


class UpstreamClients:
    """Whoever opens it calls `aclose`."""

    def __init__(self) -> None:
        self._clients: dict[str, Client] = {}

    def client_of(self, provider: Provider) -> Client:
        """The one client for that provider."""
        client = self._clients.get(provider.name)
        if client is None:
            client = self._clients[provider.name] = _open_client(provider)
        return client

    async def aclose(self) -> None:
        """Close all of them."""
        for client in self._clients.values():
            await client.aclose()

    def statistics(self) -> list[ClientStatistics]:
        """One entry for each provider that was asked."""
        return [client.statistics() for client in self._clients.values()]


def _open_client(provider: Provider) -> Client:
    if provider.is_demo:
        return DemoClient(provider)
    from securellm.upstream.httpx_client import HttpxClient  # only when a real provider is asked: 100 ms of import

    return HttpxClient(provider)
