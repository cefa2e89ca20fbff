"""The words in which a provider is described: where its endpoints are, how it wants to be asked. Pure.

An `Adapter` is a family as we ship it (data, one per file of this folder); a `Provider` is an adapter together with
what the operator configured. Nothing here does anything: `request.py` turns a provider and a body into bytes to send.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from securellm.chat import Dialect, Endpoint
from securellm.config.secrets import Secret
from securellm.wire.body import Edited
from securellm.wire.words import Capabilities


class Auth(enum.Enum):
    """In which header a key travels. A provider without a configured key is asked without one."""

    BEARER = "authorization"
    X_API_KEY = "x-api-key"


class Quirks(msgspec.Struct, frozen=True):
    """Where a provider differs from the plain dialect, as data."""

    include_usage: Literal["inject", "always"] = "inject"
    # inject: `stream_options.include_usage` may be spliced into a stream's request to get its usage
    # always: usage comes without asking, or the field is refused; the request is left alone
    capabilities: Capabilities = Capabilities()  # which words of its dialect a translated request may use
    idempotency_key: bool = False  # our request id goes up as `idempotency-key` when the caller sent none
    model_id_prefix: str = ""  # stripped from the ids in the provider's model list
    other_models: tuple[str, ...] = ()  # fields of a body that name models which may answer in place of `model`


class EndpointPath(msgspec.Struct, frozen=True):
    """Where a family has one of our front doors, relative to its base URL."""

    path: str  # appended to the base URL's path
    dialect: Dialect  # what is spoken there; differs from the door's when a translation is needed
    prefix: str | None = None  # replaces the adapter's prefix for this endpoint


class Adapter(msgspec.Struct, frozen=True):
    """One family as shipped.

    `prefix` is what a base URL with an empty path gets; any other path is kept and the endpoint appended.
    """

    name: str
    base_url: str  # default; "" when there is none and the operator must give one
    endpoints: Mapping[Endpoint, EndpointPath]
    models: EndpointPath | None  # where the list of models is; None when there is none
    prefix: str = "/v1"
    auth: Auth = Auth.BEARER
    needs_key: bool = True  # asking without a key cannot work
    local: bool = False  # its default address is on this machine
    quirks: Quirks = Quirks()


class EndpointSpec(msgspec.Struct, frozen=True):
    """Where one front door leads at one provider."""

    url: str
    dialect: Dialect


class BreakerSettings(msgspec.Struct, frozen=True):
    """When a provider's origin is left alone (`[providers.<name>.circuit_breaker]`)."""

    failure_threshold: int = 5  # failures in a row that open it
    success_threshold: int = 2  # successes in a row that close it again
    timeout_s: float = 60.0  # how long it stays open before one request may probe


class Provider(msgspec.Struct, frozen=True):
    """One configured and enabled provider. `endpoints` is keyed by the caller's front door."""

    name: str
    kind: str  # the adapter's name
    origin: str  # scheme://host:port, always with the port
    endpoints: Mapping[Endpoint, EndpointSpec]
    models_url: str | None
    auth: Auth
    api_key: Secret | None
    quirks: Quirks
    needs_key: bool
    declared_host: bool  # the operator chose this address, or it is this machine by definition
    models: tuple[str, ...] = ()  # ids that the configuration says it owns
    headers_up: tuple[bytes, ...] = ()  # further header names that may go up, lower case
    num_ctx: int | None = None  # Ollama's context window in tokens
    max_retries: int = 3
    timeout_s: float | None = None  # caps one attempt; None: only `[timeouts]` does
    max_connections: int = 1000
    breaker: BreakerSettings = BreakerSettings()

    @property
    def is_demo(self) -> bool:
        """It is the built-in provider that answers in-process."""
        return self.kind == "demo"


class UpstreamRequest(msgspec.Struct, frozen=True):
    """One HTTP request to a provider, complete but for Host and Content-Length. Its repr shows no values."""

    method: str
    url: str
    origin: str
    headers: Sequence[tuple[bytes, bytes]]  # a tuple is one that other requests have, too
    body: bytes | Edited

    @property
    def content(self) -> bytes:
        """The body in one piece."""
        return self.body.whole() if isinstance(self.body, Edited) else self.body

    def __repr__(self) -> str:
        """What may be logged."""
        return f"<UpstreamRequest {self.method} {self.url} {len(self.headers)} headers {len(self.body)} bytes>"

    __str__ = __repr__
