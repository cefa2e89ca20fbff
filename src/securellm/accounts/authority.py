"""What a caller may do: doors, addresses, providers and models that its key was granted. Pure.

A grant that is None allows everything, an empty one nothing, and what cannot be understood is refused. A model is named
`<provider>/<model>`; a granted one ends in `*` to stand for whatever begins so (`openai/*`, `openai/gpt-5*`, `*`), and
`*` has no meaning elsewhere. Grants compare as they are written: a model that a provider knows by two names needs both.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from securellm.chat import Caller, Endpoint
from securellm.errors import AddressRefused, EndpointRefused, ModelRefused

Network = IPv4Network | IPv6Network

REMEMBERED = 4096  # lists of networks, and of answers to whether a grant has a model


def check_caller(caller: Caller, endpoint: Endpoint, client_ip: str) -> None:
    """See that the key may be used at this door from this address. Raises EndpointRefused, AddressRefused."""
    endpoints = caller.grants.endpoints
    if endpoints is not None and endpoint.value not in endpoints:
        raise EndpointRefused(f"this key may not use {endpoint.value}")
    if caller.grants.networks is not None:
        check_address(caller, client_ip)


def check_address(caller: Caller, client_ip: str) -> None:
    """See that the key may be used from this address, at whatever route. Raises AddressRefused."""
    networks = caller.grants.networks
    if networks is not None and not _holds(networks, client_ip):
        raise AddressRefused(f"this key may not be used from {client_ip}")


def may_use(caller: Caller, provider: str, model: str) -> bool:
    """Whether the key may use a provider's model, named as the provider does."""
    grants = caller.grants
    if grants.providers is not None and provider not in grants.providers:
        return False
    return grants.models is None or _is_granted(grants.models, f"{provider}/{model}")


def check_model(caller: Caller, provider: str, model: str) -> None:
    """See that the key may use a provider's model. Raises ModelRefused."""
    if not may_use(caller, provider, model):
        raise ModelRefused(f"this key may not use {provider}/{model}", param="model")


@lru_cache(REMEMBERED)
def _is_granted(patterns: tuple[str, ...], model: str) -> bool:
    return any(model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern for pattern in patterns)


@lru_cache(REMEMBERED)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    """The networks; a text that is none matches no address."""
    networks = []
    for text in texts:
        try:
            networks.append(ip_network(text))
        except ValueError:
            continue
    return tuple(networks)


def _holds(texts: tuple[str, ...], client_ip: str) -> bool:
    try:
        address: IPv4Address | IPv6Address = ip_address(client_ip.partition("%")[0])
    except ValueError:
        return False  # a caller without an address, as on a Unix socket, comes from no network
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        address = mapped  # how an IPv4 caller looks on a socket that takes both
    return any(address in network for network in _networks(texts))
