"""What the native client does beyond the contract of both, which is in tests/upstream/test_client.py."""

from functools import partial

import pytest
import trio

from securellm.chat import Endpoint
from securellm.config.tree import Provider as ProviderConfig
from securellm.providers.base import Provider, UpstreamRequest
from securellm.providers.registry import describe

pytestmark = pytest.mark.compiled


def _describe_at(base_url: str) -> Provider:
    return describe("vllm", ProviderConfig(kind="vllm", enabled=True, base_url=base_url))


async def test_an_early_answer_to_a_large_request(nursery):
    """A provider that answers before it has read the body is heard, and the connection is not used again."""
    from securellm.express.lane import ExpressLane  # without the extensions it cannot be imported

    lane = ExpressLane()
    nursery.start_soon(lane.run)
    with trio.fail_after(20):
        listeners = await nursery.start(partial(trio.serve_tcp, _refuse_early, 0, host="127.0.0.1"))
        provider = _describe_at(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        client = lane.open_client(provider)
        url = provider.endpoints[Endpoint.CHAT].url
        request = UpstreamRequest("POST", url, provider.origin, [], b"x" * 20_000_000)
        exchange = await client.send(request, connect_s=5)
        assert exchange.status == 413
        assert await exchange.receive() == b"{}"
        await exchange.aclose()
        assert client.statistics().connections == 0


async def _refuse_early(stream: trio.SocketStream) -> None:
    await stream.receive_some(1000)
    await stream.send_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\n{}")
    await trio.sleep_forever()
