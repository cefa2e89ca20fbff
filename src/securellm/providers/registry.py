"""Every family that we ship, and the providers that a configuration makes of them. Pure.

A base URL with an empty path gets the adapter's prefix; any other path is kept and the endpoint appended. So
`https://api.openai.com` and `https://api.openai.com/v1` are the same provider, and a proxy's path is respected.
"""

from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from securellm.chat import Dialect, Endpoint
from securellm.config.tree import Config
from securellm.config.tree import Provider as ProviderConfig
from securellm.errors import ConfigError
from securellm.providers import anthropic, compatible, deepseek, demo, ollama, openai
from securellm.providers.base import Adapter, BreakerSettings, EndpointPath, EndpointSpec, Provider

ADAPTERS: Mapping[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        openai.ADAPTER,
        anthropic.ADAPTER,
        deepseek.ADAPTER,
        ollama.ADAPTER,
        *compatible.ADAPTERS,
        demo.ADAPTER,
    )
}

GENERIC_KIND = "openai-compatible"  # the kind of a provider whose section names none

DECLARABLE: Mapping[str, Endpoint] = {endpoint.value: endpoint for endpoint in compatible.PATHS}
# What `[providers.<name>] endpoints` may name: further endpoints of a server that speaks OpenAI's dialect.

_DEFAULT_PORTS = {"http": 80, "https": 443}


def describe_providers(config: Config) -> dict[str, Provider]:
    """Every enabled provider by name, in the configuration's order. Raises ConfigError naming the provider."""
    return {name: describe(name, section) for name, section in config.providers.items() if section.enabled}


def describe(name: str, section: ProviderConfig) -> Provider:
    """One provider of its configuration section. Raises ConfigError."""
    adapter = adapter_of(name, section.kind)
    if adapter is demo.ADAPTER and section.base_url:
        raise ConfigError(f"providers.{name}: the demo provider has no base_url")
    base_url = section.base_url or adapter.base_url
    if not base_url:
        raise ConfigError(f"providers.{name}: kind {adapter.name!r} needs a base_url")
    base = parse_base_url(base_url, f"providers.{name}.base_url", demo_allowed=adapter is demo.ADAPTER)
    origin = origin_of(base)
    paths = {**adapter.endpoints, **_declared(name, adapter, section.endpoints)}
    return Provider(
        name=name,
        kind=adapter.name,
        origin=origin,
        endpoints={door: EndpointSpec(_join(base, adapter, path), path.dialect) for door, path in paths.items()},
        models_url=_join(base, adapter, adapter.models) if adapter.models else None,
        auth=adapter.auth,
        api_key=section.api_key.bound_to(origin) if section.api_key else None,
        quirks=adapter.quirks,
        needs_key=adapter.needs_key,
        declared_host=adapter.local or base_url != adapter.base_url,
        models=section.models,
        headers_up=tuple(header.lower().encode("latin-1") for header in section.headers_up),
        num_ctx=section.num_ctx,
        max_retries=section.max_retries,
        timeout_s=section.timeout_secs,
        max_connections=section.max_connections,
        breaker=BreakerSettings(
            failure_threshold=section.circuit_breaker.failure_threshold,
            success_threshold=section.circuit_breaker.success_threshold,
            timeout_s=section.circuit_breaker.timeout_secs,
        ),
    )


def adapter_of(name: str, kind: str) -> Adapter:
    """The family of a provider: that of its name unless `kind` says otherwise. Raises ConfigError naming the families.

    `openai-compatible` is what an absent `kind` means, so it does not take a built-in name's family away.
    """
    adapter = ADAPTERS.get(name if name in ADAPTERS and kind == GENERIC_KIND else kind)
    if adapter is None:
        known = ", ".join(sorted(ADAPTERS))
        raise ConfigError(f"providers.{name}: got kind {kind!r}, expected one of {known}")
    return adapter


def parse_base_url(url: str, where: str, *, demo_allowed: bool = False) -> SplitResult:
    """A base URL, split and checked: http or https, a host, no credentials, query or fragment. Raises ConfigError."""
    try:
        base = urlsplit(url)
        port = base.port
    except ValueError as exc:
        raise ConfigError(f"{where}: not a URL") from exc
    if base.scheme not in _DEFAULT_PORTS and not (demo_allowed and base.scheme == "demo"):
        raise ConfigError(f"{where}: got scheme {base.scheme!r}, expected http or https")
    if not base.hostname or port == 0:
        raise ConfigError(f"{where}: no host, or port 0")
    if base.username is not None or base.password is not None:
        raise ConfigError(f"{where}: holds credentials; give the key as api_key")
    if base.query or base.fragment:
        raise ConfigError(f"{where}: holds a query or a fragment; a base URL has neither")
    return base


def origin_of(base: SplitResult) -> str:
    """Scheme, host and port, the port always written out; what a credential is bound to."""
    host = (base.hostname or "").lower()
    if ":" in host:
        host = f"[{host}]"
    port = base.port or _DEFAULT_PORTS.get(base.scheme)
    return f"{base.scheme}://{host}" + (f":{port}" if port else "")


def providers_with(providers: Mapping[str, Provider], endpoint: Endpoint) -> list[str]:
    """The names of the providers that have an endpoint, for messages."""
    return [name for name, provider in providers.items() if endpoint in provider.endpoints]


def _declared(name: str, adapter: Adapter, endpoints: tuple[str, ...]) -> dict[Endpoint, EndpointPath]:
    if endpoints and adapter not in compatible.ADAPTERS:
        raise ConfigError(f"providers.{name}.endpoints: only a provider of OpenAI's dialect can declare more endpoints")
    unknown = [endpoint for endpoint in endpoints if endpoint not in DECLARABLE]
    if unknown:
        expected = ", ".join(DECLARABLE)
        raise ConfigError(f"providers.{name}.endpoints: got {unknown[0]!r}, expected any of {expected}")
    return {DECLARABLE[endpoint]: compatible.PATHS[DECLARABLE[endpoint]] for endpoint in endpoints}


def _join(base: SplitResult, adapter: Adapter, path: EndpointPath) -> str:
    prefix = base.path.rstrip("/")
    if not prefix:
        prefix = adapter.prefix if path.prefix is None else path.prefix
    return f"{base.scheme}://{base.netloc}{prefix}{path.path}"


def speaks(provider: Provider, endpoint: Endpoint) -> Dialect | None:
    """What a provider speaks for a front door, None when it has no such endpoint."""
    spec = provider.endpoints.get(endpoint)
    return spec.dialect if spec else None
