"""May this caller ask now: the limits of its key, user, team and model, and of each provider that is asked. Pure.

What a caller and a model have to meet is worked out once and kept, so that deciding is one call of the store; where
nothing is limited it is none. `admit` takes from the caller's buckets before anything is asked; every attempt takes
from its own provider's; `settle` trues the tokens up to what was really used and ends what is counted at one time.

In shadow mode whatever would be refused is reported and let through, without a count, as a refusal has none.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from securellm.chat import Caller, Headers
from securellm.config.tree import RateLimit, Rates
from securellm.errors import LimitsUnavailable, OverCapacity, RateLimited
from securellm.limits.quota import (
    Demands,
    Denied,
    Levels,
    Measure,
    Never,
    Scope,
    Short,
    Store,
    demands_of,
)
from securellm.limits.showing import headers_after, refusal_headers

ANONYMOUS = "anonymous"  # the subject of callers without a key, who share its bucket
MAX_KNOWN = 20_000  # callers and models whose demands are kept; past it all are worked out anew

_WHAT = {
    Measure.REQUESTS: "",
    Measure.TOKENS: " (tokens in a minute)",
    Measure.CONCURRENT: " (requests at one time)",
}


class OwnRates(Protocol):
    """What the store of accounts says of a caller. A field that is None is as the configuration says."""

    @property
    def key(self) -> Rates | None:
        """Of its key."""

    @property
    def user(self) -> Rates | None:
        """Of its user."""

    @property
    def team(self) -> Rates | None:
        """Of its team."""


class Refusal(NamedTuple):
    """What a report is told of a refusal, or of what would be one."""

    scope: str
    subject: str
    measure: str
    shadow: bool


class _Known(NamedTuple):
    caller: Caller
    own: OwnRates
    demands: Demands


_Taken = tuple[Demands, Levels, int, int]  # of what, at what then, how many tokens, when


class Limiter:
    """Decides for every lane of the process."""

    def __init__(
        self,
        settings: RateLimit,
        store: Store,
        rates: Callable[[Caller], OwnRates],
        now_us: Callable[[], int],
        report: Callable[[Refusal], None] = lambda refusal: None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._rates = rates
        self._now_us = now_us
        self._report = report
        self._known: dict[tuple[str | None, str], _Known] = {}
        self._of_provider: dict[str, Demands] = {}
        if settings.enabled:
            for name, of_provider in settings.providers.items():
                if demands := demands_of(Scope.PROVIDER, name, of_provider):
                    self._of_provider[name] = demands

    async def admit(self, caller: Caller, model: str, tokens: int) -> "Hold":
        """Take one request, `tokens` and one place from the caller's buckets. `model` is `<provider>/<model>`.

        Raises RateLimited, OverCapacity, LimitsUnavailable. Whoever gets the hold calls `settle` in a `finally`.
        """
        demands = self.own_demands(caller, model)
        hold = self.take(demands, tokens)
        return hold if isinstance(hold, Hold) else await self.decide(hold, demands, tokens)

    def take(self, demands: Demands, tokens: int) -> "Hold | Denied | Never | Short":
        """What `admit` does for demands that are known, where nothing has to be said or waited for; else `decide`."""
        if not demands:
            return Hold(self, [])
        now_us = self._now_us()
        answer = self._store.take(demands, tokens, now_us)
        return Hold(self, [(demands, answer, tokens, now_us)]) if isinstance(answer, tuple) else answer

    async def decide(self, answer: Denied | Never | Short, demands: Demands, tokens: int) -> "Hold":
        """What becomes of a request to which `take` gave that answer. Raises as `admit`."""
        hold = Hold(self, [])
        refusal = await self._settle_for(answer, hold, demands, tokens)
        if refusal is not None:
            raise refusal
        return hold

    def would_allow(self, caller: Caller, model: str, tokens: int) -> RateLimited | OverCapacity | None:
        """What `admit` would raise; changes nothing, and where it would wait for a share it says None."""
        demands = self.own_demands(caller, model)
        provider = model.partition("/")[0]
        for asked in (demands, self._of_provider.get(provider, ())):
            answer = self._store.would_allow(asked, tokens, self._now_us())
            if isinstance(answer, Denied | Never):
                return _refusal(answer, tokens)
        return None

    def demands(self, caller: Caller, model: str) -> Demands:
        """Everything that a request would have to meet, its provider's included; for whoever explains."""
        return self.own_demands(caller, model) + self._of_provider.get(model.partition("/")[0], ())

    def _take(self, hold: "Hold", demands: Demands, tokens: int) -> Denied | Never | Short | None:
        now_us = self._now_us()
        answer = self._store.take(demands, tokens, now_us)
        if isinstance(answer, tuple):
            hold._taken.append((demands, answer, tokens, now_us))
            return None
        return answer

    async def _settle_for(
        self, answer: Denied | Never | Short | None, hold: "Hold", demands: Demands, tokens: int
    ) -> RateLimited | OverCapacity | None:
        """What becomes of a request that the store did not grant at once; None when it is let through."""
        if isinstance(answer, Short):
            await self._store.refill(answer)
            answer = self._take(hold, demands, tokens)
        if answer is None:
            return None
        if isinstance(answer, Short):
            raise LimitsUnavailable("the limits' shared counts do not answer", retry_after_s=1.0)
        demand, shadow = answer.demand, self._settings.shadow
        self._report(Refusal(demand.scope.value, demand.subject, demand.measure.name.lower(), shadow))
        return None if shadow else _refusal(answer, tokens)

    def own_demands(self, caller: Caller, model: str) -> Demands:
        """What the caller and the model have to meet: the same until the configuration or the accounts change."""
        own = self._rates(caller)
        known = self._known.get((caller.key_id, model))
        if (
            known is not None
            and (known.caller is caller or known.caller == caller)
            and (known.own is own or known.own == own)
        ):
            return known.demands
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        demands = self._work_out(caller, own, model)
        self._known[caller.key_id, model] = _Known(caller, own, demands)
        return demands

    def _work_out(self, caller: Caller, own: OwnRates, model: str) -> Demands:
        settings = self._settings
        if not settings.enabled:
            return ()
        found = demands_of(Scope.KEY, caller.key_id or ANONYMOUS, _merged(own.key, settings.per_key))
        if caller.user_id is not None:
            found += demands_of(Scope.USER, caller.user_id, _merged(own.user, settings.per_user))
        if caller.team_id is not None:
            found += demands_of(Scope.TEAM, caller.team_id, _merged(own.team, settings.per_team))
        pattern = model.partition("/")[0] + "/*"
        of_model = settings.models.get(model) or settings.models.get(pattern)
        return found + demands_of(Scope.MODEL, model, _merged(of_model, settings.per_model))


class Hold(msgspec.Struct, eq=False):
    """What one request has taken. Made by `Limiter.admit`, ended by `settle`."""

    _limiter: Limiter
    _taken: list[_Taken]  # the caller's, if any, then the provider's that is being asked, if any
    _at_provider: bool = False  # the last of them is a provider's
    _asked: bool = False  # at least one provider's limits let the request through
    _only_refused: bool = False  # providers' limits refused, and no provider was asked
    _settled: bool = False

    def take_provider(self, provider: str, tokens: int) -> bool:
        """As `ask_provider` for the first attempt where nothing has to be waited for; False: it is to be asked."""
        if self._at_provider:
            return False
        limiter = self._limiter
        demands = limiter._of_provider.get(provider)
        if demands:
            if limiter._take(self, demands, tokens) is not None:
                return False
            self._at_provider = True
        self._asked = True
        self._only_refused = False
        return True

    async def ask_provider(self, provider: str, tokens: int) -> RateLimited | OverCapacity | None:
        """Take from a provider's buckets for one attempt; a refusal is returned, and the next target may be tried.

        What an earlier attempt took is settled as unused, but for its count. Raises LimitsUnavailable.
        """
        limiter = self._limiter
        if self._at_provider:
            self._at_provider = False
            of_provider, levels, unused, _ = self._taken.pop()
            limiter._store.give_back(of_provider, levels, unused, limiter._now_us())
        refusal = None
        if demands := limiter._of_provider.get(provider):
            held = len(self._taken)
            answer = limiter._take(self, demands, tokens)
            if answer is not None:
                refusal = await limiter._settle_for(answer, self, demands, tokens)
            self._at_provider = len(self._taken) > held
        self._only_refused = refusal is not None and not self._asked
        self._asked = self._asked or refusal is None
        return refusal

    def headers(self) -> Headers:
        """`x-ratelimit-*` of the bucket that is nearest to its end, for requests and for tokens."""
        return headers_after(self._taken)

    def settle(self, tokens: int | None) -> None:
        """End what was taken, `tokens` of it used; None: nothing was. Waits for nothing, raises nothing; once."""
        if self._settled:
            return
        self._settled = True
        if not self._taken:
            return
        used, now_us, give_back = tokens or 0, self._limiter._now_us(), self._limiter._store.give_back
        for demands, levels, taken, _ in self._taken:
            # Where no provider could be asked the request is refused, and what is refused is not counted.
            give_back(demands, levels, taken - used, now_us, requests=self._only_refused)


def _merged(own: Rates | None, otherwise: Rates) -> Rates:
    """What is said of one subject over what is said of all; a burst goes with its rate."""
    if own is None:
        return otherwise
    of_rpm = otherwise if own.rpm is None else own
    return Rates(
        rpm=of_rpm.rpm,
        burst=of_rpm.burst if own.burst is None else own.burst,
        tpm=otherwise.tpm if own.tpm is None else own.tpm,
        concurrent=otherwise.concurrent if own.concurrent is None else own.concurrent,
    )


def _refusal(answer: Denied | Never, tokens: int) -> RateLimited | OverCapacity:
    demand = answer.demand
    param = demand.subject if demand.scope is Scope.PROVIDER else demand.scope.value
    subject = f"{demand.scope.value}: {demand.subject}"
    if isinstance(answer, Never):
        return OverCapacity(
            f"the request may use {tokens} tokens, and the rate limit for {subject} never grants more than"
            f" {demand.quota.burst} at once",
            param=param,
        )
    message = f"Rate limit exceeded for {subject}{_WHAT[demand.measure]}"  # capital R: the first users' scripts
    refused = RateLimited(message, param=param, retry_after_s=answer.retry_after_us / 1_000_000)
    refused.headers = tuple(refusal_headers(answer))
    return refused
