"""A request's head and body taken in: what must not be there, how large and how slow the body may be.

The body may be slow, but not stop, nor stay below the least rate; what it announces is charged before it is read.
"""

import io
import math

import trio

from securellm._fast import members
from securellm.chat import Call, Endpoint
from securellm.config.tree import Server
from securellm.errors import BadRequest, LoopDetected, PayloadTooLarge, ProviderConflict, SlowBody
from securellm.limits.in_flight import Charge
from securellm.tokens import estimate_tokens
from securellm.wire.body import Peeked, check_headers, peek
from securellm.wire.weight import Weight, weigh

PEEK_APART_BYTES = 1024 * 1024  # a larger body takes milliseconds to check: longer than the hop to a thread

LARGE_BYTES = 64 * 1024  # of a body that may be an image more than a text

# Each of these threads keeps the interpreter's lock from the loop for some milliseconds: few at a time.
_apart = trio.CapacityLimiter(2)


def check_hop(call: Call) -> None:
    """Before the key: what a gateway sends to itself seldom has one, and 401 would look like a provider's refusal.

    Raises LoopDetected.
    """
    if call.header(b"x-securellm-hop") is not None:
        raise LoopDetected("the request has passed through a SecureLLM Bridge already: a base_url points at one")


def check_head(call: Call) -> None:
    """What the head must not say. Raises BadRequest, DestinationField, ProviderConflict."""
    check_headers(call.headers)
    wanted: set[bytes] = set()
    for name, value in call.headers:
        if name == b"content-encoding":
            raise BadRequest("content-encoding: request bodies are taken uncompressed only", param="content-encoding")
        if name == b"x-provider":
            wanted.add(value.strip())
    if len(wanted) > 1:
        raise ProviderConflict("x-provider: got several that differ, expected one", param="x-provider")


async def read_body(call: Call, charge: Charge, server: Server) -> bytes:
    """The whole body, bounded in size and time. Raises PayloadTooLarge, BytesInFlight, SlowBody."""
    limit_bytes = server.max_request_size_bytes
    if call.body.length is not None:
        _check_size(call.body.length, limit_bytes)
        charge.grow_to(call.body.length)
    whole = call.body.receive_nowait()
    if whole is not None and call.body.length == len(whole) and call.body.receive_nowait() == b"":
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


async def peek_body(endpoint: Endpoint, body: bytes) -> Peeked:
    """What the body asks for; a large one is looked at beside the event loop. Raises BadRequest and its kinds."""
    if len(body) < PEEK_APART_BYTES:
        return peek(endpoint, body)
    return await trio.to_thread.run_sync(peek, endpoint, body, abandon_on_cancel=True, limiter=_apart)


async def weigh_body(endpoint: Endpoint, body: bytes, peeked: Peeked) -> Weight:
    """What the body may be charged for; a large one is looked at beside the event loop."""
    if len(body) < PEEK_APART_BYTES:
        return weigh(endpoint, body, peeked.survey)
    return await trio.to_thread.run_sync(weigh, endpoint, body, peeked.survey, abandon_on_cancel=True, limiter=_apart)


async def estimate_use_tokens(endpoint: Endpoint, body: bytes, peeked: Peeked) -> int:
    """Tokens that a request may come to, for limits: those of its body, and of each answer as many as may be.

    A quarter of the body's bytes, of which images are left out; what limits count is trued up afterwards.
    """
    size_bytes = len(body)
    if size_bytes >= LARGE_BYTES and members.holds(body, b"base64"):
        size_bytes = (await weigh_body(endpoint, body, peeked)).input_tokens
    return estimate_tokens(size_bytes) + (peeked.max_output_tokens or 0) * peeked.n


def _check_size(size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise PayloadTooLarge(f"the body is over the limit of {limit_bytes} bytes (server.max_request_size_bytes)")
