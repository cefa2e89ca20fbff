"""A small gateway-shaped thing of our own, so that the edge and the server can be driven without any provider.

It is scripted: `script` makes the answers. It keeps the permits, and a log of what happened, in order.
"""

import contextlib
import contextvars
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, NamedTuple

import msgspec
import trio

from securellm.chat import Answer, Call, Caller, Headers, KeyId, Outcome, Status
from securellm.config import Config
from securellm.config.tree import Drain, Server
from securellm.errors import InvalidKey, PayloadTooLarge, SecureLLMError, ShuttingDown, SlowBody
from securellm.gateway import GatewayStatistics
from securellm.ledger import LedgerStatistics
from securellm.limits.in_flight import InFlightBytes
from securellm.providers.models import ModelCard
from securellm.runtime import WorkerStatus
from securellm.server import bind_sockets, open_lane, serve
from securellm.telemetry.metrics import Metrics
from securellm.upstream.breaker import BreakerState
from securellm.web.refusals import refusal

GOOD_KEY = "good"
OPERATOR_KEY = "operator"


class Pulled(NamedTuple):
    """As the gateway's."""

    data: bytes
    held: bytes = b""
    last: bool = False
    abort: bool = False


class Log:
    """What happened, in order; somebody may wait for an entry."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        self._changed = trio.Event()

    def append(self, entry: str) -> None:
        self.entries.append(entry)
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, entry: str) -> None:
        """Wait until it is there."""
        while entry not in self.entries:
            await self._changed.wait()


class Permit:
    """One request that was let in."""

    def __init__(self, call: Call, body: bytes) -> None:
        self.call = call
        self.body = body
        self.outcome: Outcome | None = None
        self.interrupted = trio.Event()

    @property
    def settled(self) -> bool:
        return self.outcome is not None


class Upstream:
    """A scripted stream: `pieces` are pulled in order, `wait` runs before each."""

    def __init__(
        self,
        log: Log,
        pieces: list[Pulled],
        wait: Callable[[int], Awaitable[None]] | None = None,
        permit: Permit | None = None,
    ) -> None:
        self.status = 200
        self.headers: Headers = [(b"content-type", b"text/event-stream"), (b"x-request-id", b"from-the-gateway")]
        self.outcome = Outcome(Status.SUCCESS, 200)
        self.exchange = None  # every piece is pulled
        self.closed = trio.Event()
        self._log = log
        self._pieces = list(pieces)
        self._wait = wait
        self._permit = permit
        self._pulls = 0

    async def __aenter__(self) -> "Upstream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.append("closed")
        self.closed.set()

    async def pull(self) -> Pulled:
        await trio.lowlevel.checkpoint()
        if self._permit is not None and self._permit.interrupted.is_set():
            return self._cut()
        if self._wait is not None:
            async with trio.open_nursery() as nursery:
                if self._permit is not None:
                    nursery.start_soon(self._cancel_when_interrupted, nursery.cancel_scope)
                await self._wait(self._pulls)
                nursery.cancel_scope.cancel()
            if self._permit is not None and self._permit.interrupted.is_set():
                return self._cut()
        self._pulls += 1
        return self._pieces.pop(0)

    async def _cancel_when_interrupted(self, scope: trio.CancelScope) -> None:
        assert self._permit is not None
        await self._permit.interrupted.wait()
        scope.cancel()

    def _cut(self) -> Pulled:
        self.outcome = Outcome(Status.SHUTDOWN, 200, ShuttingDown.code)
        return Pulled(b"", b'data: {"error":{"code":"shutting_down"}}\n\n', last=True, abort=True)


Script = Callable[["EdgeGateway", Permit], Awaitable[Any]]


class EdgeGateway:
    """Has the methods of the gateway that the edge calls."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.log = Log()
        self.permits: list[Permit] = []
        self.stopping = False
        self.script: Script = echo
        self.body_asked = trio.Event()

    def identify(self, headers: Headers) -> Caller:
        keys = [value for name, value in headers if name == b"authorization"]
        if keys == [b"Bearer " + OPERATOR_KEY.encode()]:
            return Caller(KeyId("operator"), None, role="operator")
        if keys == [b"Bearer " + GOOD_KEY.encode()]:
            return Caller(KeyId("good"), None)
        raise InvalidKey("no valid key")

    def authenticate(self, headers: Headers, client_ip: str, *, anonymous: bool = True) -> Caller:
        return self.identify(headers)

    async def record(self, call: Call, caller: Caller, act: Callable[[], Awaitable[Any]]) -> Any:
        return await act()

    async def admit(self, call: Call) -> Permit | Answer:
        try:
            if self.stopping:
                raise ShuttingDown("stopping")
            self.identify(call.headers)
            body = await self._read(call)
        except SecureLLMError as error:
            self.log.append(f"refused {error.code}")
            return self.refuse(call, error)
        except BaseException:
            self.log.append("refused cancelled")
            raise
        permit = Permit(call, body)
        self.permits.append(permit)
        self.log.append("admitted")
        return permit

    async def ask(self, permit: Permit) -> Upstream | Answer:
        return await self.script(self, permit)

    async def finish(self, permit: Permit, upstream: Upstream, pulled: Pulled) -> Pulled:
        self.settle(permit, upstream.outcome)
        await trio.lowlevel.checkpoint()
        self.log.append("durable")
        return pulled

    def settle(self, permit: Permit, outcome: Outcome) -> None:
        assert permit.outcome is None, "settled twice"
        permit.outcome = outcome
        self.log.append(f"settled {outcome.status.value}")

    def whole(self, permit: Permit, body: bytes, status: int = 200) -> Answer:
        self.settle(permit, Outcome(Status.SUCCESS, status))
        headers: Headers = [(b"content-type", b"application/json"), (b"x-request-id", b"from-the-gateway")]
        return Answer(status, headers, body)

    def refuse(self, call: Call, error: SecureLLMError) -> Answer:
        answer = refusal(call.target, call.headers, error, call.request_id)
        return Answer(answer.status, answer.headers, answer.body)

    def statistics(self) -> GatewayStatistics:
        in_flight = InFlightBytes(0).statistics()
        return GatewayStatistics(len(self.permits), in_flight, LedgerStatistics(0, 0, None))

    def stop_accepting(self) -> None:
        self.stopping = True
        self.log.append("stop accepting")

    def end_streams(self) -> None:
        self.log.append("end streams")
        for permit in self.permits:
            permit.interrupted.set()

    async def _read(self, call: Call) -> bytes:
        server = self.config.server
        body = b""
        if (call.body.length or 0) > server.max_request_size_bytes:
            raise PayloadTooLarge("too large")
        self.body_asked.set()
        while True:
            with trio.move_on_after(server.body_idle_timeout_s) as scope:
                piece = await call.body.receive()
            if scope.cancelled_caught:
                raise SlowBody("too slow")
            if not piece:
                return body
            body += piece
            if len(body) > server.max_request_size_bytes:
                raise PayloadTooLarge("too large")


async def echo(gateway: EdgeGateway, permit: Permit) -> Answer:
    """Answer with the request's body."""
    return gateway.whole(permit, permit.body)


def streaming(*pieces: Pulled, wait: Callable[[int], Awaitable[None]] | None = None) -> Script:
    """Answer with a scripted stream."""

    async def script(gateway: EdgeGateway, permit: Permit) -> Upstream:
        return Upstream(gateway.log, list(pieces), wait, permit)

    return script


class _Models:
    def __init__(self) -> None:
        self.cards = [ModelCard("openai", "gpt-4o"), ModelCard("openrouter", "meta/llama-3:8b", context=8192)]

    def models(self) -> list[ModelCard]:
        return self.cards

    def find(self, model_id: str) -> ModelCard | None:
        return next((card for card in self.cards if card.id == model_id), None)


class _Figures(msgspec.Struct, frozen=True):
    state: BreakerState = BreakerState.CLOSED
    latency_ms: float | None = 12.5
    last_error: str | None = None
    fresh: bool = True
    error: str | None = None


class _Origins:
    def __init__(self) -> None:
        self.figures = _Figures()

    def of(self, provider: object) -> "_Origins":
        return self

    def statistics(self) -> _Figures:
        return self.figures


class EdgeLedger:
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def event(self, action: str, *, client_ip: str | None = None, detail: dict[str, str | int] | None = None) -> None:
        self.events.append(action)


class EdgeRuntime:
    """Has the attributes of the runtime that the edge reads."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.gateway = EdgeGateway(config)
        self.catalogue = _Models()
        self.providers: dict[str, object] = {"openai": object()}
        self.origins = _Origins()
        self.accounts = _Origins()
        self.ledger = EdgeLedger()
        self.redis = None
        self.store = None
        self.limiter = None
        self.budgets = None
        self.under_way = None
        self.refusal: SecureLLMError | None = None  # of the next configuration
        self.started_s = time.monotonic()
        self.synced = 0

    async def expose_metrics(self) -> bytes:
        return Metrics().expose()

    async def workers(self) -> list[WorkerStatus]:
        return [WorkerStatus(1, pid=os.getpid(), uptime_s=0, config_epoch="", open_requests=0)]

    async def prepare(self, config: Config) -> Config:
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        self.ledger.events.append("prepared")
        return config

    async def give_up(self, prepared: Config) -> None:
        self.ledger.events.append("given up")

    def commit(self, prepared: Config) -> None:
        self.config = prepared

    async def sync_models(self) -> list[dict[str, Any]]:
        self.synced += 1
        return [{"provider": "openai", "models": 2, "error": None}]


def edge_config(**server: Any) -> Config:
    """A configuration with scaled-down limits."""
    defaults: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "body_idle_timeout_s": 0.3, "head_timeout_s": 0.3}
    return Config(server=Server(**(defaults | server)), drain=Drain(term_s=5.0, interrupt_s=1.0))


lane_of_edges: contextvars.ContextVar[str] = contextvars.ContextVar("lane_of_edges", default="reference")
"""Which lane `open_edge` opens."""


class Running(NamedTuple):
    """A server that is up."""

    url: str
    runtime: EdgeRuntime
    stop: Callable[[int], None]  # sends this process a signal
    stopped: trio.Event

    @property
    def gateway(self) -> EdgeGateway:
        return self.runtime.gateway


@contextlib.asynccontextmanager
async def open_edge(config: Config | None = None) -> AsyncIterator[Running]:
    """The real server on a free port with the gateway of this module, in the lane that is set; cancelled at the end."""
    config = config or edge_config()
    runtime = EdgeRuntime(config)
    stopped = trio.Event()

    async def run(*, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
        await serve(runtime, sockets=bind_sockets(config), lane=open_lane(lane_of_edges.get()), task_status=task_status)
        stopped.set()

    async with trio.open_nursery() as nursery:
        urls = await nursery.start(run)
        yield Running(urls[0], runtime, lambda number: os.kill(os.getpid(), number), stopped)
        nursery.cancel_scope.cancel()
