"""The HTTP request that asks a provider: which headers go up, which key goes with them. Pure.

Only an allow-list of the caller's headers goes up. What a caller's `Connection` names is taken from the caller's
headers alone, so it can never strip a header that we add. A key goes to the origin it is bound to or nowhere.
"""

from collections.abc import Iterable

import msgspec

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

_MAX_NAMES = 256  # of providers' headers whose way down is remembered …
_MAX_NAME_BYTES = 64  # … and the longest of them
_ID_HEADERS = {b"x-request-id": 0, b"request-id": 1, b"cf-ray": 2}  # by rank; none of them goes down

_NEVER_UP_PREFIXES = (b"x-forwarded-", b"x-securellm-")
_SINGLE = frozenset({b"content-type", b"accept", b"anthropic-version", b"idempotency-key", b"traceparent"})
_Meaning = tuple[bytes | None, int]  # its name on the way down, if it goes there, and its rank among the ids
_USER_AGENT = f"securellm-bridge/{__version__}".encode()


class AnswerHead(msgspec.Struct, frozen=True):
    """What a provider's head says to others than the connection it came over."""

    down: Headers  # what may go to the caller, in order
    content_type: bytes | None
    request_id: str | None  # the provider's own, from the header it uses


def build_request(
    provider: Provider, endpoint: Endpoint, call_headers: Headers, body: bytes, *, request_id: str, attempt: int
) -> UpstreamRequest:
    """The request that asks `provider` for what came in at `endpoint`. Raises UnsupportedEndpoint.

    `attempt` counts from 1 and goes up beside an idempotency key that is the same for every attempt of a request.
    """
    spec = provider.endpoints.get(endpoint)
    if spec is None:
        raise UnsupportedEndpoint(f"provider {provider.name} has no {endpoint.value}")
    allowed = allowed_up(spec.dialect, provider.headers_up)
    if spec.dialect is not endpoint.dialect:  # the body is ours then, whatever the caller said of his
        allowed -= {b"content-type"}
    headers, present = headers_up(call_headers, allowed)
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


def headers_up(call_headers: Headers, allowed: frozenset[bytes]) -> tuple[Headers, set[bytes]]:
    """The caller's headers that are allowed and that its `Connection` does not name, in its order; and their names."""
    kept: Headers = []
    present: set[bytes] = set()
    connections: list[bytes] = []
    for header in call_headers:
        name = header[0]
        if name in allowed:
            if name not in present or name not in _SINGLE:
                present.add(name)
                kept.append(header)
        elif name == b"connection":
            connections.append(header[1])
    if connections:
        named = {token.strip().lower() for value in connections for token in value.split(b",")}
        if not named.isdisjoint(present):
            return [header for header in kept if header[0] not in named], present - named
    return kept, present


def allowed_up(dialect: Dialect, additions: Iterable[bytes] = ()) -> frozenset[bytes]:
    """The names of headers that may go up to a provider of `dialect`."""
    allowed = {name for name in {*HEADERS_UP, *additions} if not _is_never_up(name)}
    return frozenset(allowed | {name for name, dialects in DIALECT_HEADERS.items() if dialect in dialects})


def dropped_headers(call_headers: Headers, dialect: Dialect) -> tuple[str, ...]:
    """The advisory headers that mean nothing to a provider of `dialect`, for `x-securellm-dropped`."""
    dropped = [
        name.decode("ascii")
        for name, _ in call_headers
        if name in DIALECT_HEADERS and name.endswith(b"-beta") and dialect not in DIALECT_HEADERS[name]
    ]
    return tuple(dict.fromkeys(dropped)) if dropped else ()


def read_answer_head(provider_headers: Headers) -> AnswerHead:
    """What is told of the head of a provider's answer, and to whom; its `x-ratelimit-*` go down as `x-upstream-…`."""
    down: Headers = []
    content_type = found = None
    found_rank = len(_ID_HEADERS)
    for raw_name, value in provider_headers:
        meaning = _meanings[raw_name]
        if meaning is None:
            continue
        name, rank = meaning
        if name is not None:
            down.append((name, value))
            if content_type is None and name == b"content-type":
                content_type = value
        elif rank < found_rank:
            found, found_rank = value, rank
    return AnswerHead(down, content_type, found.decode("latin-1") if found is not None else None)


class _Meanings(dict[bytes, "_Meaning | None"]):
    """What providers' headers mean, by their names as they came; worked out once, as all providers send much the same.

    None is for those of which nobody is told.
    """

    def __missing__(self, raw_name: bytes) -> "_Meaning | None":
        name = raw_name.lower()
        down, rank = _name_down(name), _ID_HEADERS.get(name, len(_ID_HEADERS))
        meaning = (down, rank) if down is not None or rank < len(_ID_HEADERS) else None
        if len(self) >= _MAX_NAMES:
            self.clear()
        if len(raw_name) <= _MAX_NAME_BYTES:
            self[raw_name] = meaning
        return meaning


def _name_down(name: bytes) -> bytes | None:
    """What the caller knows it as, None when it does not go down."""
    if name in HEADERS_DOWN or name.startswith(b"anthropic-ratelimit-"):
        return name
    return b"x-upstream-" + name.removeprefix(b"x-") if name.startswith(b"x-ratelimit-") else None


_meanings = _Meanings()


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
