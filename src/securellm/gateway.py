"""The story of a request: admit, ask, settle. It knows nothing of ASGI, sockets or frameworks.

    Call ── admit ──▶ Permit ── ask ──▶ Upstream (a stream that has begun) ── the lane relays ──▶ finish
              │                  └────▶ Answer (a whole body, or an error)      settled and durable
              └────▶ Answer (a refusal)                                          settled and durable

A lane owns the socket and the relay loop and nothing else. A record is on disk before what it speaks of leaves: the
intent before a provider is asked (`upstream/ask.py`), the outcome before an Answer is handed out, or before a stream's
last bytes are (`finish`). Whoever holds a Permit that is not settled calls `settle` in a synchronous `finally`;
settling never waits and is done exactly once.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import trio

from securellm.accounts.authority import check_caller
from securellm.accounts.snapshot import Accounts
from securellm.audit.bodies import Bodies
from securellm.cache.answers import FRAMES_TO_WHOLE, Answers, Hit, Lead
from securellm.candidates import check_other_models, most_of
from securellm.chat import Answer, Call, Caller, Endpoint, Headers, KeyId, Outcome, Receipt, Status, Usage
from securellm.errors import (
    AuditUnavailable,
    InternalError,
    InvalidKey,
    RequestCancelled,
    SecureLLMError,
    ShuttingDown,
)
from securellm.holdings import Holdings
from securellm.intake import (
    LARGE_BYTES,
    PROVIDER,
    check_head,
    check_hop,
    estimate_use_tokens,
    is_large,
    peek_apart,
    read_body,
    read_head,
    weigh_body,
)
from securellm.ledger import Ledger, LedgerStatistics, Page
from securellm.limits.budgets import Budgets
from securellm.limits.in_flight import InFlightBytes, InFlightStatistics
from securellm.limits.limiter import Hold
from securellm.permit import OpenRequest, Permit, open_request
from securellm.planning import Planner
from securellm.recall import end_lead, hit_answer, hit_settlement, look_up
from securellm.routing import Route, Target
from securellm.serving import Serving
from securellm.settlement import refused, settlement_of, settlement_of_call, usage_of
from securellm.telemetry.faults import describe_fault
from securellm.upstream.heads import CONTENT_TYPE_JSON, id_headers
from securellm.upstream.reply import count_reply
from securellm.upstream.stream import Pulled, Upstream
from securellm.wire.body import Peeked, peek
from securellm.wire.envelope import encode_error, error_headers

_log = logging.getLogger("securellm.gateway")

_CANCELLED = Status.CANCELLED  # an enum's members are slow to look up

T = TypeVar("T")


class GatewayStatistics(msgspec.Struct, frozen=True):
    """Requests let in and not yet settled, the bodies they hold, and the ledger's figures."""

    open_requests: int
    in_flight: InFlightStatistics
    ledger: LedgerStatistics


class _Open(msgspec.Struct, frozen=True):
    """A request that was let in and is not settled, and the configuration it began under."""

    permit: Permit
    serving: Serving


class Gateway:
    """Serves every lane of the process."""

    def __init__(
        self, serving: Serving, accounts: Accounts, budgets: Budgets, answers: Answers | None, ledger: Ledger
    ) -> None:
        self._serving = serving
        self._planner = Planner(serving, accounts)
        self._answers = answers
        self._accounts = accounts
        self._budgets = budgets
        self._ledger = ledger
        self._in_flight = InFlightBytes(serving.config.server.max_in_flight_bytes)
        self._open: dict[str, _Open] = {}
        self._stopping = False

    def take(self, serving: Serving) -> None:
        """Serve under another configuration from now on; requests that have begun keep theirs."""
        self._serving = serving
        self._planner = Planner(serving, self._accounts)
        self._ledger.tariff = serving.tariff
        self._in_flight.resize(serving.config.server.max_in_flight_bytes)

    def identify(self, headers: Headers) -> Caller:
        """Whose key is it. Raises InvalidKey or StoreUnavailable; waits for nothing."""
        return self._accounts.identify(headers)

    def authenticate(self, headers: Headers, client_ip: str, *, anonymous: bool = True) -> Caller:
        """As `identify`, for a request that is refused without a good key: the refusal is noted as an event.

        Where `anonymous` is False a key is needed whatever the configuration says.
        """
        try:
            return self._accounts.identify(headers, anonymous=anonymous)
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
            receipt = self._settle_unserved(call, outcome, caller, None, page)
        if isinstance(failure, AuditUnavailable):
            raise failure  # waiting for the record of it would be for nothing
        await receipt.durable()
        if failure is not None:
            raise failure
        return result

    async def admit(self, call: Call) -> Permit | Answer:
        """Let the request in, or say why not. The key is checked before the body is read."""
        serving, planner, endpoint = self._serving, self._planner, call.endpoint
        try:
            head = read_head(call)
            if head:
                check_hop(head)
            caller = self._accounts.identify_caller(call)
            page = self._ledger.open_page(serving.tariff)
        except SecureLLMError as error:
            return self._turn_away(call, error)
        peeked: Peeked | None = None
        holdings = Holdings(self._in_flight.open_charge())
        serving.enter()
        try:
            if self._stopping:
                raise ShuttingDown("the gateway is stopping", retry_after_s=1.0)
            if head:
                check_head(head, call.headers)
            check_caller(caller, endpoint, call.client_ip)
            body = await read_body(call, holdings.charge, serving.config.server)
            peeked = await peek_apart(endpoint, body) if is_large(body) else peek(endpoint, body)
            x_provider = call.header(b"x-provider") if head & PROVIDER else None
            plan = planner.plan(caller, endpoint, peeked.model, x_provider)
            if plan.other_models:
                check_other_models(plan.other_models, body)
            weight = peeked.weight
            if weight is None and len(body) >= LARGE_BYTES:
                weight = await weigh_body(endpoint, body)
            tokens = estimate_use_tokens(body, weight, peeked)
            taken = serving.limiter.take(plan.demands, tokens)
            hold = taken if isinstance(taken, Hold) else await serving.limiter.decide(taken, plan.demands, tokens)
            holdings.keep_hold(hold, tokens)
            if plan.budgets:
                weight = weight or await weigh_body(endpoint, body)
                most = most_of(endpoint, peeked, weight, plan.ceilings)
                cost_nusd, most_tokens, request_id = most.cost_nusd, most.tokens, call.request_id
                reservation = self._budgets.take(caller, cost_nusd, most_tokens, request_id, plan.budgets)
                reservation = reservation or await self._budgets.wait(caller, cost_nusd, most_tokens, request_id)
                holdings.keep_reservation(reservation, most)
            found = None
            if self._answers is not None and serving.config.cache.enabled:
                found = await self._look_up(self._answers, serving, call, caller, peeked, body, plan.first)
                if isinstance(found, Lead):
                    holdings.lead = found
            bodies = plan.bodies or await serving.bodies.open(endpoint, body)
        except BaseException as error:
            serving.leave()
            holdings.release()
            if not isinstance(error, Exception):
                self._settle_unserved(call, Outcome(Status.CANCELLED), caller, peeked, page)
                raise
            return await self._refuse(call, _told(call, error), caller, peeked, page)
        page.intend(call, caller, peeked.model, stream=peeked.stream, target=plan.first)
        if isinstance(found, Hit):
            return await self._recall(serving, call, caller, peeked, body, page, bodies, holdings, found)
        deadline_s = call.started_s + serving.config.timeouts.total_s
        permit = Permit(call, caller, peeked, body, plan.route, holdings, page, bodies, deadline_s)
        if holdings.lead is not None:
            permit.collected = bytearray()
            permit.collects_bytes = FRAMES_TO_WHOLE * serving.config.cache.max_entry_bytes
        self._open[call.request_id] = _Open(permit, serving)
        return permit

    async def ask(self, permit: Permit) -> Upstream | Answer:
        """Ask the route's providers, up to the commit point. Raises nothing but Cancelled."""
        if permit.endpoint is Endpoint.COUNT_TOKENS and not _can_count(permit.route):
            reply = await count_reply(permit)
        else:
            asked = await self._open[permit.request_id].serving.asker.ask(permit)
            if isinstance(asked, Upstream):
                permit.streamed = True
                return asked
            reply = asked
        permit.answered(reply.body)
        answer, outcome = Answer(reply.status, reply.headers, reply.body), reply.outcome
        try:
            if permit.bodies.records:
                await permit.bodies.seal(permit.request_id)
        except AuditUnavailable as error:
            answer, outcome = _refusal(permit.call, error), _unrecorded(error, error.status)
        receipt = self.settle(permit, outcome)
        if outcome.error_code == AuditUnavailable.code:
            return answer  # it says that nothing can be recorded: waiting for its own record would be for nothing
        try:
            await receipt.durable()
        except AuditUnavailable as error:
            return _refusal(permit.call, error)
        return answer

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
        now_s = trio.current_time()
        cancelled = "cancelled" if outcome.status is _CANCELLED else None
        permit.close_attempt(outcome.error_code or cancelled, now_s)
        self._open.pop(permit.request_id).serving.leave()
        usage, source = usage_of(permit)
        priced = self._ledger.price(permit.page, permit.attempts, usage)
        settlement = settlement_of(
            permit,
            outcome,
            usage,
            source,
            now_s=now_s,
            cost_nusd=priced.cost_nusd,
            overrun_nusd=self._settle_holdings(permit, usage, priced.cost_nusd or 0),
        )
        if permit.holdings.lead is not None:
            end_lead(permit.holdings.lead, permit, settlement)
        permit.receipt = self._ledger.settle(permit.page, settlement, priced, permit.bodies.hashes)
        permit.body = b""  # whoever still holds the permit need not hold what is charged to nobody any more
        return permit.receipt

    def _settle_holdings(self, permit: Permit, usage: Usage | None, cost_nusd: int) -> int | None:
        """Give back what the request held and did not use; an overrun of its budget is noted beside its record."""
        overrun_nusd = permit.holdings.settle(usage.total_tokens if usage is not None else None, cost_nusd)
        if not overrun_nusd:
            return None
        _log.error("request %s cost %d nano-USD more than was reserved of its budget", permit.request_id, overrun_nusd)
        self._ledger.event(
            "budget_overrun",
            client_ip=permit.call.client_ip,
            detail={"request_id": permit.request_id, "overrun_nusd": overrun_nusd},
        )
        return overrun_nusd

    @property
    def stopping(self) -> bool:
        """No new requests are let in."""
        return self._stopping

    def stop_accepting(self) -> None:
        """Refuse new requests from now on; those that are open go on."""
        self._stopping = True

    def end_streams(self) -> None:
        """End every open request with an error of the caller's dialect, as its last word."""
        for found in list(self._open.values()):
            found.permit.interrupt(ShuttingDown("the gateway is stopping", retry_after_s=1.0))

    def requests(self) -> list[OpenRequest]:
        """What is being served now, the oldest first."""
        return [open_request(found.permit) for found in self._open.values()]

    def is_open(self, request_id: str, *, of: Caller | None = None) -> bool:
        """There is such a request, and it is that caller's where one is given."""
        found = self._open.get(request_id)
        return found is not None and (of is None or _owns(of, found.permit.caller))

    def cancel(self, request_id: str, reason: str, *, of: Caller | None = None) -> bool:
        """End an open request, only if it is that caller's where one is given; False when there is no such request."""
        if not self.is_open(request_id, of=of):
            return False
        self._open[request_id].permit.interrupt(RequestCancelled(reason))
        return True

    def end_requests_of(self, keys: frozenset[KeyId]) -> None:
        """End the open requests of keys that are no longer in force (`security.cut_revoked`)."""
        if not keys or not self._serving.config.security.cut_revoked:
            return
        for found in list(self._open.values()):
            if found.permit.caller.key_id in keys:
                found.permit.interrupt(RequestCancelled("the key of this request is no longer in force"))

    def statistics(self) -> GatewayStatistics:
        """The figures now."""
        return GatewayStatistics(len(self._open), self._in_flight.statistics(), self._ledger.statistics())

    async def _look_up(
        self,
        answers: Answers,
        serving: Serving,
        call: Call,
        caller: Caller,
        peeked: Peeked,
        body: bytes,
        target: Target,
    ) -> Hit | Lead | None:
        deadline_s = call.started_s + serving.config.timeouts.total_s
        epoch = serving.config.epoch
        return await look_up(answers, call, caller, peeked, body, target, epoch=epoch, deadline_s=deadline_s)

    async def _recall(
        self,
        serving: Serving,
        call: Call,
        caller: Caller,
        peeked: Peeked,
        body: bytes,
        page: Page,
        bodies: Bodies,
        holdings: Holdings,
        hit: Hit,
    ) -> Answer:
        """Answer from the cache: nobody is asked, and both records are written all the same."""
        outcome = Outcome(Status.CANCELLED)
        answer = hit_answer(call, hit, holdings.headers())
        serving.leave()
        holdings.release()
        try:
            bodies.answered(hit.body)
            await bodies.seal(call.request_id)
            outcome = Outcome(Status.SUCCESS, 200)
        except AuditUnavailable as error:
            answer, outcome = _refusal(call, error), _unrecorded(error, error.status)
        finally:
            settlement = hit_settlement(call, caller, peeked, body, hit, page.tariff.epoch)
            settlement = msgspec.structs.replace(settlement, outcome=outcome)
            receipt = self._ledger.settle(page, settlement, self._ledger.price(page, (), None), bodies.hashes)
        return answer if outcome.error_code else await self._durable(call, answer, receipt)

    def _turn_away(self, call: Call, error: SecureLLMError) -> Answer:
        """Refuse a caller who is not known, or whom nobody can be served for now: there is no record of it."""
        if isinstance(error, InvalidKey):
            self._ledger.event("authentication_failed", client_ip=call.client_ip)
        self._ledger.tell(settlement_of_call(call, refused(error), None, None, self._serving.config.epoch))
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
        epoch = page.tariff.epoch
        settlement = settlement_of_call(call, outcome, caller, peeked, epoch, bytes_out=bytes_out)
        return self._ledger.settle(page, settlement, self._ledger.price(page, (), None))

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


def _told(call: Call, error: Exception) -> SecureLLMError:
    """What the caller is told; a defect of ours leaves its records like any other refusal."""
    if isinstance(error, SecureLLMError):
        return error
    _log.error("admitting request %s failed: %s", call.request_id, describe_fault(error))
    return InternalError("internal error; the log has it under the request's id")


def _owns(caller: Caller, owner: Caller) -> bool:
    """The request was made with the caller's key, or by its user."""
    same_user = caller.user_id is not None and caller.user_id == owner.user_id
    return same_user or caller.key_id == owner.key_id


def _can_count(route: Route) -> bool:
    return any(Endpoint.COUNT_TOKENS in target.provider.endpoints for target in route.targets)
