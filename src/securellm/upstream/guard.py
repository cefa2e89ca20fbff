"""Which addresses a provider's name may lead to. Pure.

Destinations come from the operator's configuration only, but a name is resolved at every connect, and whoever holds
the name may point it inside (DNS rebinding). So the address is judged, not the name:

- an address that the operator wrote himself (an IP literal, or `localhost`) is his choice;
- a name that he wrote may lead to private networks, where many model servers live, but never to link-local
  addresses (169.254.169.254 and fd00:ec2::254 are the clouds' metadata services), multicast or "this host";
- a built-in provider's name must lead to a public address.
"""

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in its last 32 bits

METADATA_ADDRESSES = frozenset(
    {
        ipaddress.ip_address("fd00:ec2::254"),  # AWS instance metadata over IPv6; inside a private range
        ipaddress.ip_address("100.100.100.200"),  # Alibaba Cloud; inside shared address space
    }
)


def refusal(address: str, *, host: str, declared_host: bool) -> str | None:
    """Why a connection to `address`, which `host` resolved to, must not be made; None when it may."""
    ip = _parse(address)
    if ip is None:
        return "not an IP address"
    literal = _parse(host.strip("[]"))
    if declared_host and (literal is not None or host == "localhost"):
        return None
    if ip in METADATA_ADDRESSES or ip.is_link_local:
        return "link-local or metadata address"
    if ip.is_multicast or ip.is_unspecified or (ip.is_reserved and not ip.is_loopback):
        return "not a unicast address"
    if declared_host:
        return None
    return None if ip.is_global else "private address behind a built-in provider's name"


def _parse(text: str) -> Address | None:
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip in NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip
