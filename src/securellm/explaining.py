"""What the gateway would do with a request, told without doing it: nobody is asked, and nothing is taken or kept.

Every step is made by the code that serves, in the order of `Gateway.admit`; what it refuses is told where it would be.
What other requests have taken meanwhile is not known here: of limits the quotas are told, of budgets what the store
says is left, and every provider counts as well.
"""

import time
from collections.abc import Sequence

import msgspec

from securellm.accounts.authority import check_caller
from securellm.accounts.bounds import Budget
from securellm.accounts.leases import Spending
from securellm.accounts.snapshot import Accounts
from securellm.audit.bodies import BodyRecorder
from securellm.candidates import candidates_of, ceilings_of, check_other_models, most_of, other_models_of
from securellm.chat import Call, Caller, Endpoint, Headers, RequestId
from securellm.config import Config
from securellm.errors import CallerError, SecureLLMError
from securellm.holdings import Most
from securellm.intake import (
    check_head,
    estimate_use_tokens,
    is_large,
    peek_apart,
    read_body,
    read_head,
    weigh_body,
)
from securellm.limits.in_flight import InFlightBytes
from securellm.limits.limiter import Limiter
from securellm.limits.process import ProcessStore
from securellm.limits.quota import Measure, Scope
from securellm.pricing.price import Price
from securellm.pricing.table import PriceTable
from securellm.providers.base import Provider, UpstreamRequest
from securellm.providers.registry import describe_providers
from securellm.providers.shipped import load_shipped
from securellm.routing import Catalogue, Route, Target
from securellm.serving import Serving
from securellm.upstream.clients import UpstreamClients
from securellm.upstream.origins import Origins
from securellm.upstream.prepare import Heads, prepare
from securellm.wire.body import Peeked, peek, splice

REQUEST_ID = RequestId("<request-id>")  # where the request's own id would stand
HIDDEN = "***"


class Refusal(msgspec.Struct, frozen=True):
    """What a caller would be told."""

    status: int
    code: str
    message: str
    param: str | None


class Limit(msgspec.Struct, frozen=True):
    """One bucket that the request takes from, and how much."""

    scope: str
    subject: str
    measure: str
    limit: int
    period_s: float
    burst: int
    takes: int


class Reserved(msgspec.Struct, frozen=True):
    """What would be reserved of each budget, and the output that this allows for."""

    cost_nusd: int
    tokens: int
    output_tokens: int


class BudgetLeft(msgspec.Struct, frozen=True):
    """One budget that the reservation must fit in."""

    id: str
    limit_nusd: int | None
    limit_tokens: int | None
    left_nusd: int | None
    left_tokens: int | None
    window_end_s: int
    fits: bool


class ProviderRequest(msgspec.Struct, frozen=True):
    """What a provider would be sent; credentials are hidden."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: str
    dropped: tuple[str, ...]  # that this provider cannot be told


class Candidate(msgspec.Struct, frozen=True):
    """One target, in order. One that is passed over says why, and is not asked."""

    provider: str
    model: str
    price: Price | None = None
    passed_over: str | None = None
    refusal: Refusal | None = None  # of this target alone: the next one is asked
    request: ProviderRequest | None = None


class Explanation(msgspec.Struct, frozen=True):
    """All of it. With a `refusal`, what would have followed is not there."""

    endpoint: str
    model: str | None
    stream: bool
    caller: Caller
    refusal: Refusal | None
    limits: list[Limit]
    estimated_tokens: int | None
    reservation: Reserved | None
    budgets: list[BudgetLeft]
    candidates: list[Candidate]
    note: str | None
    config_epoch: str
    price_table: str


class _Body:
    """A body that is there already. Implements `chat.BodySource`."""

    def __init__(self, body: bytes) -> None:
        self._pieces = [body] if body else []
        self.length: int | None = len(body)

    def receive_nowait(self) -> bytes | None:
        return self._pieces.pop() if self._pieces else b""

    async def receive(self) -> bytes:
        return self._pieces.pop() if self._pieces else b""


class _Asking:
    """What `prepare` needs of a request."""

    def __init__(self, call: Call, peeked: Peeked, body: bytes) -> None:
        self.call = call
        self.peeked = peeked
        self.body = body
        self.dropped: tuple[str, ...] = ()

    @property
    def endpoint(self) -> Endpoint:
        return self.call.endpoint

    @property
    def request_id(self) -> RequestId:
        return self.call.request_id


def explaining_serving(config: Config, prices: PriceTable, accounts: Accounts) -> Serving:
    """What a configuration makes of the gateway, as far as it takes to explain: no client, no bodies, fresh counts."""
    providers = describe_providers(config)
    limiter = Limiter(config.rate_limit, ProcessStore(), accounts.rates, lambda: time.monotonic_ns() // 1000)
    return Serving(
        config,
        providers,
        Catalogue(config, providers, load_shipped()),
        prices,
        Origins(),
        UpstreamClients({}),
        BodyRecorder(config.audit, None),
        limiter,
    )


def call_of(endpoint: Endpoint, headers: Headers, body: bytes, client_ip: str) -> Call:
    """A request as a front door would hand it on."""
    return Call(endpoint, "/", headers, _Body(body), client_ip, REQUEST_ID, 0.0)


async def with_model(endpoint: Endpoint, body: bytes, model: str) -> bytes:
    """The body with another model. Raises BadRequest."""
    peeked = await peek_apart(endpoint, body) if is_large(body) else peek(endpoint, body)
    return splice(body, peeked, model=model)


async def explain(serving: Serving, caller: Caller, call: Call, spent: Sequence[Spending]) -> Explanation:
    """Explain a call; `spent` are the figures of the caller's budgets."""
    steps = _Steps(serving, caller, call, spent)
    refusal: Refusal | None = None
    try:
        await steps.walk()
    except SecureLLMError as error:
        refusal = _told(error)
    return Explanation(
        endpoint=call.endpoint.value,
        model=steps.peeked.model if steps.peeked is not None else None,
        stream=steps.peeked.stream if steps.peeked is not None else False,
        caller=caller,
        refusal=refusal,
        limits=steps.limits,
        estimated_tokens=steps.tokens,
        reservation=Reserved(*msgspec.structs.astuple(steps.most)) if steps.most is not None else None,
        budgets=steps.budgets,
        candidates=steps.candidates,
        note=steps.note,
        config_epoch=serving.config.epoch,
        price_table=serving.prices.sha256,
    )


class _Steps:
    """The steps of an admission, and what each has told so far."""

    def __init__(self, serving: Serving, caller: Caller, call: Call, spent: Sequence[Spending]) -> None:
        self._serving = serving
        self._caller = caller
        self._call = call
        self._spent = spent
        self.peeked: Peeked | None = None
        self.limits: list[Limit] = []
        self.tokens: int | None = None
        self.most: Most | None = None
        self.budgets: list[BudgetLeft] = []
        self.candidates: list[Candidate] = []
        self.note: str | None = None

    async def walk(self) -> None:
        """Raises what would refuse the request."""
        serving, call = self._serving, self._call
        check_head(read_head(call), call.headers)
        check_caller(self._caller, call.endpoint, call.client_ip)
        charge = InFlightBytes(serving.config.server.max_in_flight_bytes).open_charge()
        body = await read_body(call, charge, serving.config.server)
        peeked = self.peeked = await peek_apart(call.endpoint, body) if is_large(body) else peek(call.endpoint, body)
        route = candidates_of(serving, self._caller, call.endpoint, peeked.model, call.header(b"x-provider"))
        check_other_models(other_models_of(self._caller, route.targets), body)
        weight = peeked.weight or await weigh_body(call.endpoint, body)
        self.tokens = estimate_use_tokens(body, weight, peeked)
        self.limits = self._limits_of(route, self.tokens)
        self.most = most_of(call.endpoint, peeked, weight, ceilings_of(serving, route.targets))
        self.budgets = [_left(one, self.most) for one in self._spent]
        self.candidates = self._candidates_of(route, peeked, body)
        refusal = serving.limiter.would_allow(self._caller, route.targets[0].id, self.tokens)
        if refusal is not None:
            raise refusal

    def _limits_of(self, route: Route, tokens: int) -> list[Limit]:
        """Those of the caller and the first model, then those of each provider that may be asked."""
        found = {}
        for target in route.targets:
            for demand in self._serving.limiter.demands(self._caller, target.id):
                if target is route.targets[0] or demand.scope is Scope.PROVIDER:
                    found[demand.bucket] = demand
        return [
            Limit(
                scope=demand.scope.value,
                subject=demand.subject,
                measure=demand.measure.name.lower(),
                limit=demand.quota.limit,
                period_s=demand.quota.period_us / 1_000_000,
                burst=demand.quota.burst,
                takes=tokens if demand.measure is Measure.TOKENS else 1,
            )
            for demand in found.values()
        ]

    def _candidates_of(self, route: Route, peeked: Peeked, body: bytes) -> list[Candidate]:
        passed = [
            Candidate(one.target.provider.name, one.target.model, self._price(one.target), passed_over=one.reason)
            for one in route.passed_over
        ]
        asking = _Asking(self._call, peeked, body)
        endpoint = self._call.endpoint
        if not any(endpoint in target.provider.endpoints for target in route.targets):
            self.note = "no provider is asked: the gateway counts by itself"
            return [Candidate(one.provider.name, one.model, self._price(one)) for one in route.targets] + passed
        number = len(passed)  # of the attempt: those that are passed over are counted, too
        found = []
        for target in route.targets:
            number += 1
            found.append(self._candidate(asking, target, number))
        return found + passed

    def _candidate(self, asking: _Asking, target: Target, number: int) -> Candidate:
        candidate = Candidate(target.provider.name, target.model, self._price(target))
        try:
            prepared = prepare(asking, target, self._serving.catalogue.max_output, Heads())
        except CallerError as error:
            return msgspec.structs.replace(candidate, refusal=_told(error))
        request = prepared.request(number)
        shown = ProviderRequest(
            request.method,
            request.url,
            _shown_headers(target.provider, request),
            request.content.decode("utf-8"),
            asking.dropped,
        )
        return msgspec.structs.replace(candidate, request=shown)

    def _price(self, target: Target) -> Price | None:
        return self._serving.prices.find(target.provider.name, target.model)


def _shown_headers(provider: Provider, request: UpstreamRequest) -> list[tuple[str, str]]:
    headers = request.headers
    if not provider.is_demo:
        from securellm.upstream.httpx_client import wire_headers  # where only `demo` serves, httpx is not needed

        headers = wire_headers(request)
    credential = provider.auth.value.encode("ascii")
    return [
        (name.decode("ascii"), _hidden(value) if name == credential else value.decode("latin-1"))
        for name, value in headers
    ]


def _hidden(value: bytes) -> str:
    scheme, space, _ = value.partition(b" ")
    return f"{scheme.decode('ascii')} {HIDDEN}" if space else HIDDEN


def _left(figures: Spending, most: Most) -> BudgetLeft:
    budget: Budget = figures.budget
    left_nusd, left_tokens = figures.left_nusd, None
    if budget.limit_tokens is not None:
        left_tokens = max(budget.limit_tokens - figures.spent_tokens - figures.reserved_tokens, 0)
    fits = (not most.cost_nusd or left_nusd is None or most.cost_nusd <= left_nusd) and (
        left_tokens is None or most.tokens <= left_tokens
    )
    return BudgetLeft(
        budget.id, budget.limit_nusd, budget.limit_tokens, left_nusd, left_tokens, figures.window.end_s, fits
    )


def _told(error: SecureLLMError) -> Refusal:
    return Refusal(error.status, error.code, error.message, error.param)
