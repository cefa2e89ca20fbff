"""From a model's name to the providers that are asked: each rule of the contract, and every refusal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securellm.chat import Endpoint
from securellm.config.tree import Auto, Config, Model
from securellm.config.tree import Provider as Section
from securellm.errors import (
    AmbiguousModel,
    BadRequest,
    NoTargets,
    ProviderConflict,
    SecureLLMError,
    UnknownModel,
    UnsupportedEndpoint,
)
from securellm.providers.models import ModelCard
from securellm.providers.registry import describe_providers
from securellm.providers.shipped import load_shipped
from securellm.routing import Catalogue, Route

CHAT = Endpoint.CHAT
SECTIONS = {
    "openai": Section(enabled=True, kind="openai"),
    "anthropic": Section(enabled=True, kind="anthropic"),
    "groq": Section(enabled=True),
    "ollama": Section(enabled=True, kind="ollama"),
    "own": Section(enabled=True, base_url="https://own.test", models=("shared", "mine", "a/b")),
    "other": Section(enabled=True, base_url="https://other.test", models=("shared",)),
    "demo": Section(enabled=True, kind="demo"),
    "off": Section(enabled=False, base_url="https://off.test", models=("hidden",)),
}


def _catalogue(**settings: object) -> Catalogue:
    config = Config(providers=SECTIONS, **settings)
    return Catalogue(config, describe_providers(config), load_shipped())


def _ids(route: Route) -> list[str]:
    return [target.id for target in route.targets]


@pytest.mark.parametrize(
    ("model", "provider", "its_model"),
    [
        ("openai/gpt-4o", "openai", "gpt-4o"),
        ("openai/never-heard-of", "openai", "never-heard-of"),
        ("groq/openai/gpt-oss-20b", "groq", "openai/gpt-oss-20b"),
        ("own/a/b/c", "own", "a/b/c"),
        ("gpt-4o", "openai", "gpt-4o"),
        ("mine", "own", "mine"),
        ("a/b", "own", "a/b"),
        ("claude-opus-5", "anthropic", "claude-opus-5"),
        ("llama-3.3-70b-versatile", "groq", "llama-3.3-70b-versatile"),
        ("qwen/qwen3.6-27b", "groq", "qwen/qwen3.6-27b"),
        ("demo/echo", "demo", "echo"),
        ("fast", "groq", "openai/gpt-oss-20b"),
        ("gpt-4", "anthropic", "claude-opus-5"),
    ],
)
def test_one_target(model: str, provider: str, its_model: str) -> None:
    """An alias first, then a provider's prefix (the rest keeps its slashes), then the catalogue's one owner."""
    aliases = {"fast": "groq/openai/gpt-oss-20b", "gpt-4": "anthropic/claude-opus-5"}
    route = _catalogue(aliases=aliases).route(model, None, CHAT)
    (target,) = route.targets
    assert (target.provider.name, target.model, route.requested) == (provider, its_model, model)


def test_a_prefix_goes_before_the_catalogue() -> None:
    """`openai/gpt-oss-20b` is OpenAI's although Groq lists that very string; without OpenAI it is Groq's."""
    assert _ids(_catalogue().route("openai/gpt-oss-20b", None, CHAT)) == ["openai/gpt-oss-20b"]
    config = Config(providers={"groq": SECTIONS["groq"]})
    alone = Catalogue(config, describe_providers(config), load_shipped())
    assert _ids(alone.route("openai/gpt-oss-20b", None, CHAT)) == ["groq/openai/gpt-oss-20b"]


def test_several_owners_are_listed() -> None:
    """A bare name that two providers own is refused with the two ids to choose from."""
    with pytest.raises(AmbiguousModel) as caught:
        _catalogue().route("shared", None, CHAT)
    assert "own/shared, other/shared" in caught.value.message
    assert caught.value.param == "model"
    with pytest.raises(AmbiguousModel, match="own/shared, other/shared"):
        _catalogue().find("shared")


@pytest.mark.parametrize("model", ["nobody-has-this", "off/hidden", "hidden", "echo", "lorem", "demo/gpt-4o", "x/y/z"])
def test_unknown_models(model: str) -> None:
    """No owner, a provider that is not enabled, or the demo by a bare name: 404."""
    with pytest.raises(UnknownModel) as caught:
        _catalogue().route(model, None, CHAT)
    assert (caught.value.status, caught.value.param) == (404, "model")


@pytest.mark.parametrize(
    ("model", "remedy"),
    [
        ("off/hidden", "provider off is not enabled (set providers.off.enabled)"),
        ("nvidia/x", "provider nvidia is not enabled (give it an api_key)"),
        ("vllm/x", "provider vllm is not enabled (set providers.vllm.enabled)"),
        ("openai-compatible/x", None),
        ("vllm", None),
        ("nobody/x", None),
    ],
)
def test_a_provider_that_is_not_enabled(model: str, remedy: str | None) -> None:
    """Who names a provider that is only not enabled is told so, and how it is enabled; other names get no such hint."""
    with pytest.raises(UnknownModel) as caught:
        _catalogue().route(model, None, CHAT)
    assert (remedy or "") in caught.value.message
    assert ("not enabled" in caught.value.message) == (remedy is not None)


@pytest.mark.parametrize("model", ["", "x" * 513, "a\nb", "a\x00", "openai/"])
def test_names_that_are_none(model: str) -> None:
    """Nothing, too much, or control characters: 400."""
    with pytest.raises(BadRequest):
        _catalogue().route(model, None, CHAT)


def test_x_provider_prefixes_a_bare_name() -> None:
    """`X-Provider: p` equals writing `p/` before a bare name, also one with a slash, and resolves an ambiguous one."""
    catalogue = _catalogue()
    assert _ids(catalogue.route("shared", "other", CHAT)) == ["other/shared"]
    assert _ids(catalogue.route("gpt-4o", "own", CHAT)) == ["own/gpt-4o"]
    assert _ids(catalogue.route("a/b", "groq", CHAT)) == ["groq/a/b"]
    assert _ids(catalogue.route("own/mine", "own", CHAT)) == ["own/mine"]
    assert _ids(catalogue.route("echo", " demo ", CHAT)) == ["demo/echo"]
    assert _ids(catalogue.route("auto", "own", CHAT)) == ["own/auto"]


def test_x_provider_contradictions() -> None:
    """A header that contradicts the prefix, or that names no provider, is 400, also behind an alias."""
    catalogue = _catalogue(aliases={"fast": "groq/x"})
    for model in ("openai/gpt-4o", "fast"):
        with pytest.raises(ProviderConflict):
            catalogue.route(model, "anthropic", CHAT)
    with pytest.raises(BadRequest, match="X-Provider") as caught:
        catalogue.route("gpt-4o", "off", CHAT)
    assert caught.value.param == "x-provider"


def test_auto_in_list_order() -> None:
    """`auto` gives its targets in the order of the list, aliases and bare names resolved, each once, never the demo."""
    catalogue = _catalogue(
        aliases={"fast": "groq/x"},
        auto=Auto(targets=("fast", "demo/echo", "openai/gpt-4o", "mine", "groq/x", "off/hidden", "shared")),
    )
    for name in ("auto", "auto/"):
        route = catalogue.route(name, None, CHAT)
        assert _ids(route) == ["groq/x", "openai/gpt-4o", "own/mine"]
        assert route.requested == name


def test_auto_leaves_out_the_unhealthy() -> None:
    """A target whose origin is unhealthy is passed over with its reason."""
    catalogue = _catalogue(auto=Auto(targets=("groq/x", "openai/y", "own/z")))
    route = catalogue.route("auto", None, CHAT, lambda origin: origin != "https://api.openai.com:443")
    assert _ids(route) == ["groq/x", "own/z"]
    assert [(passed.target.id, passed.reason) for passed in route.passed_over] == [("openai/y", "circuit_open")]


def test_auto_with_nobody_healthy() -> None:
    """When every target is unhealthy all are returned, so that the breakers can say how long to wait."""
    catalogue = _catalogue(auto=Auto(targets=("groq/x", "openai/y")))
    assert _ids(catalogue.route("auto", None, CHAT, lambda origin: False)) == ["groq/x", "openai/y"]


@pytest.mark.parametrize("targets", [(), ("demo/echo",), ("off/hidden",)])
def test_auto_without_targets(targets: tuple[str, ...]) -> None:
    """An empty list is 404 with a hint; the demo and providers that are not enabled do not count."""
    with pytest.raises(NoTargets, match=r"\[auto\] targets"):
        _catalogue(auto=Auto(targets=targets)).route("auto", None, CHAT)


def test_auto_asks_only_who_has_the_endpoint() -> None:
    """Targets without the endpoint are passed over; if none has it the refusal names who does."""
    catalogue = _catalogue(auto=Auto(targets=("anthropic/a", "openai/b")))
    route = catalogue.route("auto", None, Endpoint.EMBEDDINGS)
    assert _ids(route) == ["openai/b"]
    assert [passed.reason for passed in route.passed_over] == ["unsupported_endpoint"]
    with pytest.raises(UnsupportedEndpoint, match="anthropic"):
        _catalogue(auto=Auto(targets=("openai/b",))).route("auto", None, Endpoint.COUNT_TOKENS)


def test_a_named_target_is_returned_whatever_its_health() -> None:
    """Who names a provider gets that one or its refusal, never another."""
    assert _ids(_catalogue().route("openai/x", None, CHAT, lambda origin: False)) == ["openai/x"]


def test_missing_endpoints_are_told() -> None:
    """The refusal names the endpoint and the providers that have it."""
    with pytest.raises(UnsupportedEndpoint) as caught:
        _catalogue().route("anthropic/claude-opus-5", None, Endpoint.EMBEDDINGS)
    assert "anthropic has no embeddings" in caught.value.message
    assert "openai, ollama, own, other, demo" in caught.value.message


def test_discovered_models_replace_the_shipped() -> None:
    """After a sync the provider's own list holds; limits that it leaves out come from the shipped one."""
    catalogue = _catalogue()
    before = {card.id for card in catalogue.models()}
    catalogue.learn("openai", [ModelCard("openai", "gpt-4o"), ModelCard("openai", "brand-new", context=5)])
    after = {card.id: card for card in catalogue.models() if card.provider == "openai"}
    assert "openai/gpt-5" in before
    assert set(after) == {"openai/gpt-4o", "openai/brand-new"}
    assert (after["openai/gpt-4o"].context, after["openai/brand-new"].context) == (128000, 5)
    assert _ids(catalogue.route("brand-new", None, CHAT)) == ["openai/brand-new"]
    catalogue.learn("nobody", [ModelCard("nobody", "x")])
    assert "nobody/x" not in {card.id for card in catalogue.models()}


def test_declared_models_survive_a_sync() -> None:
    """What the configuration says a provider owns is listed whether the provider lists it or not."""
    catalogue = _catalogue(models={"own/extra": Model(context=7)})
    catalogue.learn("own", [ModelCard("own", "found")])
    assert [card.model for card in catalogue.models() if card.provider == "own"] == [
        "found", "shared", "mine", "a/b", "extra",
    ]  # fmt: skip


def test_ollamas_default_tag() -> None:
    """`llama3.2` finds `llama3.2:latest`, as Ollama itself would."""
    catalogue = _catalogue()
    catalogue.learn("ollama", [ModelCard("ollama", "llama3.2:latest")])
    assert _ids(catalogue.route("llama3.2", None, CHAT)) == ["ollama/llama3.2"]


def test_settings_of_models() -> None:
    """`[models."p/m"]` goes before `[models."p/*"]`, and both before what is known otherwise."""
    catalogue = _catalogue(
        models={"openai/*": Model(max_output=100, free=True), "openai/gpt-4o": Model(max_output=200, context=9)}
    )
    exact, wide = catalogue.find("openai/gpt-4o"), catalogue.find("gpt-5")
    assert exact is not None
    assert wide is not None
    assert (exact.max_output, exact.context, exact.free) == (200, 9, True)
    assert (wide.max_output, wide.context) == (100, 400000)
    (unknown,) = catalogue.route("openai/never-heard-of", None, CHAT).targets
    assert catalogue.max_output(unknown) == 100
    (claude,) = catalogue.route("anthropic/claude-opus-5", None, CHAT).targets
    assert catalogue.max_output(claude) == 128000


def test_finding_a_card() -> None:
    """`/v1/models/{id}` finds by id, alias and bare name, and nothing that is not there."""
    catalogue = _catalogue(aliases={"fast": "groq/openai/gpt-oss-20b"})
    for name in ("groq/openai/gpt-oss-20b", "fast", "openai/gpt-4o", "gpt-4o", "demo/echo"):
        assert catalogue.find(name) is not None
    for name in ("openai/never-heard-of", "echo", "auto", "", "off/hidden", "openai/"):
        assert catalogue.find(name) is None


def test_the_list_is_of_enabled_providers() -> None:
    """Nothing of a provider that is not enabled is shown; every id leads to a target."""
    catalogue = _catalogue()
    ids = [card.id for card in catalogue.models()]
    assert len(set(ids)) == len(ids)
    assert {name.split("/")[0] for name in ids} == {"openai", "anthropic", "groq", "own", "other", "demo"}
    for model_id in ids:
        assert _ids(catalogue.route(model_id, None, CHAT)) == [model_id]


@given(st.text(max_size=30), st.none() | st.sampled_from([*SECTIONS, "", "no"]), st.sampled_from(list(Endpoint)))
def test_any_name_is_a_route_or_a_refusal(model: str, x_provider: str | None, endpoint: Endpoint) -> None:
    """Whatever the caller writes is answered by our own errors."""
    catalogue = _catalogue()
    status, targets = 200, ()
    try:
        targets = catalogue.route(model, x_provider, endpoint).targets
    except SecureLLMError as error:
        status = error.status
    assert status in ((200,) if targets else (400, 404))
    assert all(endpoint in target.provider.endpoints for target in targets)
