"""Plans are kept for as long as nothing that they rest on has changed, and there are never too many of them."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from rig.gateway import make_config
from securellm.accounts.snapshot import Accounts
from securellm.accounts.store import open_store
from securellm.chat import Caller, Endpoint, Grants, KeyId
from securellm.config.tree import Allowance, Budgets, Config
from securellm.errors import ModelRefused, UnknownModel
from securellm.limits.limiter import Limiter
from securellm.limits.process import ProcessStore
from securellm.planning import MAX_PLANS, Planner
from securellm.pricing.kept import load_table
from securellm.providers.models import ModelCard
from securellm.serving import make_serving
from securellm.upstream.breaker import Refused

CHAT = Endpoint.CHAT
KEY_ID = KeyId("abcdefgh")
CALLER = Caller(KEY_ID, None)


class World:
    """A planner, and what its plans rest on."""

    def __init__(self, config: Config, accounts: Accounts) -> None:
        limiter = Limiter(config.rate_limit, ProcessStore(), accounts.rates, lambda: 0)
        self.config = config
        self.accounts = accounts
        self.serving = make_serving(config, load_table(config), limiter)
        self.planner = Planner(self.serving, accounts)

    def ids(self, model: str, caller: Caller = CALLER, x_provider: str | None = None) -> list[str]:
        """Whom a plan asks."""
        return [target.id for target in self.planner.plan(caller, CHAT, model, x_provider).route.targets]


@pytest.fixture
async def world(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[World]:
    """Two providers that are never asked; the store is never read, because a thread and a virtual clock do not mix."""
    fakes = {"one": "http://127.0.0.1:9/v1", "two": "http://127.0.0.2:9/v1"}
    config = make_config(
        tmp_path, fakes, auto={"targets": ["one/m", "two/m"]}, rate_limit={"enabled": True, "per_key": {"rpm": 60}}
    )
    async with open_store(config) as store:
        world = World(config, Accounts(config, store))
        yield world
        await world.serving.clients.aclose()


async def test_a_plan_is_made_once(world: World) -> None:
    """For one caller, door, model and wish there is one; with another of any of them it is another."""
    planner = world.planner
    plan = planner.plan(CALLER, CHAT, "one/m", None)
    assert planner.plan(CALLER, CHAT, "one/m", None) is plan
    assert (plan.first, plan.budgets, plan.ceilings) == (plan.route.targets[0], (), ())
    assert {demand.subject for demand in plan.demands} == {KEY_ID}
    others = [
        planner.plan(Caller(KeyId("bcdefghi"), None), CHAT, "one/m", None),
        planner.plan(CALLER, Endpoint.EMBEDDINGS, "one/m", None),
        planner.plan(CALLER, CHAT, "two/m", None),
        planner.plan(CALLER, CHAT, "m2", "one"),
        planner.plan(CALLER, CHAT, "m2", "two"),
    ]
    assert len({id(one) for one in (plan, *others)}) == len(planner) == 6


async def test_another_grant_of_the_same_key_is_in_force_at_once(world: World) -> None:
    """What was found for a key as it was says nothing of the key with other grants."""
    for _ in range(2):
        assert world.ids("one/m") == ["one/m"]
        with pytest.raises(ModelRefused):
            world.ids("one/m", Caller(KEY_ID, None, grants=Grants(models=("two/*",))))


async def test_fields_that_name_other_models_are_told_by_the_grants(world: World) -> None:
    """Only a key for some models has them to fear."""
    names = frozenset(world.serving.providers["one"].quirks.other_models)
    some = Caller(KEY_ID, None, grants=Grants(models=("one/*",)))
    assert world.planner.plan(CALLER, CHAT, "one/m", None).other_models == frozenset()
    assert world.planner.plan(some, CHAT, "one/m", None).other_models == names


async def test_what_providers_say_is_heard(world: World) -> None:
    """A bare name goes to whoever owns it now."""
    world.serving.catalogue.learn("one", [ModelCard("one", "bare")])
    assert world.ids("bare") == world.ids("bare") == ["one/bare"]
    world.serving.catalogue.learn("one", [])
    world.serving.catalogue.learn("two", [ModelCard("two", "bare")])
    assert world.ids("bare") == ["two/bare"]
    world.serving.catalogue.learn("two", [])
    with pytest.raises(UnknownModel):
        world.ids("bare")


async def test_auto_follows_the_health_of_its_targets(world: World) -> None:
    """A target of `auto` whose breaker opens is passed over by the next request."""
    assert world.ids("auto") == ["one/m", "two/m"]
    origin = world.serving.origins.of(world.serving.providers["one"])
    while not isinstance(leave := origin.ask_leave(trio.current_time()), Refused):
        leave.failed("connect_failed")
    assert world.ids("auto") == ["two/m"]
    assert len(world.planner) == 0


async def test_a_change_of_the_accounts_makes_all_plans_anew(world: World) -> None:
    """With it come other budgets, and the bounds that go with them."""
    before = world.planner.plan(CALLER, CHAT, "one/m", None)
    world.planner.plan(CALLER, CHAT, "two/m", None)
    budgets = Budgets(per_key=Allowance(tokens=7))
    world.accounts.configure(msgspec.structs.replace(world.config, budgets=budgets))
    after = world.planner.plan(CALLER, CHAT, "one/m", None)
    assert after is not before
    assert ([budget.limit_tokens for budget in after.budgets], len(after.ceilings)) == ([7], 1)
    assert len(world.planner) == 1


async def test_plans_are_bounded(world: World) -> None:
    """However many models callers name."""
    most = 0
    for number in range(MAX_PLANS + 10):
        world.ids(f"one/m{number}")
        most = max(most, len(world.planner))
    assert (most, len(world.planner)) == (MAX_PLANS, 10)
