"""The sockets to listen on, bound before anything heavy is imported.

A client that connects while the process starts waits in the backlog instead of being refused; so this imports neither
Trio nor anything of the server.
"""

import socket
from typing import Any

from securellm.config.tree import Config
from securellm.errors import ConfigError

BACKLOG = 2048  # connections that wait to be accepted; the kernel caps it at net.core.somaxconn


def bind_sockets(config: Config) -> list[socket.socket]:
    """Listening sockets for `server.host` and `server.port`, one for each address of the host. Raises ConfigError."""
    return bind_address(config.server.host, config.server.port)


def bind_address(host: str, port: int) -> list[socket.socket]:
    """Listening sockets, one for each address of the host; port 0 takes a free one. Raises ConfigError."""
    sockets: list[socket.socket] = []
    try:
        addresses = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
        for family, kind, protocol, _, address in dict.fromkeys(addresses):
            sockets.append(_listen(family, kind, protocol, address))
            if port == 0:
                break  # two addresses would get two ports
    except (OSError, OverflowError) as error:
        for bound in sockets:
            bound.close()
        reason = getattr(error, "strerror", None) or "the name cannot be resolved"
        raise ConfigError(f"cannot listen on {host} port {port}: {reason.lower()}") from error
    return sockets


def _listen(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
