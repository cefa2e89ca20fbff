"""Ask providers until one answers: every attempt, retry and fallback of a request, up to the commit point.

The only owner of retries. The rules, in the order in which they are met:

1. Targets are asked in the route's order. One that fails before its answer begins in a way that another may heal is
   followed by the next at once; the last one is asked again, after a wait (`retry.py`).
2. A target whose breaker is open, whose limit is reached, or that cannot express the request, is passed over, and the
   record says why.
3. Nothing is asked again after a timeout, or once an answer has begun: it may have been paid for.
4. A kept connection that had been closed under us is no attempt of the provider's: the request goes out once more.

The commit point is the first semantic event of a stream that is not an error, or the whole body. One deadline covers
everything; `Permit.interrupt` ends it early.
"""

import logging
import math
import random
import time
from collections.abc import Callable

import trio

from securellm.chat import Endpoint, Headers, Relay, Relayed
from securellm.config.tree import Heartbeat, Timeouts
from securellm.errors import (
    AuditUnavailable,
    CallerError,
    CircuitOpen,
    ConnectFailed,
    ConnectTimeout,
    DestinationRefused,
    FirstTokenTimeout,
    InternalError,
    LimitsUnavailable,
    OverCapacity,
    ProviderAnswered,
    ProviderError,
    RateLimited,
    SecureLLMError,
    TotalTimeout,
    UpstreamAuth,
    UpstreamInvalid,
    UpstreamTruncated,
)
from securellm.permit import OpenAttempt, Permit
from securellm.routing import Target
from securellm.telemetry.faults import describe_fault
from securellm.upstream.body import read_refusal, read_whole
from securellm.upstream.breaker import Refused
from securellm.upstream.client import Clients, Exchange, StaleConnection
from securellm.upstream.heads import answer_headers, request_id_of, retry_after_s
from securellm.upstream.origins import Leave, Origin, Origins
from securellm.upstream.prepare import Prepared, prepare
from securellm.upstream.reply import Reply, error_reply, refusal_reply, whole_reply
from securellm.upstream.retry import RETRIED_STATUSES, wait_before_retry_s
from securellm.upstream.stream import Upstream
from securellm.wire.envelope import parse_error

_log = logging.getLogger("securellm.upstream")

MAX_OPENING_BYTES = 1024 * 1024  # pings and comments before the first semantic event; more is no stream


NOT_ASKED = (CircuitOpen, RateLimited, OverCapacity, LimitsUnavailable)  # says less than why an earlier one failed


class Failed(Exception):
    """One target did not answer. `prepared`, `body` and `headers` are there when the provider said why."""

    def __init__(
        self,
        error: SecureLLMError,
        *,
        prepared: Prepared | None = None,
        body: bytes = b"",
        headers: Headers | None = None,
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.prepared = prepared
        self.body = body
        self.headers = headers or []


class Asker:
    """Asks on behalf of all requests of the process."""

    def __init__(
        self,
        clients: Clients,
        origins: Origins,
        timeouts: Timeouts,
        heartbeat: Heartbeat,
        max_output: Callable[[Target], int | None],
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._clients = clients
        self._origins = origins
        self._timeouts = timeouts
        self._heartbeats_s = {
            Endpoint.CHAT: heartbeat.chat_s,
            Endpoint.COMPLETIONS: heartbeat.completions_s,
            Endpoint.MESSAGES: heartbeat.messages_s,
            Endpoint.RESPONSES: heartbeat.responses_s,
        }
        self._max_output = max_output
        self._spread = spread

    async def ask(self, permit: Permit) -> Upstream | Reply:
        """An answer that has begun, or a complete one. Raises nothing but Cancelled."""
        try:
            with permit.waiting_under(trio.CancelScope(deadline=permit.deadline_s)):
                return await self._ask_targets(permit)
        except Failed as failed:
            permit.close_attempt(failed.error.code)
            return self._reply(permit, failed)
        except Exception as defect:  # ours; the books and the caller hear of it like of any other failure
            _log.error("asking for request %s failed: %s", permit.request_id, describe_fault(defect))
            permit.close_attempt(InternalError.code)
            return error_reply(permit, InternalError("internal error; the log has it under the request's id"))
        error = permit.interruption or TotalTimeout("the time for the whole request (timeouts.total_s) passed")
        permit.close_attempt(error.code)
        return error_reply(permit, error)

    async def _ask_targets(self, permit: Permit) -> Upstream | Reply:
        worst: Failed | None = None
        *earlier, last = permit.route.targets
        for target in earlier:
            try:
                return await self._ask_once(permit, target)
            except Failed as failed:
                if not _another_may_answer(failed.error):
                    raise
                worst = failed
                permit.close_attempt(failed.error.code)
        try:
            return await self._ask_again(permit, last)
        except Failed as failed:
            # That the last one was passed over explains less than why an earlier one failed.
            if worst is not None and isinstance(failed.error, (*NOT_ASKED, CallerError)):
                raise worst from failed
            raise

    async def _ask_again(self, permit: Permit, target: Target) -> Upstream | Reply:
        """Ask, and retry within the limits; raises the last failure of the provider itself."""
        failure: Failed | None = None
        for retry in range(target.provider.max_retries + 1):
            if failure is not None:
                wait_s = self._wait_s(permit, target, failure, retry)
                if wait_s is None:
                    raise failure
                permit.close_attempt(failure.error.code)
                await trio.sleep(wait_s)
            try:
                return await self._ask_once(permit, target)
            except Failed as failed:
                if isinstance(failed.error, NOT_ASKED) and failure is not None:
                    raise failure from failed
                if not _may_retry(failed.error):
                    raise
                failure = failed
        assert failure is not None
        raise failure

    def _wait_s(self, permit: Permit, target: Target, failure: Failed, retry: int) -> float | None:
        wait_s = wait_before_retry_s(retry, spread=self._spread(), retry_after_s=failure.error.retry_after_s)
        if wait_s is None or trio.current_time() + wait_s >= permit.deadline_s:
            return None
        return wait_s if self._origins.of(target.provider).retries.take() else None

    async def _ask_once(self, permit: Permit, target: Target) -> Upstream | Reply:
        try:
            prepared = prepare(permit, target, self._max_output)
        except CallerError as error:
            permit.skip(target, error.code)
            raise Failed(error) from error
        try:
            return await self._attempt(permit, target, prepared)
        except Failed as failed:
            if not isinstance(failed.error, StaleConnection):
                raise
            permit.close_attempt("stale_connection")
        return await self._attempt(permit, target, prepared)

    async def _attempt(self, permit: Permit, target: Target, prepared: Prepared) -> Upstream | Reply:
        origin = self._origins.of(target.provider)
        leave = origin.ask_leave()
        if isinstance(leave, Refused):
            permit.skip(target, "circuit_open")
            raise Failed(
                CircuitOpen(
                    f"provider {target.provider.name} is failing and is left alone for now",
                    retry_after_s=leave.retry_after_s,
                )
            )
        refusal = await self._take(permit, target, leave)
        if refusal is not None:
            permit.skip(target, refusal.code)
            raise Failed(refusal)
        attempt = permit.open_attempt(target, prepared.relay.meter)
        try:
            await permit.page.asking(target, attempt.number).durable()
            return await self._exchange(permit, target, prepared, attempt, origin, leave)
        except AuditUnavailable as error:
            raise Failed(error) from error
        except Failed as failed:
            _report(leave, failed.error)
            raise
        except ProviderError as error:
            _report(leave, error)
            raise Failed(error) from error
        finally:
            leave.abandoned()  # nothing was learnt, unless something above has said otherwise

    async def _take(self, permit: Permit, target: Target, leave: Leave) -> SecureLLMError | None:
        """Take the provider's share of the limits; why it cannot be had, if it cannot."""
        refusal: SecureLLMError | None = None
        try:
            refusal = await permit.holdings.ask_provider(target)
        except LimitsUnavailable as error:
            refusal = error
        finally:
            if refusal is not None:
                leave.abandoned()
        return refusal

    async def _exchange(
        self, permit: Permit, target: Target, prepared: Prepared, attempt: OpenAttempt, origin: Origin, leave: Leave
    ) -> Upstream | Reply:
        timeout_s = target.provider.timeout_s
        if timeout_s is None and not prepared.stream:
            return await self._converse(permit, target, prepared, attempt, origin, leave, math.inf)
        started_s = trio.current_time()
        cap_s = started_s + timeout_s if timeout_s is not None else math.inf
        token_s = started_s + self._timeouts.first_token_s if prepared.stream else math.inf
        first_s = min(cap_s, token_s)
        with trio.CancelScope(deadline=first_s):
            return await self._converse(permit, target, prepared, attempt, origin, leave, cap_s)
        if cap_s < token_s:
            raise TotalTimeout(f"provider {target.provider.name} took longer than its timeout_secs")
        raise FirstTokenTimeout(f"no first token within {self._timeouts.first_token_s:g} s (timeouts.first_token_s)")

    async def _converse(
        self,
        permit: Permit,
        target: Target,
        prepared: Prepared,
        attempt: OpenAttempt,
        origin: Origin,
        leave: Leave,
        cap_s: float,
    ) -> Upstream | Reply:
        """Send the request and read up to the commit point; `cap_s` is when the provider's own time is over."""
        exchange: Exchange | None = None
        kept = False
        try:
            client = self._clients.client_of(target.provider)
            exchange = await client.send(prepared.request(attempt.number), connect_s=self._timeouts.connect_s)
            leave.answered()
            attempt.http_status = exchange.status
            attempt.upstream_request_id = request_id_of(exchange.headers)
            if exchange.status >= 300:
                await self._refused(prepared, exchange)
            if not prepared.stream or not _is_stream(exchange.headers):
                reply = await self._whole(permit, prepared, exchange)
                leave.succeeded()
                return reply
            first = await self._first(prepared.relay, exchange)
            permit.first_token_s = trio.current_time()
            leave.succeeded()
            upstream = Upstream(
                permit,
                exchange,
                prepared.relay,
                first,
                status=exchange.status,
                headers=answer_headers(permit, exchange.headers, stream=True, translated=prepared.translated),
                origin=origin,
                idle_s=self._timeouts.idle_s,
                deadline_s=min(permit.deadline_s, cap_s),
                deadline_from="timeouts.total_s" if permit.deadline_s <= cap_s else "the provider's timeout_secs",
                heartbeat_s=self._heartbeats_s.get(permit.endpoint, 0.0),
            )
            kept = True
            return upstream
        finally:
            if exchange is not None and not kept:
                await exchange.aclose()  # closes under a shield of its own, in bounded time

    async def _refused(self, prepared: Prepared, exchange: Exchange) -> None:
        """The provider answered with something else than success: raise what it means."""
        status = exchange.status
        if status < 400:
            raise UpstreamInvalid(f"the provider answered with a redirect ({status}); redirects are not followed")
        body = await read_refusal(exchange)
        error = parse_error(prepared.dialect, status, body)
        if status in (401, 403):
            raise Failed(_as_told(error))
        error.retry_after_s = retry_after_s(exchange.headers, now_s=time.time())
        raise Failed(error, prepared=prepared, body=body, headers=exchange.headers)

    async def _whole(self, permit: Permit, prepared: Prepared, exchange: Exchange) -> Reply:
        body = await read_whole(exchange)
        answer = prepared.relay.whole(body)
        if prepared.relay.failure is not None:
            raise Failed(_as_told(prepared.relay.failure))
        if prepared.stream and prepared.translated:
            raise UpstreamInvalid("the provider was asked for a stream and answered with something else")
        permit.complete = True
        return whole_reply(permit, prepared, exchange, answer)

    async def _first(self, relay: Relay, exchange: Exchange) -> Relayed:
        """Read up to the first semantic event, which commits the answer."""
        opening = b""
        while True:
            data = await exchange.receive()
            relayed = relay.feed(data) if data else relay.end()
            opening += relayed.data
            if relay.failure is not None:
                raise Failed(_as_told(relay.failure))
            if relayed.semantic or relay.terminal:
                return Relayed(opening, relayed.held, semantic=True)
            if not data:
                raise UpstreamTruncated("the provider's stream ended before it began")
            if len(opening) > MAX_OPENING_BYTES:
                raise UpstreamInvalid("the provider sends a stream without events of meaning")

    def _reply(self, permit: Permit, failed: Failed) -> Reply:
        if failed.prepared is not None and isinstance(failed.error, ProviderAnswered):
            return refusal_reply(permit, failed.error, failed.prepared, failed.body, failed.headers)
        return error_reply(permit, failed.error)


def _report(leave: Leave, error: SecureLLMError) -> None:
    """What a failed attempt says of the origin: a 4xx is an answer, a kept connection that was closed says nothing."""
    if isinstance(error, StaleConnection):
        leave.abandoned()
    elif isinstance(error, UpstreamAuth) or (isinstance(error, ProviderAnswered) and error.status < 500):
        leave.succeeded()
    else:
        leave.failed(error.code if not isinstance(error, ProviderAnswered) else f"http_{error.status}")


def _as_told(error: ProviderError) -> ProviderError:
    """What the caller is told of a provider's error: a refusal of our key is nothing that the caller could mend."""
    if isinstance(error, ProviderAnswered) and error.status in (401, 403):
        return UpstreamAuth(f"the provider refused the gateway's own credentials ({error.status})")
    return error


def _may_retry(error: SecureLLMError) -> bool:
    if isinstance(error, ProviderAnswered):
        return error.status in RETRIED_STATUSES
    return isinstance(error, ConnectFailed)


def _another_may_answer(error: SecureLLMError) -> bool:
    """Another target may heal it: nothing was generated, or the fault is this target's alone."""
    return _may_retry(error) or isinstance(
        error,
        ConnectTimeout
        | CircuitOpen
        | LimitsUnavailable
        | UpstreamAuth
        | DestinationRefused
        | UpstreamInvalid
        | UpstreamTruncated
        | CallerError,
    )


def _is_stream(headers: Headers) -> bool:
    for name, value in headers:
        if name == b"content-type":
            return not value.lower().startswith(b"application/json")
    return True
