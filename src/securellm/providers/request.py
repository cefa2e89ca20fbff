"""The HTTP request that asks a provider: which headers go up, which key goes with them. Pure.

Only an allow-list of the caller's headers goes up. What a caller's `Connection` names is taken from the caller's
headers alone, so it can never strip a header that we add. A key goes to the origin it is bound to or nowhere.
"""

import functools
from collections.abc import Iterable

from securellm import __version__
from securellm.chat import Dialect, Endpoint, Headers
from securellm.config.secrets import Secret
from securellm.errors import UnsupportedEndpoint
from securellm.providers.anthropic import DEFAULT_VERSION
from securellm.providers.base import Auth, Provider, UpstreamRequest

HEADERS_UP = frozenset({b"content-type", b"accept", b"idempotency-key", b"traceparent"})
# What goes up to every provider, when the caller sent it.

DIALECT_HEADERS = {
    b"anthropic-version": (Dialect.ANTHROPIC,),
    b"anthropic-beta": (Dialect.ANTHROPIC,),
    b"openai-beta": (Dialect.OPENAI, Dialect.RESPONSES),
}
# What goes up only where it means something.

NEVER_UP = frozenset(
    {
        b"accept-encoding",
        b"api-key",
        b"authorization",
        b"connection",
        b"content-length",
        b"cookie",
        b"expect",
        b"forwarded",
        b"host",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"via",
        b"x-api-key",
        b"x-goog-api-key",
        b"x-real-ip",
    }
)
# What does not go up even if `headers_up` names it: credentials, addresses, hop-by-hop, and what we set ourselves.

HEADERS_DOWN = frozenset({b"content-type", b"retry-after", b"openai-processing-ms"})

_LIMITS_DOWN = (b"anthropic-ratelimit-", b"x-ratelimit-")
_ID_HEADERS = {b"x-request-id": 0, b"request-id": 1, b"cf-ray": 2}  # by rank

_NEVER_UP_PREFIXES = (b"x-forwarded-", b"x-securellm-")
_SINGLE = frozenset({b"content-type", b"accept", b"anthropic-version", b"idempotency-key", b"traceparent"})
_USER_AGENT = f"securellm-bridge/{__version__}".encode()


def build_request(
    provider: Provider, endpoint: Endpoint, call_headers: Headers, body: bytes, *, request_id: str, attempt: int
) -> UpstreamRequest:
    """The request that asks `provider` for what came in at `endpoint`. Raises UnsupportedEndpoint.

    `attempt` counts from 1 and goes up beside an idempotency key that is the same for every attempt of a request.
    """
    spec = provider.endpoints.get(endpoint)
    if spec is None:
        raise UnsupportedEndpoint(f"provider {provider.name} has no {endpoint.value}")
    headers = headers_up(call_headers, spec.dialect, provider.headers_up)
    if spec.dialect is not endpoint.dialect:  # the body is ours then, whatever the caller said of his
        headers = [(name, value) for name, value in headers if name != b"content-type"]
    present = {name for name, _ in headers}
    if b"content-type" not in present:
        headers.append((b"content-type", b"application/json"))
    if spec.dialect is Dialect.ANTHROPIC and b"anthropic-version" not in present:
        headers.append((b"anthropic-version", DEFAULT_VERSION))
    if provider.quirks.idempotency_key and b"idempotency-key" not in present:
        headers.append((b"idempotency-key", request_id.encode("ascii")))
    headers += _ours(provider.api_key, provider.origin, provider.auth)
    headers.append((b"x-securellm-attempt", b"%d" % attempt))
    return UpstreamRequest("POST", spec.url, provider.origin, headers, body)


def build_models_request(provider: Provider) -> UpstreamRequest | None:
    """The request for a provider's list of models, None when it has no list."""
    if provider.models_url is None:
        return None
    headers: Headers = [(b"accept", b"application/json")]
    if provider.auth is Auth.X_API_KEY:
        headers.append((b"anthropic-version", DEFAULT_VERSION))
    return UpstreamRequest(
        "GET",
        provider.models_url,
        provider.origin,
        [*headers, *_ours(provider.api_key, provider.origin, provider.auth)],
        b"",
    )


def headers_up(call_headers: Headers, dialect: Dialect, additions: Iterable[bytes] = ()) -> Headers:
    """The caller's headers that may go to a provider of `dialect`, in the caller's order."""
    allowed = _allowed_up(dialect, tuple(additions))
    named: set[bytes] | None = None
    kept: Headers = []
    seen: set[bytes] = set()
    for name, value in call_headers:
        if name not in allowed or (name in _SINGLE and name in seen):
            continue
        if named is None:
            named = _named_by_connection(call_headers)
        if name in named:
            continue
        seen.add(name)
        kept.append((name, value))
    return kept


@functools.lru_cache(maxsize=256)
def _allowed_up(dialect: Dialect, additions: tuple[bytes, ...]) -> frozenset[bytes]:
    """The names that may go up, whatever the caller's `Connection` says of them."""
    allowed = {name for name in {*HEADERS_UP, *additions} if not _is_never_up(name)}
    return frozenset(allowed | {name for name, dialects in DIALECT_HEADERS.items() if dialect in dialects})


def dropped_headers(call_headers: Headers, dialect: Dialect) -> tuple[str, ...]:
    """The advisory headers that mean nothing to a provider of `dialect`, for `x-securellm-dropped`."""
    dropped = [
        name.decode("ascii")
        for name, _ in call_headers
        if name in DIALECT_HEADERS and name.endswith(b"-beta") and dialect not in DIALECT_HEADERS[name]
    ]
    return tuple(dict.fromkeys(dropped))


def headers_down(provider_headers: Headers) -> Headers:
    """The provider's headers that may go to the caller, in order; its `x-ratelimit-*` renamed `x-upstream-…`."""
    kept: Headers = []
    for raw_name, value in provider_headers:
        name = raw_name.lower()
        if name in HEADERS_DOWN:
            kept.append((name, value))
        elif not name.startswith(_LIMITS_DOWN):
            continue
        elif name.startswith(b"anthropic-"):
            kept.append((name, value))
        else:
            kept.append((b"x-upstream-" + name.removeprefix(b"x-"), value))
    return kept


def upstream_request_id(provider_headers: Headers) -> str | None:
    """The provider's own id of the request, from the header it uses."""
    found, found_rank = None, len(_ID_HEADERS)
    for name, value in provider_headers:
        rank = _ID_HEADERS.get(name.lower())
        if rank is not None and rank < found_rank:
            found, found_rank = value, rank
    return found.decode("latin-1") if found is not None else None


@functools.lru_cache(maxsize=256)
def _ours(api_key: Secret | None, origin: str, auth: Auth) -> tuple[tuple[bytes, bytes], ...]:
    """What every request to a provider carries: encoding, hop mark, user agent and the key, if there is one."""
    headers: Headers = [
        (b"accept-encoding", b"identity"),
        (b"user-agent", _USER_AGENT),
        (b"x-securellm-hop", b"1"),
    ]
    if api_key is not None:
        key = api_key.for_origin(origin)
        value = key if auth is Auth.X_API_KEY else f"Bearer {key}"
        headers.append((auth.value.encode("ascii"), value.encode("latin-1")))
    return tuple(headers)


def _is_never_up(name: bytes) -> bool:
    return name in NEVER_UP or name.startswith(_NEVER_UP_PREFIXES)


def _named_by_connection(call_headers: Headers) -> set[bytes]:
    named: set[bytes] = set()
    for name, value in call_headers:
        if name == b"connection":
            named.update(token.strip().lower() for token in value.split(b","))
    return named
