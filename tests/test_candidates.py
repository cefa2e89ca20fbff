"""Who may answer, by the grants of a key, what providers say and how they are doing."""

from pathlib import Path

import pytest
import trio

from rig.gateway import make_config
from securellm.accounts.bounds import NO_OWN_RATES
from securellm.candidates import candidates_of
from securellm.chat import Caller, Endpoint, Grants, KeyId
from securellm.errors import ModelRefused, UnknownModel
from securellm.limits.limiter import Limiter
from securellm.limits.process import ProcessStore
from securellm.pricing.kept import load_table
from securellm.providers.models import ModelCard
from securellm.serving import Serving, make_serving
from securellm.upstream.breaker import Refused

KEY_ID = KeyId("abcdefgh")


def caller(**grants: tuple[str, ...]) -> Caller:
    return Caller(KEY_ID, None, grants=Grants(**grants))


def open_serving(folder: Path) -> Serving:
    fakes = {"one": "http://127.0.0.1:9/v1", "two": "http://127.0.0.2:9/v1"}
    config = make_config(folder, fakes, auto={"targets": ["one/m", "two/m"]})
    limiter = Limiter(config.rate_limit, ProcessStore(), lambda caller: NO_OWN_RATES, lambda: 0)
    return make_serving(config, load_table(config), limiter)


def ids(serving: Serving, who: Caller, model: str) -> list[str]:
    return [target.id for target in candidates_of(serving, who, Endpoint.CHAT, model, None).targets]


async def test_another_grant_of_the_same_key(tmp_path: Path) -> None:
    """A key for other models is refused."""
    serving = open_serving(tmp_path)
    assert ids(serving, caller(), "one/m") == ["one/m"]
    with pytest.raises(ModelRefused):
        candidates_of(serving, caller(models=("two/*",)), Endpoint.CHAT, "one/m", None)
    assert ids(serving, caller(), "one/m") == ["one/m"]


async def test_what_providers_say_is_heard(tmp_path: Path) -> None:
    """A bare name goes to whoever owns it now."""
    serving, who = open_serving(tmp_path), caller()
    serving.catalogue.learn("one", [ModelCard("one", "bare")])
    assert ids(serving, who, "bare") == ids(serving, who, "bare") == ["one/bare"]
    serving.catalogue.learn("one", [])
    serving.catalogue.learn("two", [ModelCard("two", "bare")])
    assert ids(serving, who, "bare") == ["two/bare"]
    serving.catalogue.learn("two", [])
    with pytest.raises(UnknownModel):
        candidates_of(serving, who, Endpoint.CHAT, "bare", None)


async def test_auto_follows_the_health_of_its_targets(tmp_path: Path) -> None:
    """A target of `auto` whose breaker opens is passed over by the next request."""
    serving, who = open_serving(tmp_path), caller()
    assert ids(serving, who, "auto") == ["one/m", "two/m"]
    origin = serving.origins.of(serving.providers["one"])
    while not isinstance(leave := origin.ask_leave(trio.current_time()), Refused):
        leave.failed("connect_failed")
    assert ids(serving, who, "auto") == ["two/m"]
    assert candidates_of(serving, who, Endpoint.CHAT, "auto", None).passed_over[0].reason == "circuit_open"
