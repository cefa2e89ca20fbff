"""Connecting to a provider's name: its addresses in turn, of either family."""

import socket

import pytest
import trio

from securellm.upstream.connecting import open_connection


class Resolver(trio.abc.HostnameResolver):
    """Knows one name, by the addresses that it was given."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):
        """Of the name, in the given order."""
        assert host == b"provider.example"
        found = [socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0] for address in self._addresses]
        return [entry for entry in found if family in (0, entry[0])]

    async def getnameinfo(self, sockaddr, flags):
        """Nobody asks."""
        raise AssertionError


async def _listen(family: int, address: str) -> trio.SocketListener:
    sock = trio.socket.socket(family)
    await sock.bind((address, 0))
    sock.listen()
    return trio.SocketListener(sock)


@pytest.fixture
def resolver():
    """Sets what names resolve to in this test's run of Trio."""
    return lambda *addresses: trio.socket.set_custom_hostname_resolver(Resolver(*addresses))


@pytest.mark.parametrize(
    ("family", "address", "before"),
    [(socket.AF_INET, "127.0.0.1", ["127.0.0.2", "127.0.0.3"]), (socket.AF_INET6, "::1", ["127.0.0.1"])],
    ids=["IPv4", "IPv6"],
)
async def test_the_first_address_that_answers_is_taken(resolver, family: int, address: str, before: list[str]):
    """Those before it refuse; the connection sends small writes at once."""
    resolver(*before, address)
    with trio.fail_after(10):
        async with await _listen(family, address) as listener:
            port = listener.socket.getsockname()[1]
            async with await open_connection("provider.example", port, declared_host=True) as stream:
                assert stream.socket.getpeername()[:2] == (address, port)
                assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                await (await listener.accept()).aclose()


async def test_the_last_refusal_is_raised(resolver):
    """An address where nobody listens is an OSError, and leaves no socket behind."""
    resolver("127.0.0.2", "127.0.0.3")
    async with await _listen(socket.AF_INET, "127.0.0.1") as listener:
        port = listener.socket.getsockname()[1]
        with trio.fail_after(10), pytest.raises(ConnectionRefusedError):
            await open_connection("provider.example", port, declared_host=True)
