"""What admission decides alike for a caller, a door and a model, worked out once: whom to ask, and what bounds it.

A plan holds under one configuration, one version of the accounts and one of the catalogue; with another of any of them
all are made anew. Whatever depends on the moment is no part of it: whether a key is in force, its addresses, what is
left of a limit or a budget, and how the targets of `auto` are doing, for which a plan is made each time. No I/O.
"""

import msgspec

from securellm.accounts.bounds import Budget
from securellm.accounts.snapshot import Accounts
from securellm.audit.bodies import Bodies
from securellm.candidates import candidates_of, ceilings_of, other_models_of
from securellm.chat import Caller, Endpoint, KeyId
from securellm.limits.quota import Demands
from securellm.pricing.bound import Ceiling
from securellm.routing import Route, Target
from securellm.serving import Serving

MAX_PLANS = 4096  # that are kept; past it all are made anew


class Plan(msgspec.Struct, frozen=True):
    """How a request of one caller is let in."""

    caller: Caller
    route: Route
    first: Target  # of the route
    other_models: frozenset[str]  # fields that its body must not have
    demands: Demands  # of its limits, but for the providers'
    budgets: tuple[Budget, ...]
    ceilings: tuple[Ceiling, ...]  # of the route's targets; none where there are no budgets
    bodies: Bodies | None  # of the request, where nothing of them is recorded


class Planner:
    """Plans under one configuration."""

    def __init__(self, serving: Serving, accounts: Accounts) -> None:
        self.serving = serving
        self._accounts = accounts
        self._plans: dict[tuple[KeyId | None, str, str | None, Endpoint], Plan] = {}
        self._of_accounts = accounts.generation
        self._of_catalogue = serving.catalogue.generation

    def __repr__(self) -> str:
        return f"<Planner {len(self._plans)} plans>"

    def __len__(self) -> int:
        """How many plans are kept."""
        return len(self._plans)

    def plan(self, caller: Caller, endpoint: Endpoint, model: str, x_provider: str | None) -> Plan:
        """The plan of now. Raises as `candidates_of`."""
        of_catalogue, of_accounts = self.serving.catalogue.generation, self._accounts.generation
        if of_catalogue != self._of_catalogue or of_accounts != self._of_accounts:
            self._plans.clear()
            self._of_catalogue, self._of_accounts = of_catalogue, of_accounts
        asked = (caller.key_id, model, x_provider, endpoint)
        plan = self._plans.get(asked)
        # Who was told apart before the accounts changed may still be on the way in.
        if plan is None or plan.caller is not caller:
            plan = self._make(caller, endpoint, model, x_provider)
            if not self.serving.catalogue.is_auto(model, x_provider):
                if len(self._plans) >= MAX_PLANS:
                    self._plans.clear()
                self._plans[asked] = plan
        return plan

    def _make(self, caller: Caller, endpoint: Endpoint, model: str, x_provider: str | None) -> Plan:
        serving = self.serving
        route = candidates_of(serving, caller, endpoint, model, x_provider)
        first = route.targets[0]
        budgets = self._accounts.budgets(caller)
        return Plan(
            caller,
            route,
            first,
            other_models_of(caller, route.targets),
            serving.limiter.own_demands(caller, first.id),
            budgets,
            ceilings_of(serving, route.targets) if budgets else (),
            serving.bodies.unrecorded(endpoint),
        )
