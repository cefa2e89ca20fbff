"""A request that was let in: what it asks for, who answers it, and what has happened to it so far.

A permit is made by `Gateway.admit` and ends with `Gateway.settle`. It is the only mutable thing that a request has,
and only the task that serves the request changes it; `interrupt` may be called from outside.
"""

from collections.abc import Callable

import msgspec
import trio

from securellm.audit.bodies import Bodies
from securellm.chat import Attempt, Call, Caller, Meter, Receipt
from securellm.errors import SecureLLMError
from securellm.holdings import Holdings
from securellm.ledger import Page
from securellm.routing import Route, Target
from securellm.wire.body import Peeked


class OpenAttempt(msgspec.Struct, eq=False):
    """One provider being asked."""

    number: int
    provider: str
    model: str
    started_s: float
    meter: Meter
    http_status: int | None = None
    upstream_request_id: str | None = None

    def closed(self, now_s: float, error_code: str | None) -> Attempt:
        """The attempt as the audit keeps it."""
        duration_ms = (now_s - self.started_s) * 1000
        return Attempt(
            self.number,
            self.provider,
            self.model,
            self.http_status,
            error_code,
            duration_ms,
            self.meter.usage,
            self.upstream_request_id,
        )


class Permit:
    """See the module. `deadline_s` is on Trio's clock and covers every attempt."""

    def __init__(
        self,
        call: Call,
        caller: Caller,
        peeked: Peeked,
        body: bytes,
        route: Route,
        holdings: Holdings,
        page: Page,
        bodies: Bodies,
        deadline_s: float,
    ) -> None:
        self.call = call
        self.request_id = call.request_id
        self.endpoint = call.endpoint
        self.caller = caller
        self.peeked = peeked
        self.body = body
        self.route = route
        self.holdings = holdings
        self.page = page
        self.bodies = bodies
        self.deadline_s = deadline_s
        self.attempts: list[Attempt] = []
        for passed in route.passed_over:
            self.skip(passed.target, passed.reason)
        self.answered_by: Target | None = None  # the target asked last
        self.meter: Meter | None = None  # of its answer
        self.dropped: tuple[str, ...] = ()
        self.bytes_out = 0
        self.streamed = False  # the answer is a stream that has begun
        self.collected: bytearray | None = None  # the answer as the caller gets it, where it may be kept
        self.collects_bytes = 0  # beyond which it is too long to be kept
        self.first_token_s: float | None = None
        self.complete = False  # the provider's own terminal event, or a whole body, has been read
        self.receipt: Receipt | None = None
        self._current: OpenAttempt | None = None
        self._stop: Callable[[], object] | None = None  # ends what the request waits for
        self._interruption: SecureLLMError | None = None

    @property
    def epoch(self) -> str:
        """The configuration under which the request began."""
        return self.page.tariff.epoch

    @property
    def settled(self) -> bool:
        """`Gateway.settle` has been called."""
        return self.receipt is not None

    @property
    def asked(self) -> int:
        """How many attempts were really sent."""
        asked = 0 if self._current is None else 1
        if not self.attempts:
            return asked
        for attempt in self.attempts:
            asked += attempt.skipped is None
        return asked

    def open_attempt(self, target: Target, meter: Meter, now_s: float) -> OpenAttempt:
        """Note that a provider is about to be asked, now; `meter` will say what comes back."""
        self.answered_by = target
        self.meter = meter
        attempt = self._current = OpenAttempt(len(self.attempts) + 1, target.provider.name, target.model, now_s, meter)
        return attempt

    def close_attempt(self, error_code: str | None, now_s: float | None = None) -> None:
        """Note how the open attempt ended, now; without one, do nothing."""
        if self._current is not None:
            ended_s = trio.current_time() if now_s is None else now_s
            self.attempts.append(self._current.closed(ended_s, error_code))
            self._current = None

    def answered(self, data: bytes) -> None:
        """The next bytes of the answer, as the caller gets them."""
        self.bytes_out += len(data)
        self.bodies.answered(data)
        if self.collected is not None and len(self.collected) <= self.collects_bytes:
            self.collected += data

    @property
    def keeps_answer(self) -> bool:
        """Whether the bytes of the answer are wanted, and not only their number."""
        return self.collected is not None or self.bodies.records

    def skip(self, target: Target, reason: str) -> None:
        """Note that a target was passed over, and why."""
        self.attempts.append(
            Attempt(number=len(self.attempts) + 1, provider=target.provider.name, model=target.model, skipped=reason)
        )

    @property
    def interruption(self) -> SecureLLMError | None:
        """Why the request must end, when somebody has said so."""
        return self._interruption

    def interrupt(self, error: SecureLLMError) -> None:
        """End the request from outside: whatever it waits for from a provider ends with `error`."""
        self._interruption = error
        if self._stop is not None:
            self._stop()

    def waiting_for(self, stop: Callable[[], object] | None) -> None:
        """Register what `interrupt` calls to end a wait without a scope; whoever waits looks at `interruption`."""
        self._stop = stop

    def waiting_under(self, scope: trio.CancelScope) -> trio.CancelScope:
        """Register the scope that `interrupt` cancels; the caller enters it at once."""
        self._stop = scope.cancel
        if self._interruption is not None:
            scope.cancel()
        return scope


class OpenRequest(msgspec.Struct, frozen=True):
    """A request under way, for whoever asks what is being served. Nothing of its content."""

    request_id: str
    key_id: str | None
    user_id: str | None
    client_ip: str
    endpoint: str
    requested_model: str
    provider: str | None  # that is being asked
    model: str | None
    stream: bool
    attempts: int
    age_s: float
    bytes_in: int
    bytes_out: int
    config_epoch: str


def open_request(permit: Permit) -> OpenRequest:
    """A permit as it is shown."""
    call, target = permit.call, permit.answered_by
    return OpenRequest(
        request_id=permit.request_id,
        key_id=permit.caller.key_id,
        user_id=permit.caller.user_id,
        client_ip=call.client_ip,
        endpoint=call.endpoint.value,
        requested_model=permit.peeked.model,
        provider=target.provider.name if target is not None else None,
        model=target.model if target is not None else None,
        stream=permit.peeked.stream,
        attempts=permit.asked,
        age_s=round(trio.current_time() - call.started_s, 3),
        bytes_in=len(permit.body),
        bytes_out=permit.bytes_out,
        config_epoch=permit.epoch,
    )
