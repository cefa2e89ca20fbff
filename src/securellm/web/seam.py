"""What the edge needs of the running gateway. `securellm.runtime.Runtime` is the real one; tests have a smaller one."""

from types import TracebackType
from typing import Any, Protocol, Self

from securellm.chat import Call, Caller, Headers, Outcome, Receipt
from securellm.config import Config


class Permit(Protocol):
    """A request that was let in."""

    @property
    def settled(self) -> bool:
        """`settle` was called for it."""


class Pulled(Protocol):
    """What one wait for the provider brought."""

    @property
    def data(self) -> bytes:
        """To the caller now."""

    @property
    def held(self) -> bytes:
        """To the caller once the outcome is durable."""

    @property
    def last(self) -> bool:
        """There is nothing more to pull."""

    @property
    def abort(self) -> bool:
        """The stream was cut: end the connection without the closing chunk."""


class Upstream(Protocol):
    """An answer that has begun; closing it closes the provider's connection at once."""

    @property
    def status(self) -> int:
        """The HTTP status for the caller."""

    @property
    def headers(self) -> Headers:
        """Every header for the caller, except those of the framing."""

    @property
    def outcome(self) -> Outcome:
        """How it ended; known once `pull` has returned the last piece."""

    async def pull(self) -> Pulled:
        """Wait for more. Raises nothing but Cancelled."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...


class Gateway(Protocol):
    """The nine steps, as the edge sees them."""

    @property
    def stopping(self) -> bool:
        """No new requests are let in."""

    def identify(self, headers: Headers) -> Caller:
        """Whose key is it. Raises InvalidKey or StoreUnavailable."""

    def authenticate(self, headers: Headers, client_ip: str, *, anonymous: bool = True) -> Caller:
        """As `identify`; a refusal is noted as a security event. `anonymous` is False where a key is always needed."""

    async def record(self, call: Call, caller: Caller, act: Any) -> Any:
        """Do what an operator asks for, between its two records."""

    async def admit(self, call: Call) -> Any:
        """A Permit, or the Answer that refuses."""

    async def ask(self, permit: Any) -> Any:
        """An Upstream, or the Answer that is complete."""

    async def finish(self, permit: Any, upstream: Any, pulled: Any) -> Any:
        """Settle a stream after its last piece; the piece as it may be sent, once its record is durable."""

    def settle(self, permit: Any, outcome: Outcome) -> Receipt:
        """Close the books of a request, exactly once; never waits."""

    def stop_accepting(self) -> None:
        """Refuse new requests from now on."""

    def end_streams(self) -> None:
        """End every open request with an error in the caller's dialect."""


class Runtime(Protocol):
    """Everything long-lived that the edge shows or uses."""

    @property
    def config(self) -> Config:
        """The configuration now in force."""

    @property
    def gateway(self) -> Any:
        """A Gateway."""

    @property
    def catalogue(self) -> Any:
        """Has `models()`: the list of what can be asked for."""

    @property
    def providers(self) -> Any:
        """The enabled providers by name."""

    @property
    def origins(self) -> Any:
        """`of(provider).statistics()` has its breaker's state."""

    @property
    def accounts(self) -> Any:
        """`statistics()` tells how fresh the snapshot of the keys is."""

    @property
    def store(self) -> Any:
        """The store of accounts, for administration."""

    @property
    def limiter(self) -> Any:
        """The limits in force: `demands` and `would_allow`."""

    @property
    def budgets(self) -> Any:
        """`spent` has the figures of budgets."""

    @property
    def redis(self) -> Any:
        """How Redis is; None when it is not used."""

    @property
    def under_way(self) -> Any:
        """A `under_way.UnderWay`."""

    @property
    def started_s(self) -> float:
        """When it was ready, on time.monotonic()'s clock."""

    async def expose_metrics(self) -> bytes:
        """What all workers counted, as Prometheus reads it."""

    async def workers(self) -> Any:
        """How every worker is, by slot."""

    async def prepare(self, config: Config) -> Any:
        """Make everything that another configuration needs. Raises SecureLLMError."""

    async def give_up(self, prepared: Any) -> None:
        """Close what was prepared and is not wanted."""

    def commit(self, prepared: Any) -> None:
        """Put it in force."""

    @property
    def ledger(self) -> Any:
        """Has `event`, for what happens to the whole."""

    async def sync_models(self) -> Any:
        """Ask every provider for its models, update the catalogue, and tell what came of it."""
