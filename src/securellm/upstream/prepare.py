"""Make one target's request of the caller's: splice in the same dialect, translate across. Waits for nothing."""

import time
from collections.abc import Callable
from typing import Protocol

from securellm.chat import Call, Dialect, Endpoint, Relay, RequestId
from securellm.providers.base import UpstreamRequest
from securellm.providers.request import build_request, dropped_headers
from securellm.routing import Target
from securellm.wire.body import Peeked, splice
from securellm.wire.relay import open_relay
from securellm.wire.translate import translate_request

STREAMS_WITH_OPTIONS = frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS})  # the doors that know stream_options

DEFAULT_MAX_OUTPUT_TOKENS = 4096
# Where a dialect demands a bound, the caller gives none and the catalogue knows none: what every current model allows.


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


class Prepared:
    """What is sent to one target, and the relay for what comes back."""

    __slots__ = ("_asking", "_body", "_target", "dialect", "relay", "stream", "translated")

    def __init__(self, asking: Asking, target: Target, body: bytes, dialect: Dialect, relay: Relay) -> None:
        self.dialect = dialect  # the provider's
        self.relay = relay
        self.stream = asking.peeked.stream
        self.translated = dialect is not asking.endpoint.dialect
        self._asking = asking
        self._target = target
        self._body = body

    def request(self, attempt: int) -> UpstreamRequest:
        """The request of attempt number `attempt`."""
        asking = self._asking
        return build_request(
            self._target.provider,
            asking.endpoint,
            asking.call.headers,
            self._body,
            request_id=asking.request_id,
            attempt=attempt,
        )


def prepare(asking: Asking, target: Target, max_output: Callable[[Target], int | None]) -> Prepared:
    """Raises CallerError when the target's dialect cannot express the request.

    `max_output` is the catalogue's, None when unknown. `asking.dropped` is set to what this target's dialect
    has no word for.
    """
    endpoint, peeked, provider = asking.endpoint, asking.peeked, target.provider
    dialect = provider.endpoints[endpoint].dialect
    dropped = dropped_headers(asking.call.headers, dialect)
    inject = (
        peeked.stream
        and endpoint in STREAMS_WITH_OPTIONS
        and provider.quirks.include_usage == "inject"
        and peeked.include_usage is not True
    )
    if dialect is endpoint.dialect:
        model = target.model if target.model != peeked.model else None
        body = splice(asking.body, peeked, model=model, include_usage=inject)
    else:
        translated = translate_request(
            endpoint,
            dialect,
            asking.body,
            model=target.model,
            max_output_tokens=max_output(target) or DEFAULT_MAX_OUTPUT_TOKENS,
            num_ctx=provider.num_ctx,
            capabilities=provider.quirks.capabilities,
        )
        body = translated.body
        dropped += translated.dropped
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
    return Prepared(asking, target, body, dialect, relay)
