"""An answer that is being relayed: pull what the provider sends, under the idle timer and the deadline for the whole.

A stream ends in exactly one of two ways: with the provider's own terminal or error event, or with an error event of
ours in the caller's dialect. Everything that may end it is turned into the second here, so that a lane only moves
bytes: it sends `data`, and on `last` it settles, waits for the record and then sends `held`.
"""

import logging
import math
from types import TracebackType
from typing import NamedTuple

import trio

from securellm._fast import sse
from securellm.chat import Headers, Outcome, Relay, Relayed, Status
from securellm.errors import (
    BudgetExceeded,
    IdleTimeout,
    InternalError,
    ProviderError,
    RequestCancelled,
    SecureLLMError,
    ShuttingDown,
    TotalTimeout,
    UpstreamTimeout,
    UpstreamTruncated,
)
from securellm.permit import Permit
from securellm.telemetry.faults import describe_fault
from securellm.upstream.client import Exchange
from securellm.upstream.origins import Origin
from securellm.upstream.pump import Pump
from securellm.wire.heartbeat import heartbeat
from securellm.wire.scan import ScanningRelay

_log = logging.getLogger("securellm.upstream")

TAIL_S = 0.25  # how long after the terminal event the end of the provider's body is waited for, to keep the connection


class Pulled(NamedTuple):
    """What the lane does next."""

    data: bytes  # send now
    held: bytes = b""  # send after the outcome is durable
    last: bool = False  # nothing follows
    abort: bool = False  # the stream was cut: close the connection without the final chunk


class Upstream:
    """A committed answer. `async with` closes the provider's connection on the way out."""

    def __init__(
        self,
        permit: Permit,
        exchange: Exchange,
        relay: Relay,
        first: Relayed,
        *,
        status: int,
        headers: Headers,
        origin: Origin,
        idle_s: float,
        now_s: float,
        deadline_s: float,
        deadline_from: str,
        heartbeat_s: float = 0.0,
    ) -> None:
        self.status = status
        self.headers = headers
        self.outcome = Outcome(Status.CANCELLED, status)  # until the last pull says otherwise
        self.permit = permit
        self._exchange = exchange
        self.meter = relay.meter
        self._relay = relay
        self._first: Relayed | None = first
        self._origin = origin
        self.idle_s = idle_s
        self._deadline_s = deadline_s
        self._deadline_from = deadline_from  # the setting that set it
        self.idle_deadline_s = now_s + idle_s
        self._heartbeat_s = heartbeat_s or math.inf
        self.most_output_bytes = permit.holdings.most_output_bytes
        self._pump = Pump(exchange) if heartbeat_s else None
        self._failure: Exception | None = None  # of `feed`

    async def __aenter__(self) -> "Upstream":
        if self._pump is not None:
            await self._pump.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._pump is not None:
                await self._pump.__aexit__(kind, value, traceback)
        finally:
            await self._exchange.aclose()  # under a shield of its own, in bounded time

    async def pull(self) -> Pulled:
        """The next bytes for the caller. Raises nothing but Cancelled."""
        try:
            relayed = await self._next()
            if relayed is None:
                relayed = self._relay.end()
            ended = self._relay.terminal or self._relay.failure is not None
            if not ended:
                return self._pulled(relayed.data)
            tail = await self._tail()
        except SecureLLMError as error:
            return self._cut(error)
        except Exception as defect:  # ours; the caller's stream still ends in an error event
            _log.error("relaying request %s failed: %s", self.permit.request_id, describe_fault(defect))
            return self._cut(InternalError("internal error; the log has it under the request's id"))
        failure = self._relay.failure
        if failure is None:
            self.permit.complete = True
            self.outcome = Outcome(Status.SUCCESS, self.status)
        else:
            self._origin.cut_short(failure.code)
            self.outcome = Outcome(Status.FAILED, self.status, failure.code, failure.recorded)
        return self._pulled(relayed.data, relayed.held + tail, last=True)

    @property
    def exchange(self) -> Exchange | None:
        """Whose body a lane may read itself and give to `feed`; None when heartbeats need every wait to be here."""
        return self._exchange if self._pump is None else None

    @property
    def plain_scanner(self) -> sse.StreamScanner | None:
        """What knows a read that only says more text: a lane may count it itself, as `feed` does, and pass it on.

        None where every read must be given to `feed`.
        """
        if not isinstance(self._relay, ScanningRelay) or self.permit.keeps_answer:
            return None
        return self._relay.scanner

    @property
    def due_s(self) -> float:
        """When `pull` must be called at the latest, on Trio's clock, unless `feed` moves it later."""
        return min(self.idle_deadline_s, self._deadline_s)

    def feed(self, data: bytes, now_s: float) -> bytes | None:
        """What bytes of the body that a lane has read become; None when only `pull` can say. Never waits."""
        relay = self._relay
        try:
            relayed = self._feed(data, now_s)
        except Exception as error:  # `pull` raises it
            self._failure = error
            return None
        if relay.terminal or relay.failure is not None:
            self._first = relayed
            return None
        self.permit.answered(relayed.data)
        return relayed.data

    def unrecorded(self, error: SecureLLMError) -> bytes:
        """The error event that stands in for the held bytes when their record is not durable."""
        return self._relay.fail(error)

    async def _next(self) -> Relayed | None:
        """What the next read becomes; None at the end of the provider's body."""
        if self._failure is not None:
            raise self._failure
        if self._first is not None:
            first, self._first = self._first, None
            return first
        deadline_s = min(self.idle_deadline_s, self._deadline_s)
        beat_s = trio.current_time() + self._heartbeat_s
        with self.permit.waiting_under(trio.CancelScope(deadline=min(deadline_s, beat_s))) as scope:
            data = await self._receive()
        if scope.cancelled_caught:
            if beat_s < deadline_s and self.permit.interruption is None:
                return Relayed(heartbeat(self.permit.endpoint.dialect))
            raise self._interruption()
        if not data:
            return None
        return self._feed(data, trio.current_time())

    def _feed(self, data: bytes, now_s: float) -> Relayed:
        relayed = self._relay.feed(data)
        if relayed.semantic:
            self.idle_deadline_s = now_s + self.idle_s
            if self._relay.meter.output_bytes > self.most_output_bytes:
                raise BudgetExceeded("the provider sends more than what was reserved of the budget for this answer")
        return relayed

    async def _receive(self) -> bytes:
        return await (self._pump or self._exchange).receive()

    async def _tail(self) -> bytes:
        """What follows the terminal event; waited for briefly, because nobody needs it."""
        tail = b""
        with trio.move_on_after(TAIL_S):
            try:
                while data := await self._receive():
                    relayed = self._relay.feed(data)
                    tail += relayed.data + relayed.held
            except SecureLLMError:
                pass  # the answer is complete; a connection that breaks after it takes nothing away
        return tail

    def _interruption(self) -> SecureLLMError:
        if self.permit.interruption is not None:
            return self.permit.interruption
        if self._deadline_s <= self.idle_deadline_s:
            return TotalTimeout(f"the time for the whole request ({self._deadline_from}) passed amid the answer")
        return IdleTimeout(f"the provider sent nothing of meaning for {self.idle_s:g} s (timeouts.idle_s)")

    def _cut(self, error: SecureLLMError) -> Pulled:
        if isinstance(error, ProviderError):
            self._origin.cut_short(error.code)
        self.outcome = Outcome(status_of(error), self.status, error.code, error.recorded)
        return self._pulled(b"", self._relay.fail(error), last=True, abort=True)

    def _pulled(self, data: bytes, held: bytes = b"", *, last: bool = False, abort: bool = False) -> Pulled:
        self.permit.answered(data)
        self.permit.answered(held)
        return Pulled(data, held, last, abort)


def status_of(error: SecureLLMError) -> Status:
    """The audit's word for a request that ended with that error after it was let in."""
    if isinstance(error, UpstreamTruncated):
        return Status.TRUNCATED
    if isinstance(error, UpstreamTimeout):
        return Status.TIMEOUT
    if isinstance(error, ShuttingDown):
        return Status.SHUTDOWN
    if isinstance(error, RequestCancelled):
        return Status.CANCELLED
    return Status.RATE_LIMITED if error.status == 429 else Status.FAILED
