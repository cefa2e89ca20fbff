"""Make one target's request of the caller's: splice in the same dialect, translate across. Waits for nothing.

The head of it is the same for all callers whose headers are alike in what matters to the provider, so it is kept
(`Heads`); the tuple that it is kept as tells a client that it has encoded the same one before.
"""

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from securellm.chat import Call, Dialect, Endpoint, Headers, Relay, RequestId
from securellm.providers.base import Provider, UpstreamRequest
from securellm.providers.request import DIALECT_HEADERS, HEADERS_UP, NEVER_UP, build_request, dropped_headers
from securellm.routing import Target
from securellm.wire.body import Edited, Peeked, edit
from securellm.wire.relay import open_relay
from securellm.wire.translate import translate_request

STREAMS_WITH_OPTIONS = frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS})  # the doors that know stream_options

DEFAULT_MAX_OUTPUT_TOKENS = 4096
# Where a dialect demands a bound, the caller gives none and the catalogue knows none: what every current model allows.


MAX_KEPT_HEADS = 256  # past it all are made anew
MAX_KEPT_HEAD_BYTES = 1024  # of the caller's headers in one
_NEVER_THE_SAME = frozenset({b"traceparent", b"idempotency-key"})
_OUR_ID = "\0"  # where the request's own id will stand: no caller's header has such a value

Fields = tuple[tuple[bytes, bytes], ...]


class Head(NamedTuple):
    """What is sent to a provider above the body, but for what each request has of its own."""

    request: UpstreamRequest  # the first attempt's, with no body
    dialect: Dialect
    dropped: tuple[str, ...]  # see `dropped_headers`
    id_at: int  # the place of the header whose value is the request's id; -1: there is none


class Heads:
    """The heads of requests under one configuration."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Endpoint, Fields], Head] = {}
        self._names: dict[str, frozenset[bytes]] = {}  # of the headers that matter to a provider

    def of(self, provider: Provider, endpoint: Endpoint, call_headers: Headers) -> Head:
        """The head for a caller's headers."""
        names = self._names.get(provider.name)
        if names is None:
            names = (HEADERS_UP | DIALECT_HEADERS.keys()).union(provider.headers_up) - NEVER_UP | {b"connection"}
            self._names[provider.name] = names
        fields = tuple([field for field in call_headers if field[0] in names])
        key = (provider.name, endpoint, fields)
        head = self._kept.get(key)
        if head is None:
            head = _make_head(provider, endpoint, fields)
            size_bytes = sum(len(name) + len(value) for name, value in fields)
            if size_bytes <= MAX_KEPT_HEAD_BYTES and not any(name in _NEVER_THE_SAME for name, _ in fields):
                if len(self._kept) >= MAX_KEPT_HEADS:
                    self._kept.clear()
                self._kept[key] = head
        return head


class Asking(Protocol):
    """What is asked: a `Permit`, or what somebody wants explained."""

    call: Call
    peeked: Peeked
    body: bytes
    dropped: tuple[str, ...]  # set by `prepare`

    @property
    def endpoint(self) -> Endpoint:
        """The front door."""

    @property
    def request_id(self) -> RequestId:
        """Our id of the request."""


class Prepared(msgspec.Struct, frozen=True, eq=False):
    """What is sent to one target, and the relay for what comes back. Its repr shows nothing of the body."""

    head: Head
    relay: Relay
    stream: bool
    translated: bool
    body: bytes | Edited
    request_id: RequestId

    def __repr__(self) -> str:
        """What may be logged."""
        return f"<Prepared {self.head.request!r} {len(self.body)} bytes>"

    @property
    def dialect(self) -> Dialect:
        """The provider's."""
        return self.head.dialect

    def request(self, attempt: int) -> UpstreamRequest:
        """The request of attempt number `attempt`."""
        first, _, _, id_at = self.head
        headers = first.headers
        if attempt != 1 or id_at >= 0:
            headers = [*headers]
            if id_at >= 0:
                headers[id_at] = (headers[id_at][0], self.request_id.encode("ascii"))
            headers[-1] = (headers[-1][0], b"%d" % attempt)
        return UpstreamRequest(first.method, first.url, first.origin, headers, self.body)


def prepare(asking: Asking, target: Target, max_output: Callable[[Target], int | None], heads: Heads) -> Prepared:
    """Raises CallerError when the target's dialect cannot express the request.

    `max_output` is the catalogue's, None when unknown. `asking.dropped` is set to what this target's dialect
    has no word for.
    """
    endpoint, peeked, provider = asking.endpoint, asking.peeked, target.provider
    head = heads.of(provider, endpoint, asking.call.headers)
    dialect, dropped = head.dialect, head.dropped
    inject = (
        peeked.stream
        and endpoint in STREAMS_WITH_OPTIONS
        and provider.quirks.include_usage == "inject"
        and peeked.include_usage is not True
    )
    translated = dialect is not endpoint.dialect
    if not translated:
        model = target.model if target.model != peeked.model else None
        body: bytes | Edited = edit(asking.body, peeked, model=model, include_usage=inject)
    else:
        made = translate_request(
            endpoint,
            dialect,
            asking.body,
            model=target.model,
            max_output_tokens=max_output(target) or DEFAULT_MAX_OUTPUT_TOKENS,
            num_ctx=provider.num_ctx,
            capabilities=provider.quirks.capabilities,
        )
        body = made.body
        dropped += made.dropped
        inject = False
    asking.dropped = dropped
    relay = open_relay(
        endpoint,
        dialect,
        stream=peeked.stream,
        show_usage=peeked.include_usage is True,
        injected_usage=inject,
        request_id=asking.request_id,
        model=target.id,
        created_s=int(time.time()),
        num_ctx=provider.num_ctx,
    )
    return Prepared(head, relay, peeked.stream, translated, body, asking.request_id)


def _make_head(provider: Provider, endpoint: Endpoint, fields: Fields) -> Head:
    dialect = provider.endpoints[endpoint].dialect
    request = build_request(provider, endpoint, [*fields], b"", request_id=_OUR_ID, attempt=1)
    headers = tuple(request.headers)
    id_at = next((at for at, (_, value) in enumerate(headers) if value == b"\0"), -1)
    request = UpstreamRequest(request.method, request.url, request.origin, headers, b"")
    return Head(request, dialect, dropped_headers([*fields], dialect), id_at)
