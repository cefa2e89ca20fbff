"""The story of a request: admit, ask, settle. It knows nothing of ASGI, sockets or frameworks.

    Call ── admit ──▶ Permit ── ask ──▶ Upstream (a stream that has begun) ── the lane relays ──▶ settle
              │                  └────▶ Answer (a whole body, or an error)      settled already
              └────▶ Answer (a refusal)                                          settled already

A lane owns the socket and the relay loop and nothing else. Whoever holds a Permit that is not settled calls `settle`
in a synchronous `finally`; settling never waits and is done exactly once.
"""

import io

import msgspec
import trio

from securellm.accounts.snapshot import Accounts
from securellm.chat import (
    Answer,
    Attempt,
    Call,
    Caller,
    Endpoint,
    Headers,
    Outcome,
    Receipt,
    Settlement,
    Status,
    Usage,
)
from securellm.config import Config
from securellm.errors import (
    BadRequest,
    CallerError,
    LoopDetected,
    PayloadTooLarge,
    ProviderConflict,
    RateLimited,
    SecureLLMError,
    ShuttingDown,
    SlowBody,
    UnsupportedEndpoint,
)
from securellm.ledger import Ledger, LedgerStatistics
from securellm.limits.in_flight import Charge, InFlightBytes, InFlightStatistics
from securellm.permit import Permit
from securellm.routing import Catalogue, Route
from securellm.tokens import estimate_request_tokens, estimate_tokens
from securellm.upstream.ask import Asker
from securellm.upstream.heads import CONTENT_TYPE_JSON, id_headers
from securellm.upstream.origins import Origins
from securellm.upstream.stream import Upstream
from securellm.wire.body import Peeked, check_headers, peek
from securellm.wire.envelope import encode_error, error_headers

PEEK_APART_BYTES = 1024 * 1024  # a larger body takes milliseconds to check: longer than the hop to a thread


class GatewayStatistics(msgspec.Struct, frozen=True):
    """Requests let in and not yet settled, the bodies they hold, and the ledger's figures."""

    open_requests: int
    in_flight: InFlightStatistics
    ledger: LedgerStatistics


class Gateway:
    """Serves every lane of the process."""

    def __init__(
        self,
        config: Config,
        accounts: Accounts,
        catalogue: Catalogue,
        origins: Origins,
        asker: Asker,
        ledger: Ledger,
    ) -> None:
        self._config = config
        self._accounts = accounts
        self._catalogue = catalogue
        self._origins = origins
        self._asker = asker
        self._ledger = ledger
        self._in_flight = InFlightBytes(config.server.max_in_flight_bytes)
        self._open: dict[str, Permit] = {}
        self._stopping = False

    def identify(self, headers: Headers) -> Caller:
        """Whose key is it. Raises InvalidKey or StoreUnavailable; waits for nothing."""
        return self._accounts.identify(headers)

    async def admit(self, call: Call) -> Permit | Answer:
        """Let the request in, or say why not. The key is checked before the body is read."""
        caller: Caller | None = None
        peeked: Peeked | None = None
        charge = self._in_flight.open_charge()
        try:
            if self._stopping:
                raise ShuttingDown("the gateway is stopping", retry_after_s=1.0)
            _check_hop(call)
            caller = self.identify(call.headers)
            _check_head(call)
            body = await self._read_body(call, charge)
            peeked = await _peek(call.endpoint, body)
            route = self._route(call, peeked)
        except SecureLLMError as error:
            charge.release()
            return self._refusal(call, error, caller, peeked)
        except BaseException:
            charge.release()
            self._settle_refusal(call, Outcome(Status.CANCELLED), caller, peeked)
            raise
        deadline_s = call.started_s + self._config.timeouts.total_s
        permit = Permit(call, caller, peeked, body, route, charge, deadline_s)
        self._open[call.request_id] = permit
        return permit

    async def ask(self, permit: Permit) -> Upstream | Answer:
        """Ask the route's providers, up to the commit point. Raises nothing but Cancelled."""
        if permit.endpoint is Endpoint.COUNT_TOKENS and not _can_count(permit.route):
            return self._counted(permit)
        reply = await self._asker.ask(permit)
        if isinstance(reply, Upstream):
            return reply
        permit.bytes_out += len(reply.body)
        return Answer(reply.status, reply.headers, reply.body, self.settle(permit, reply.outcome))

    def settle(self, permit: Permit, outcome: Outcome) -> Receipt:
        """Close the request's books. Waits for nothing; a second call returns the first receipt."""
        if permit.receipt is not None:
            return permit.receipt
        permit.close_attempt(outcome.error_code if outcome.status is not Status.CANCELLED else "cancelled")
        permit.release()
        self._open.pop(permit.request_id, None)
        permit.receipt = self._ledger.settle(self._settlement(permit, outcome))
        return permit.receipt

    def refuse(self, call: Call, error: SecureLLMError) -> Answer:
        """An error in the caller's dialect, for a request that was never let in."""
        return self._refusal(call, error, None, None)

    @property
    def stopping(self) -> bool:
        """No new requests are let in."""
        return self._stopping

    def stop_accepting(self) -> None:
        """Refuse new requests from now on; those that are open go on."""
        self._stopping = True

    def end_streams(self) -> None:
        """End every open request with an error of the caller's dialect, as its last word."""
        for permit in list(self._open.values()):
            permit.interrupt(ShuttingDown("the gateway is stopping", retry_after_s=1.0))

    def statistics(self) -> GatewayStatistics:
        """The figures now."""
        return GatewayStatistics(len(self._open), self._in_flight.statistics(), self._ledger.statistics())

    async def _read_body(self, call: Call, charge: Charge) -> bytes:
        """The whole body, bounded in size and time: it may be slow, but not stop, nor stay below the least rate."""
        server = self._config.server
        limit_bytes = server.max_request_size_bytes
        if call.body.length is not None:
            _check_size(call.body.length, limit_bytes)
            charge.grow_to(call.body.length)
        body = io.BytesIO()  # grows in place, where a list of pieces would be held twice when it is joined
        size_bytes = 0
        rate_deadline_s = trio.current_time() + server.body_idle_timeout_s
        while True:
            allowed_s = rate_deadline_s + size_bytes / server.body_min_rate_bytes_s
            deadline_s = min(allowed_s, trio.current_time() + server.body_idle_timeout_s)
            with trio.CancelScope(deadline=deadline_s) as scope:
                piece = await call.body.receive()
            if scope.cancelled_caught:
                limits = "server.body_idle_timeout_s, server.body_min_rate_bytes_s"
                raise SlowBody(f"the body stopped or was too slow after {size_bytes} bytes ({limits})")
            if not piece:
                return body.getvalue()
            size_bytes += len(piece)
            _check_size(size_bytes, limit_bytes)
            charge.grow_to(size_bytes)
            body.write(piece)

    def _route(self, call: Call, peeked: Peeked) -> Route:
        x_provider = call.header(b"x-provider")
        try:
            return self._catalogue.route(peeked.model, x_provider, call.endpoint, self._origins.healthy)
        except UnsupportedEndpoint:
            if call.endpoint is not Endpoint.COUNT_TOKENS:
                raise
        # Whoever cannot count may still be asked for an answer: the count is then estimated, and says so.
        return self._catalogue.route(peeked.model, x_provider, Endpoint.MESSAGES, self._origins.healthy)

    def _counted(self, permit: Permit) -> Answer:
        tokens = estimate_request_tokens(permit.body)
        headers = [
            CONTENT_TYPE_JSON,
            *id_headers(permit.endpoint, permit.request_id),
            (b"x-securellm-usage-source", b"estimated"),
        ]
        body = msgspec.json.encode({"input_tokens": tokens})
        permit.bytes_out += len(body)
        return Answer(200, headers, body, self.settle(permit, Outcome(Status.SUCCESS, 200)))

    def _refusal(self, call: Call, error: SecureLLMError, caller: Caller | None, peeked: Peeked | None) -> Answer:
        body = encode_error(call.endpoint.dialect, error, call.request_id)
        headers = [CONTENT_TYPE_JSON, *error_headers(error), *id_headers(call.endpoint, call.request_id)]
        receipt = self._settle_refusal(call, _refused(error), caller, peeked, bytes_out=len(body))
        return Answer(error.status, headers, body, receipt)

    def _settle_refusal(
        self, call: Call, outcome: Outcome, caller: Caller | None, peeked: Peeked | None, *, bytes_out: int = 0
    ) -> Receipt:
        return self._ledger.settle(
            _settlement(call, outcome, caller, self._config.epoch, bytes_out=bytes_out, peeked=peeked)
        )

    def _settlement(self, permit: Permit, outcome: Outcome) -> Settlement:
        meter, target = permit.meter, permit.answered_by
        usage, source = _usage(permit)
        last = permit.attempts[-1] if permit.attempts else None
        return msgspec.structs.replace(
            _settlement(
                permit.call,
                outcome,
                permit.caller,
                self._config.epoch,
                bytes_out=permit.bytes_out,
                peeked=permit.peeked,
            ),
            provider=target.provider.name if target is not None else None,
            model=target.model if target is not None else None,
            attempts=tuple(permit.attempts),
            usage=usage,
            usage_source=source,
            finish_reason=meter.finish_reason if meter is not None else None,
            first_token_ms=_ms(permit.first_token_s, permit.call.started_s),
            bytes_in=len(permit.body),
            dropped=permit.dropped,
            upstream_request_id=last.upstream_request_id if last is not None else None,
            context_truncated=meter is not None and meter.context_truncated,
        )


def _check_hop(call: Call) -> None:
    """Before the key: what a gateway sends to itself seldom has one, and 401 would look like a provider's refusal."""
    if call.header(b"x-securellm-hop") is not None:
        raise LoopDetected("the request has passed through a SecureLLM Bridge already: a base_url points at one")


def _check_head(call: Call) -> None:
    check_headers(call.headers)
    wanted: set[bytes] = set()
    for name, value in call.headers:
        if name == b"content-encoding":
            raise BadRequest("content-encoding: request bodies are taken uncompressed only", param="content-encoding")
        if name == b"x-provider":
            wanted.add(value.strip())
    if len(wanted) > 1:
        raise ProviderConflict("x-provider: got several that differ, expected one", param="x-provider")


async def _peek(endpoint: Endpoint, body: bytes) -> Peeked:
    if len(body) < PEEK_APART_BYTES:
        return peek(endpoint, body)
    return await trio.to_thread.run_sync(peek, endpoint, body, abandon_on_cancel=True)


def _check_size(size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise PayloadTooLarge(f"the body is over the limit of {limit_bytes} bytes (server.max_request_size_bytes)")


def _can_count(route: Route) -> bool:
    return any(Endpoint.COUNT_TOKENS in target.provider.endpoints for target in route.targets)


def _refused(error: SecureLLMError) -> Outcome:
    status = Status.FAILED
    if isinstance(error, RateLimited):
        status = Status.RATE_LIMITED
    elif isinstance(error, ShuttingDown):
        status = Status.SHUTDOWN
    elif isinstance(error, CallerError):
        status = Status.REJECTED
    return Outcome(status, error.status, error.code, error.message)


def _usage(permit: Permit) -> tuple[Usage | None, str | None]:
    """What was used, and how we know: the provider's word where it had finished counting, else an estimate.

    A stream that was cut in the middle has delivered output that the provider did not get to count; its words about
    input still hold.
    """
    meter = permit.meter
    if meter is None:
        return None, None
    counted = permit.complete or meter.finish_reason is not None or meter.output_bytes == 0
    if meter.usage is not None and counted:
        return meter.usage, "reported"
    if meter.output_bytes == 0:
        return None, None
    delivered = estimate_tokens(meter.output_bytes)
    if meter.usage is None:
        return Usage(input_tokens=estimate_request_tokens(permit.body), output_tokens=delivered), "estimated"
    output_tokens = max(meter.usage.output_tokens, delivered)
    return msgspec.structs.replace(meter.usage, output_tokens=output_tokens), "estimated"


def _settlement(
    call: Call, outcome: Outcome, caller: Caller | None, epoch: str, *, bytes_out: int, peeked: Peeked | None
) -> Settlement:
    no_attempts: tuple[Attempt, ...] = ()
    return Settlement(
        request_id=call.request_id,
        client_request_id=call.header(b"x-request-id"),
        endpoint=call.endpoint,
        caller=caller,
        client_ip=call.client_ip,
        requested_model=peeked.model if peeked is not None else None,
        provider=None,
        model=None,
        stream=peeked is not None and peeked.stream,
        outcome=outcome,
        attempts=no_attempts,
        usage=None,
        usage_source=None,
        finish_reason=None,
        first_token_ms=None,
        duration_ms=_ms(trio.current_time(), call.started_s) or 0.0,
        bytes_in=0,
        bytes_out=bytes_out,
        dropped=(),
        upstream_request_id=None,
        context_truncated=False,
        config_epoch=epoch,
    )


def _ms(until_s: float | None, since_s: float) -> float | None:
    return (until_s - since_s) * 1000 if until_s is not None else None
