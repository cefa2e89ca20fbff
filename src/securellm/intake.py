"""A request's head and body taken in: what must not be there, how large and how slow the body may be.

The body may be slow, but not stop, nor stay below the least rate; what it announces is charged before it is read.
"""

import io
import math

import trio

from securellm.chat import Call, Endpoint, Headers
from securellm.config.tree import Server
from securellm.errors import BadRequest, LoopDetected, PayloadTooLarge, ProviderConflict, SlowBody
from securellm.limits.in_flight import Charge
from securellm.tokens import estimate_tokens
from securellm.wire.body import Peeked, check_headers, names_destination, peek
from securellm.wire.weight import Weight, weigh

PEEK_APART_BYTES = 1024 * 1024  # a larger body takes milliseconds to check: longer than the hop to a thread

LARGE_BYTES = 64 * 1024  # of a body that may be an image more than a text

# What a head may have in it, told by the names of its headers: that it came through a gateway already, something that
# `check_head` has to look at, the provider that the caller wants.
HOP, DOUBTFUL, PROVIDER = 1, 2, 4
# The names that nearly all heads are made of, so that they need not be looked at one by one for each request.
_SAYING = {
    b"x-securellm-hop": HOP,
    b"content-encoding": DOUBTFUL,
    b"x-provider": DOUBTFUL | PROVIDER,
    **dict.fromkeys(
        (
            b"accept",
            b"accept-encoding",
            b"accept-language",
            b"anthropic-beta",
            b"anthropic-version",
            b"authorization",
            b"connection",
            b"content-length",
            b"content-type",
            b"cookie",
            b"host",
            b"idempotency-key",
            b"traceparent",
            b"transfer-encoding",
            b"user-agent",
            b"x-api-key",
            b"x-forwarded-for",
            b"x-request-id",
            b"x-stainless-arch",
            b"x-stainless-async",
            b"x-stainless-lang",
            b"x-stainless-os",
            b"x-stainless-package-version",
            b"x-stainless-read-timeout",
            b"x-stainless-retry-count",
            b"x-stainless-runtime",
            b"x-stainless-runtime-version",
            b"x-stainless-timeout",
        ),
        0,
    ),
}

# Each of these threads keeps the interpreter's lock from the loop for some milliseconds: few at a time.
_apart = trio.CapacityLimiter(2)


def read_head(call: Call) -> int:
    """What a head may have in it: HOP, DOUBTFUL, PROVIDER, added up."""
    found = call.notes.says
    if found is None:
        found = 0
        for name, _ in call.headers:
            says = _SAYING.get(name)
            if says is None:
                says = DOUBTFUL if names_destination(name) else 0
            found |= says
        call.notes.says = found
    return found


def check_hop(head: int) -> None:
    """Before the key: what a gateway sends to itself seldom has one, and 401 would look like a provider's refusal.

    `head` is what `read_head` found. Raises LoopDetected.
    """
    if head & HOP:
        raise LoopDetected("the request has passed through a SecureLLM Bridge already: a base_url points at one")


def check_head(head: int, headers: Headers) -> None:
    """What the head must not say. Raises BadRequest, DestinationField, ProviderConflict."""
    if not head & DOUBTFUL:
        return
    check_headers(headers)
    wanted: set[bytes] = set()
    for name, value in headers:
        if name == b"content-encoding":
            raise BadRequest("content-encoding: request bodies are taken uncompressed only", param="content-encoding")
        if name == b"x-provider":
            wanted.add(value.strip())
    if len(wanted) > 1:
        raise ProviderConflict("x-provider: got several that differ, expected one", param="x-provider")


async def read_body(call: Call, charge: Charge, server: Server) -> bytes:
    """The whole body, bounded in size and time. Raises PayloadTooLarge, BytesInFlight, SlowBody."""
    source = call.body
    length = source.length
    if length is not None:
        _check_size(length, server.max_request_size_bytes)
        charge.grow_to(length)
    whole = source.receive_nowait()
    if whole is not None and length == len(whole) and source.receive_nowait() == b"":
        return whole  # it came with the head, as small ones do: no timers, and no copy
    return await _gather(call, whole or b"", charge, server)


async def _gather(call: Call, first: bytes, charge: Charge, server: Server) -> bytes:
    """The rest of a body that does not come at once."""
    body = io.BytesIO()  # grows in place, where a list of pieces would be held twice when it is joined
    size_bytes = 0
    rate_bytes_s = server.body_min_rate_bytes_s
    rate_deadline_s = trio.current_time() + server.body_idle_timeout_s
    piece: bytes | None = first or None
    while True:
        if piece is None:
            piece = call.body.receive_nowait()  # what is here already needs no timers
        if piece is None:
            allowed_s = rate_deadline_s + size_bytes / rate_bytes_s if rate_bytes_s else math.inf
            deadline_s = min(allowed_s, trio.current_time() + server.body_idle_timeout_s)
            with trio.CancelScope(deadline=deadline_s) as scope:
                piece = await call.body.receive()
            if scope.cancelled_caught:
                limits = "server.body_idle_timeout_s, server.body_min_rate_bytes_s"
                raise SlowBody(f"the body stopped or was too slow after {size_bytes} bytes ({limits})")
        if not piece:
            return body.getvalue()
        size_bytes += len(piece)
        _check_size(size_bytes, server.max_request_size_bytes)
        charge.grow_to(size_bytes)
        body.write(piece)
        piece = None


def is_large(body: bytes) -> bool:
    """The body is to be looked at beside the event loop (`peek_apart`), not in it (`peek`)."""
    return len(body) >= PEEK_APART_BYTES


async def peek_apart(endpoint: Endpoint, body: bytes) -> Peeked:
    """What a large body asks for. Raises BadRequest and its kinds."""
    return await trio.to_thread.run_sync(peek, endpoint, body, abandon_on_cancel=True, limiter=_apart)


async def weigh_body(endpoint: Endpoint, body: bytes) -> Weight:
    """What a body may be charged for, where peeking did not tell it; a large one is looked at beside the event loop."""
    if not is_large(body):
        return weigh(endpoint, body)
    return await trio.to_thread.run_sync(weigh, endpoint, body, abandon_on_cancel=True, limiter=_apart)


def text_bytes(body: bytes, weight: Weight | None) -> int:
    """The bytes of a body without its images, for an estimate: a small body is a text, whatever is in it."""
    if weight is None or not weight.images or len(body) < LARGE_BYTES:
        return len(body)
    return weight.input_tokens


def estimate_use_tokens(body: bytes, weight: Weight | None, peeked: Peeked) -> int:
    """Tokens that a request may come to, for limits: those of its body, and of each answer as many as may be.

    A quarter of the body's `text_bytes`; what limits count is trued up afterwards.
    """
    size_bytes = len(body) if weight is None or not weight.images else text_bytes(body, weight)
    return estimate_tokens(size_bytes) + (peeked.max_output_tokens or 0) * peeked.n


def _check_size(size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise PayloadTooLarge(f"the body is over the limit of {limit_bytes} bytes (server.max_request_size_bytes)")
