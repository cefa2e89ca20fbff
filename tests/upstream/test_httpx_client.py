"""What holds for the httpx client alone."""

import httpcore

from rig.fake_provider import FakeProvider
from securellm.config.tree import Provider as ProviderConfig
from securellm.providers.registry import describe
from securellm.upstream.httpx_client import HttpxClient
from securellm.upstream.network import GuardedBackend


async def test_the_guard_is_on_every_connection(provider: FakeProvider) -> None:
    """httpx has no parameter for it, so this pins that its pool makes connections through the guard."""
    client = HttpxClient(describe("vllm", ProviderConfig(kind="vllm", enabled=True, base_url=provider.base_url)))
    connection = client._pool.create_connection(httpcore.URL("http://vllm.internal").origin)
    assert isinstance(connection._network_backend, GuardedBackend)
