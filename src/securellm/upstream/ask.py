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
from typing import NamedTuple

import trio

from securellm.chat import Endpoint, Receipt, Relay, Relayed
from securellm.config.tree import Audit, Heartbeat, Timeouts
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
from securellm.providers.base import Provider
from securellm.providers.request import AnswerHead, read_answer_head
from securellm.routing import Target
from securellm.telemetry.faults import describe_fault
from securellm.upstream.body import read_refusal, read_whole
from securellm.upstream.breaker import Refused
from securellm.upstream.client import (
    Client,
    Clients,
    CutOff,
    Exchange,
    StaleConnection,
    TimedClient,
)
from securellm.upstream.heads import answer_headers, retry_after_s
from securellm.upstream.origins import Leave, Origin, Origins
from securellm.upstream.prepare import Heads, Prepared, prepare
from securellm.upstream.reply import Reply, error_reply, refusal_reply, whole_reply
from securellm.upstream.retry import RETRIED_STATUSES, wait_before_retry_s
from securellm.upstream.stream import Upstream
from securellm.wire.envelope import parse_error

_log = logging.getLogger("securellm.upstream")

MAX_OPENING_BYTES = 1024 * 1024  # pings and comments before the first semantic event; more is no stream


NOT_ASKED = (CircuitOpen, RateLimited, OverCapacity, LimitsUnavailable)  # says less than why an earlier one failed


class Failed(Exception):
    """One target did not answer. `body` and `head` are there when the provider said why.

    `prepared` is there then, too, and when the same may be sent once more over another connection.
    """

    def __init__(
        self,
        error: SecureLLMError,
        *,
        prepared: Prepared | None = None,
        body: bytes = b"",
        head: AnswerHead | None = None,
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.prepared = prepared
        self.body = body
        self.head = head


class Ended(Exception):
    """The request is over, whoever else could be asked: its time has passed, or it was interrupted."""


class Way(NamedTuple):
    """What leads to one provider. `timed` is its client where that keeps the time itself."""

    provider: Provider
    origin: Origin
    client: Client
    timed: TimedClient | None


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
        *,
        commit_timeout_s: float = Audit().commit_timeout_s,
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
        self._longest_commit_s = 2 * commit_timeout_s  # well beyond what the log's own timer lets anybody wait
        self._heads = Heads()
        self._ways: dict[str, Way] = {}  # by the provider's name

    async def ask(self, permit: Permit) -> Upstream | Reply:
        """An answer that has begun, or a complete one. Raises nothing but Cancelled."""
        try:
            try:
                return await self._attempt(permit, permit.route.targets[0])  # which is all that most requests need
            except Failed as failed:
                return await self._ask_targets(permit, failed)
        except Failed as failed:
            permit.close_attempt(failed.error.code)
            return self._reply(permit, failed)
        except Ended:
            error = permit.interruption or TotalTimeout("the time for the whole request (timeouts.total_s) passed")
            permit.close_attempt(error.code)
            return error_reply(permit, error)
        except Exception as defect:  # ours; the books and the caller hear of it like of any other failure
            _log.error("asking for request %s failed: %s", permit.request_id, describe_fault(defect))
            permit.close_attempt(InternalError.code)
            return error_reply(permit, InternalError("internal error; the log has it under the request's id"))

    async def _ask_targets(self, permit: Permit, first: Failed) -> Upstream | Reply:
        """Go on after `first`, which is how the first attempt at the first target failed."""
        made: Failed | None = first
        worst: Failed | None = None
        *earlier, last = permit.route.targets
        for target in earlier:
            try:
                return await self._ask_once(permit, target, made)
            except Failed as failed:
                if not _another_may_answer(failed.error):
                    raise
                made, worst = None, failed
                permit.close_attempt(failed.error.code)
        try:
            return await self._ask_again(permit, last, made)
        except Failed as failed:
            # That the last one was passed over explains less than why an earlier one failed.
            if worst is not None and isinstance(failed.error, (*NOT_ASKED, CallerError)):
                raise worst from failed
            raise

    async def _ask_again(self, permit: Permit, target: Target, made: Failed | None) -> Upstream | Reply:
        """Ask, and retry within the limits; raises the last failure of the provider itself."""
        failure: Failed | None = None
        for retry in range(target.provider.max_retries + 1):
            if failure is not None:
                wait_s = self._wait_s(permit, target, failure, retry)
                if wait_s is None:
                    raise failure
                permit.close_attempt(failure.error.code)
                with permit.waiting_under(trio.CancelScope()) as scope:
                    await trio.sleep(wait_s)
                if scope.cancelled_caught:
                    raise Ended
            try:
                return await self._ask_once(permit, target, made)
            except Failed as failed:
                if isinstance(failed.error, NOT_ASKED) and failure is not None:
                    raise failure from failed
                if not _may_retry(failed.error):
                    raise
                made, failure = None, failed
        assert failure is not None
        raise failure

    def _wait_s(self, permit: Permit, target: Target, failure: Failed, retry: int) -> float | None:
        wait_s = wait_before_retry_s(retry, spread=self._spread(), retry_after_s=failure.error.retry_after_s)
        if wait_s is None or trio.current_time() + wait_s >= permit.deadline_s:
            return None
        return wait_s if self._origins.of(target.provider).retries.take() else None

    async def _ask_once(self, permit: Permit, target: Target, made: Failed | None) -> Upstream | Reply:
        """One attempt, which may be `made` already, and another one where that met a connection that was closed."""
        try:
            if made is not None:
                raise made
            return await self._attempt(permit, target)
        except Failed as failed:
            if not isinstance(failed.error, StaleConnection):
                raise
            permit.close_attempt("stale_connection")
            prepared = failed.prepared
        return await self._attempt(permit, target, prepared)

    async def _attempt(self, permit: Permit, target: Target, prepared: Prepared | None = None) -> Upstream | Reply:
        """Everything from the breaker's leave to the commit point. Every wait in here ends when the request does."""
        if prepared is None:
            try:
                prepared = prepare(permit, target, self._max_output, self._heads)
            except CallerError as error:
                permit.skip(target, error.code)
                raise Failed(error) from error
        way = self._ways.get(target.provider.name) or self._find_way(target.provider)
        now_s = trio.current_time()
        leave = way.origin.ask_leave(now_s)
        if isinstance(leave, Refused):
            permit.skip(target, "circuit_open")
            raise Failed(
                CircuitOpen(
                    f"provider {target.provider.name} is failing and is left alone for now",
                    retry_after_s=leave.retry_after_s,
                )
            )
        try:
            if not permit.holdings.take_provider(target):
                await self._ask_limits(permit, target, leave)
                now_s = trio.current_time()
            attempt = permit.open_attempt(target, prepared.relay.meter, now_s)
            receipt = permit.page.asking(target, attempt.number)
            if permit.deadline_s - now_s > self._longest_commit_s:
                permit.waiting_for(receipt.let_go)
                await receipt.durable()
            else:
                await self._durable_in_time(permit, receipt)
            if permit.interruption is not None:
                raise Ended
            return await self._exchange(permit, prepared, attempt, way, leave)
        except AuditUnavailable as error:
            if permit.interruption is not None:
                raise Ended from error  # it was let go
            raise Failed(error) from error
        except Failed as failed:
            _report(leave, failed.error)
            raise
        except ProviderError as error:
            _report(leave, error)
            raise Failed(error, prepared=prepared if isinstance(error, StaleConnection) else None) from error
        finally:
            if not leave.said:
                leave.abandoned()  # nothing was learnt

    async def _ask_limits(self, permit: Permit, target: Target, leave: Leave) -> None:
        """Return when the provider's limits let the request through, 50 ms from now at most."""
        try:
            refusal: SecureLLMError | None = await permit.holdings.ask_provider(target)
        except LimitsUnavailable as error:
            refusal = error
        if refusal is not None:
            leave.abandoned()
            if permit.interruption is not None:
                raise Ended
            permit.skip(target, refusal.code)
            raise Failed(refusal)

    def _find_way(self, provider: Provider) -> Way:
        client = self._clients.client_of(provider)
        timed = client if isinstance(client, TimedClient) else None
        way = self._ways[provider.name] = Way(provider, self._origins.of(provider), client, timed)
        return way

    async def _durable_in_time(self, permit: Permit, receipt: Receipt) -> None:
        """Where the request's time may pass before the record is on disk."""
        with permit.waiting_under(trio.CancelScope(deadline=permit.deadline_s)) as scope:
            await receipt.durable()
        if scope.cancel_called:  # even where there was nothing to wait for
            raise Ended

    async def _exchange(
        self, permit: Permit, prepared: Prepared, attempt: OpenAttempt, way: Way, leave: Leave
    ) -> Upstream | Reply:
        """Send the request and read up to the commit point, while there is time."""
        timeout_s = way.provider.timeout_s
        cap_s = token_s = math.inf  # when the provider's own time is over, and that for the first token
        if timeout_s is not None or prepared.stream:
            now_s = trio.current_time()
            if timeout_s is not None:
                cap_s = now_s + timeout_s
            if prepared.stream:
                token_s = now_s + self._timeouts.first_token_s
        due_s = min(permit.deadline_s, cap_s, token_s)
        request = prepared.request(attempt.number)
        timed = way.timed.begin(request, due_s=due_s) if way.timed is not None else None
        answer: Upstream | Reply | None = None
        if timed is not None:
            permit.waiting_for(timed.stop)
            try:
                await timed.read_head()
                head = _read_head(timed, attempt, leave)
                if timed.whole and timed.status < 300 and (not prepared.stream or not _is_stream(head)):
                    answer = self._whole(permit, prepared, timed.status, head, timed.whole)
                    leave.succeeded()
                else:
                    answer = await self._converse(permit, prepared, way, leave, cap_s, timed, head)
                    if isinstance(answer, Upstream):
                        timed.keep_no_time()
                        permit.waiting_for(None)
                return answer
            except CutOff:
                pass
            finally:
                if not isinstance(answer, Upstream):
                    timed.close()
        else:
            with permit.waiting_under(trio.CancelScope(deadline=due_s)):
                exchange = await way.client.send(request, connect_s=self._timeouts.connect_s)
                try:
                    head = _read_head(exchange, attempt, leave)
                    answer = await self._converse(permit, prepared, way, leave, cap_s, exchange, head)
                    return answer
                finally:
                    if not isinstance(answer, Upstream):
                        await exchange.aclose()  # closes under a shield of its own, in bounded time
        if permit.interruption is not None or permit.deadline_s <= due_s:
            raise Ended
        if cap_s < token_s:
            raise TotalTimeout(f"provider {way.provider.name} took longer than its timeout_secs")
        raise FirstTokenTimeout(f"no first token within {self._timeouts.first_token_s:g} s (timeouts.first_token_s)")

    async def _converse(
        self,
        permit: Permit,
        prepared: Prepared,
        way: Way,
        leave: Leave,
        cap_s: float,
        exchange: Exchange,
        head: AnswerHead,
    ) -> Upstream | Reply:
        """Read up to the commit point; `cap_s` is when the provider's own time is over."""
        status = exchange.status
        if status >= 300:
            await self._refused(prepared, exchange, head)
        if not prepared.stream or not _is_stream(head):
            reply = self._whole(permit, prepared, status, head, await read_whole(exchange))
            leave.succeeded()
            return reply
        first = await self._first(prepared.relay, exchange)
        now_s = permit.first_token_s = trio.current_time()
        leave.succeeded()
        return Upstream(
            permit,
            exchange,
            prepared.relay,
            first,
            status=status,
            headers=answer_headers(permit, head, stream=True, translated=prepared.translated),
            origin=way.origin,
            idle_s=self._timeouts.idle_s,
            now_s=now_s,
            deadline_s=min(permit.deadline_s, cap_s),
            deadline_from="timeouts.total_s" if permit.deadline_s <= cap_s else "the provider's timeout_secs",
            heartbeat_s=self._heartbeats_s.get(permit.endpoint, 0.0),
        )

    async def _refused(self, prepared: Prepared, exchange: Exchange, head: AnswerHead) -> None:
        """The provider answered with something else than success: raise what it means."""
        status = exchange.status
        if status < 400:
            raise UpstreamInvalid(f"the provider answered with a redirect ({status}); redirects are not followed")
        body = await read_refusal(exchange)
        error = parse_error(prepared.dialect, status, body)
        if status in (401, 403):
            raise Failed(_as_told(error))
        error.retry_after_s = retry_after_s(exchange.headers, now_s=time.time())
        raise Failed(error, prepared=prepared, body=body, head=head)

    def _whole(self, permit: Permit, prepared: Prepared, status: int, head: AnswerHead, body: bytes) -> Reply:
        answer = prepared.relay.whole(body)
        if prepared.relay.failure is not None:
            raise Failed(_as_told(prepared.relay.failure))
        if prepared.stream and prepared.translated:
            raise UpstreamInvalid("the provider was asked for a stream and answered with something else")
        permit.complete = True
        return whole_reply(permit, prepared, status, head, answer)

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
        if failed.prepared is not None and failed.head is not None and isinstance(failed.error, ProviderAnswered):
            return refusal_reply(permit, failed.error, failed.prepared, failed.body, failed.head)
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


def _read_head(exchange: Exchange, attempt: OpenAttempt, leave: Leave) -> AnswerHead:
    """The head of an answer is there: note what it says."""
    leave.answered(trio.current_time())
    attempt.http_status = exchange.status
    head = read_answer_head(exchange.headers)
    attempt.upstream_request_id = head.request_id
    return head


def _is_stream(head: AnswerHead) -> bool:
    return head.content_type is None or not head.content_type.lower().startswith(b"application/json")
