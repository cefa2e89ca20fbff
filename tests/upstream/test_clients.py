"""The clients of all providers."""

from securellm.config.tree import Provider as ProviderConfig
from securellm.providers.registry import describe
from securellm.upstream.clients import UpstreamClients
from securellm.upstream.demo_client import DemoClient
from securellm.upstream.httpx_client import HttpxClient


def test_clients_are_there_before_the_first_request():
    """No request's timer runs while httpx is imported or certificates are read: every client is made at the start."""
    sections = {
        "vllm": ProviderConfig(kind="vllm", enabled=True, base_url="http://127.0.0.1:1"),
        "demo": ProviderConfig(kind="demo", enabled=True),
    }
    providers = {name: describe(name, section) for name, section in sections.items()}
    clients = UpstreamClients(providers)
    assert [held.origin for held in clients.statistics()] == [provider.origin for provider in providers.values()]
    assert isinstance(clients.client_of(providers["vllm"]), HttpxClient)
    assert isinstance(clients.client_of(providers["demo"]), DemoClient)
