"""A TCP connection to a provider: the name is resolved, each address is judged, and the first that answers is taken.

The address is judged after the name is resolved, and is the one that is connected to (guard.py).
"""

import trio

from securellm.upstream.guard import refusal


class DestinationNotAllowed(Exception):
    """Every address of the name is one that requests must not go to; the text says which and why."""


async def open_connection(host: str, port: int, *, declared_host: bool) -> trio.SocketStream:
    """Connect, under the caller's deadline. Raises DestinationNotAllowed, or OSError of the last address tried."""
    found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    places = {sockaddr[0]: (family, sockaddr) for family, *_, sockaddr in found}
    reasons = {address: refusal(str(address), host=host, declared_host=declared_host) for address in places}
    allowed = [places[address] for address, reason in reasons.items() if reason is None]
    if not allowed:
        address, reason = next(iter(reasons.items()), ("", "no address"))
        raise DestinationNotAllowed(f"{host} resolves to {address}: {reason}")
    failure: OSError | None = None
    for family, sockaddr in allowed:
        try:
            return await _connect(family, sockaddr)
        except OSError as exc:
            failure = exc
    assert failure is not None
    raise failure


async def _connect(family: int, sockaddr: object) -> trio.SocketStream:
    """As `trio.open_tcp_stream`, which is made for names and costs three times as much."""
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        await sock.connect(sockaddr)
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)
