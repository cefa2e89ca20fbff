"""Which address a request came from, when proxies that the operator trusts stand in between. Pure."""

import ipaddress

from securellm.chat import Headers
from securellm.errors import ConfigError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_networks(cidrs: tuple[str, ...]) -> tuple[Network, ...]:
    """`server.trusted_proxies` as networks; a bare address is a network of one. Raises ConfigError."""
    try:
        return tuple(ipaddress.ip_network(cidr, strict=False) for cidr in cidrs)
    except ValueError as error:
        raise ConfigError(f"server.trusted_proxies: expected addresses or networks in CIDR form: {error}") from error


def client_ip(peer: str, headers: Headers, trusted: tuple[Network, ...]) -> str:
    """The rightmost address that is not a trusted proxy's; `X-Forwarded-For` is believed from trusted proxies only.

    Whatever stands left of it was written by someone we have no reason to believe, and so is ignored.
    """
    address = _plain(peer)
    if not trusted or not _is_trusted(address, trusted):
        return address
    forwarded = b",".join(value for name, value in headers if name == b"x-forwarded-for").decode("latin-1")
    for hop in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
        hop_address = _plain(hop)
        if not _is_address(hop_address):
            return address  # the proxy passed on something that is no address: it is the last one we know
        address = hop_address
        if not _is_trusted(address, trusted):
            return address
    return address


def _plain(text: str) -> str:
    """Without port and brackets; an IPv4 address mapped into IPv6 as IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_trusted(text: str, trusted: tuple[Network, ...]) -> bool:
    return _is_address(text) and any(ipaddress.ip_address(text) in network for network in trusted)
