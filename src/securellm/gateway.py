"""The story of a request: admit, ask, settle. It knows nothing of ASGI, sockets or frameworks.

    Call ── admit ──▶ Permit ── ask ──▶ Upstream (a stream that has begun) ── the lane relays ──▶ finish
              │                  └────▶ Answer (a whole body, or an error)      settled and durable
              └────▶ Answer (a refusal)                                          settled and durable

A lane owns the socket and the relay loop and nothing else. A record is on disk before what it speaks of leaves: the
intent before a provider is asked (`upstream/ask.py`), the outcome before an Answer is handed out, or before a stream's
last bytes are (`finish`). Whoever holds a Permit that is not settled calls `settle` in a synchronous `finally`;
settling never waits and is done exactly once.
"""

import io
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import trio

from securellm.accounts.snapshot import Accounts
from securellm.audit.bodies import BodyRecorder
from securellm.chat import Answer, Call, Caller, Endpoint, Headers, Outcome, Receipt, Settlement, Status
from securellm.config import Config
from securellm.errors import (
    AuditUnavailable,
    BadRequest,
    InternalError,
    InvalidKey,
    LoopDetected,
    PayloadTooLarge,
    ProviderConflict,
    SecureLLMError,
    ShuttingDown,
    SlowBody,
    UnpricedModel,
    UnsupportedEndpoint,
)
from securellm.ledger import KEPT, Ledger, LedgerStatistics, Page
from securellm.limits.in_flight import Charge, InFlightBytes, InFlightStatistics
from securellm.permit import Permit
from securellm.pricing.table import PriceTable, price_of
from securellm.routing import Catalogue, PassedOver, Route
from securellm.settlement import refused, settlement_of, settlement_of_call
from securellm.telemetry.faults import describe_fault
from securellm.upstream.ask import Asker
from securellm.upstream.heads import CONTENT_TYPE_JSON, id_headers
from securellm.upstream.origins import Origins
from securellm.upstream.reply import count_reply
from securellm.upstream.stream import Pulled, Upstream
from securellm.wire.body import Peeked, check_headers, peek
from securellm.wire.envelope import encode_error, error_headers

_log = logging.getLogger("securellm.gateway")

PEEK_APART_BYTES = 1024 * 1024  # a larger body takes milliseconds to check: longer than the hop to a thread

T = TypeVar("T")


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
        prices: PriceTable,
        origins: Origins,
        asker: Asker,
        ledger: Ledger,
        bodies: BodyRecorder,
    ) -> None:
        self._config = config
        self._accounts = accounts
        self._catalogue = catalogue
        self._prices = prices
        self._origins = origins
        self._asker = asker
        self._ledger = ledger
        self._bodies = bodies
        self._in_flight = InFlightBytes(config.server.max_in_flight_bytes)
        self._open: dict[str, Permit] = {}
        self._stopping = False

    def identify(self, headers: Headers) -> Caller:
        """Whose key is it. Raises InvalidKey or StoreUnavailable; waits for nothing."""
        return self._accounts.identify(headers)

    def authenticate(self, headers: Headers, client_ip: str) -> Caller:
        """As `identify`, for a request that is refused without a good key: the refusal is noted as an event."""
        try:
            return self.identify(headers)
        except InvalidKey:
            self._ledger.event("authentication_failed", client_ip=client_ip)
            raise

    async def record(self, call: Call, caller: Caller, act: Callable[[], Awaitable[T]]) -> T:
        """Do what an operator asks for, between its two records. Raises AuditUnavailable and whatever `act` raises."""
        page = self._ledger.open_page()
        outcome = Outcome(Status.CANCELLED)
        failure: Exception | None = None
        try:
            await page.intend(call, caller, None, stream=False, target=None).durable()
            result = await act()
            outcome = Outcome(Status.SUCCESS, 200)
        except Exception as error:
            failure = error
            outcome = refused(error if isinstance(error, SecureLLMError) else InternalError("internal error"))
        finally:
            receipt = self._ledger.settle(page, self._unserved(call, outcome, caller, None))
        if isinstance(failure, AuditUnavailable):
            raise failure  # waiting for the record of it would be for nothing
        await receipt.durable()
        if failure is not None:
            raise failure
        return result

    async def admit(self, call: Call) -> Permit | Answer:
        """Let the request in, or say why not. The key is checked before the body is read."""
        try:
            _check_hop(call)
            caller = self.authenticate(call.headers, call.client_ip)
            page = self._ledger.open_page()
        except SecureLLMError as error:
            return self._turn_away(call, error)
        peeked: Peeked | None = None
        charge = self._in_flight.open_charge()
        try:
            if self._stopping:
                raise ShuttingDown("the gateway is stopping", retry_after_s=1.0)
            _check_head(call)
            body = await self._read_body(call, charge)
            peeked = await _peek(call.endpoint, body)
            route = self._route(call, peeked)
            bodies = await self._bodies.open(call.endpoint, body)
        except SecureLLMError as error:
            charge.release()
            return await self._refuse(call, error, caller, peeked, page)
        except Exception as defect:  # ours; it leaves its records like any other refusal
            charge.release()
            _log.error("admitting request %s failed: %s", call.request_id, describe_fault(defect))
            unforeseen = InternalError("internal error; the log has it under the request's id")
            return await self._refuse(call, unforeseen, caller, peeked, page)
        except BaseException:
            charge.release()
            self._settle_unserved(call, Outcome(Status.CANCELLED), caller, peeked, page)
            raise
        page.intend(call, caller, peeked.model, stream=peeked.stream, target=route.targets[0])
        deadline_s = call.started_s + self._config.timeouts.total_s
        permit = Permit(call, caller, peeked, body, route, charge, page, bodies, deadline_s)
        self._open[call.request_id] = permit
        return permit

    async def ask(self, permit: Permit) -> Upstream | Answer:
        """Ask the route's providers, up to the commit point. Raises nothing but Cancelled."""
        if permit.endpoint is Endpoint.COUNT_TOKENS and not _can_count(permit.route):
            reply = await count_reply(permit)
        else:
            asked = await self._asker.ask(permit)
            if isinstance(asked, Upstream):
                return asked
            reply = asked
        permit.bytes_out += len(reply.body)
        permit.bodies.answered(reply.body)
        answer, outcome = Answer(reply.status, reply.headers, reply.body), reply.outcome
        try:
            await permit.bodies.seal(permit.request_id)
        except AuditUnavailable as error:
            answer, outcome = _refusal(permit.call, error), _unrecorded(error, error.status)
        receipt = self.settle(permit, outcome)
        if outcome.error_code == AuditUnavailable.code:
            receipt = KEPT  # it says that nothing can be recorded: waiting for its own record would be for nothing
        return await self._durable(permit.call, answer, receipt)

    async def finish(self, permit: Permit, upstream: Upstream, pulled: Pulled) -> Pulled:
        """Settle a stream of which the last piece was pulled, and wait; returns what may be sent now.

        An outcome that is not durable in time ends the stream in an error event in place of the provider's last one.
        """
        try:
            await permit.bodies.seal(permit.request_id)
            await self.settle(permit, upstream.outcome).durable()
        except AuditUnavailable as error:
            self.settle(permit, _unrecorded(error, upstream.status))  # unless it was settled, and only came too late
            return pulled._replace(held=upstream.unrecorded(error), abort=True)
        return pulled

    def settle(self, permit: Permit, outcome: Outcome) -> Receipt:
        """Close the request's books. Waits for nothing; a second call returns the first receipt."""
        if permit.receipt is not None:
            return permit.receipt
        permit.close_attempt(outcome.error_code if outcome.status is not Status.CANCELLED else "cancelled")
        permit.release()
        self._open.pop(permit.request_id, None)
        permit.receipt = self._ledger.settle(
            permit.page, settlement_of(permit, outcome, self._config.epoch), permit.bodies.hashes
        )
        return permit.receipt

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
            route = self._catalogue.route(peeked.model, x_provider, call.endpoint, self._origins.healthy)
        except UnsupportedEndpoint:
            if call.endpoint is not Endpoint.COUNT_TOKENS:
                raise
            # Whoever cannot count may still be asked for an answer: the count is then estimated, and says so.
            route = self._catalogue.route(peeked.model, x_provider, Endpoint.MESSAGES, self._origins.healthy)
        return self._priced(route)

    def _priced(self, route: Route) -> Route:
        """The route without targets that have no price. Raises UnpricedModel when none is left."""
        unpriced = [target for target in route.targets if self._prices.find(target.provider.name, target.model) is None]
        if not unpriced:
            return route
        priced = tuple(target for target in route.targets if target not in unpriced)
        if not priced:
            price_of(self._prices, unpriced[0].provider.name, unpriced[0].model)
        passed_over = tuple(PassedOver(target, UnpricedModel.code) for target in unpriced)
        return msgspec.structs.replace(route, targets=priced, passed_over=route.passed_over + passed_over)

    def _turn_away(self, call: Call, error: SecureLLMError) -> Answer:
        """Refuse a caller who is not known, or whom nobody can be served for now: there is no record of it."""
        self._ledger.tell(self._unserved(call, refused(error), None, None))
        return _refusal(call, error)

    async def _refuse(
        self, call: Call, error: SecureLLMError, caller: Caller, peeked: Peeked | None, page: Page
    ) -> Answer:
        """Refuse a known caller's request: it leaves its records like any other."""
        answer = _refusal(call, error)
        receipt = self._settle_unserved(call, refused(error), caller, peeked, page, bytes_out=len(answer.body))
        return await self._durable(call, answer, receipt)

    def _settle_unserved(
        self,
        call: Call,
        outcome: Outcome,
        caller: Caller,
        peeked: Peeked | None,
        page: Page,
        *,
        bytes_out: int = 0,
    ) -> Receipt:
        model, stream = (peeked.model, peeked.stream) if peeked is not None else (None, False)
        page.intend(call, caller, model, stream=stream, target=None)
        return self._ledger.settle(page, self._unserved(call, outcome, caller, peeked, bytes_out=bytes_out))

    def _unserved(
        self, call: Call, outcome: Outcome, caller: Caller | None, peeked: Peeked | None, *, bytes_out: int = 0
    ) -> Settlement:
        return settlement_of_call(call, outcome, caller, peeked, self._config.epoch, bytes_out=bytes_out)

    async def _durable(self, call: Call, answer: Answer, receipt: Receipt) -> Answer:
        try:
            await receipt.durable()
        except AuditUnavailable as error:
            return _refusal(call, error)
        return answer


def _refusal(call: Call, error: SecureLLMError) -> Answer:
    headers = [CONTENT_TYPE_JSON, *error_headers(error), *id_headers(call.endpoint, call.request_id)]
    return Answer(error.status, headers, encode_error(call.endpoint.dialect, error, call.request_id))


def _unrecorded(error: AuditUnavailable, status: int) -> Outcome:
    """The outcome of a request whose answer was withheld because its body could not be recorded."""
    return Outcome(Status.FAILED, status, error.code, error.recorded)


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
