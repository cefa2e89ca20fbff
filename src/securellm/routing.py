"""Who will answer: from the model a caller names to the ordered targets that may be asked. Pure.

In order: an alias; then `auto`; then, if the text before the first `/` is a configured provider, the rest is its model,
slashes included; else the whole string is looked up in the catalogue, and several owners are an error that lists them.
`X-Provider: p` equals writing `p/` before a bare name. A prefixed model is asked for whether the catalogue knows it or
not; only the demo provider's list is complete. `demo` is answered when it is named, never by `auto` or a bare name.
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from securellm.chat import Endpoint
from securellm.config.tree import Config
from securellm.errors import AmbiguousModel, BadRequest, NoTargets, ProviderConflict, UnknownModel, UnsupportedEndpoint
from securellm.providers.base import Provider
from securellm.providers.models import (
    ModelCard,
    card_anthropic,
    card_openai,
    list_anthropic,
    list_openai,
    parse_models,
)
from securellm.providers.registry import ADAPTERS, GENERIC_KIND, providers_with

__all__ = [
    "Catalogue",
    "ModelCard",
    "PassedOver",
    "Route",
    "Target",
    "card_anthropic",
    "card_openai",
    "list_anthropic",
    "list_openai",
    "parse_models",
]

AUTO_NAMES = ("auto", "auto/")
MAX_MODEL_CHARS = 512  # of a model's name in a request; it goes into logs and metrics
LISTED = 8  # how many names an error message lists before it says that there are more

_LATEST = ":latest"  # Ollama's default tag, which callers leave out


class Target(msgspec.Struct, frozen=True):
    """One provider to ask, and the model in that provider's own words."""

    provider: Provider
    model: str

    @property
    def id(self) -> str:
        """`<provider>/<model>`, as callers see it."""
        return f"{self.provider.name}/{self.model}"


class PassedOver(msgspec.Struct, frozen=True):
    """A target of `auto` that is not asked, and why: `circuit_open`, `unsupported_endpoint`."""

    target: Target
    reason: str


class Route(msgspec.Struct, frozen=True):
    """Whom to ask, in order. `requested` is what the caller wrote; `targets` is never empty."""

    targets: tuple[Target, ...]
    requested: str
    passed_over: tuple[PassedOver, ...] = ()


class Catalogue:
    """Which models there are and who owns them, for one configuration.

    Everything but `learn` only reads, and `learn` swaps one reference, so a reader sees the old or the new list whole;
    `generation` is then another number, so that what is derived can be kept by it.
    """

    def __init__(self, config: Config, providers: Mapping[str, Provider], shipped: Iterable[ModelCard] = ()) -> None:
        self._providers = dict(providers)
        self._aliases = config.aliases
        self._auto = config.auto.targets
        self._settings = config.models
        self._declared_names = frozenset(config.providers)
        by_kind: dict[str, list[ModelCard]] = {}
        for card in shipped:
            by_kind.setdefault(card.provider, []).append(card)
        self._shipped = {
            name: [msgspec.structs.replace(card, provider=name) for card in by_kind.get(provider.kind, ())]
            for name, provider in providers.items()
        }
        self._discovered: dict[str, list[ModelCard]] = {}
        self.generation = 0
        self._cards = self._index()

    def __repr__(self) -> str:
        return f"<Catalogue {len(self._providers)} providers {sum(map(len, self._cards.values()))} models>"

    def learn(self, provider: str, cards: Iterable[ModelCard]) -> None:
        """Take a provider's own list in place of what was known; what its list leaves out is filled in from ours."""
        if provider in self._providers:
            self._discovered = {**self._discovered, provider: list(cards)}
            self._cards = self._index()
            self.generation += 1

    def models(self) -> list[ModelCard]:
        """Every known model, in the order of the providers."""
        return [card for cards in self._cards.values() for card in cards.values()]

    def find(self, model_id: str) -> ModelCard | None:
        """The card of `<provider>/<model>`, of an alias or of a bare name with one owner; None when unknown.

        Raises AmbiguousModel.
        """
        name = self._aliases.get(model_id, model_id)
        prefix, slash, rest = name.partition("/")
        if slash and prefix in self._providers:
            return self.card(prefix, rest)
        owners = self._owners(name)
        if len(owners) > 1:
            raise _ambiguous(name, owners)
        return self.card(owners[0], name) if owners else None

    def card(self, provider: str, model: str) -> ModelCard | None:
        """What is known of a provider's model; None when nothing is."""
        cards = self._cards.get(provider, {})
        return cards.get(model) or cards.get(model + _LATEST)

    def resolve(self, name: str) -> Target | None:
        """The one target that a name means, whether it can be asked now or not; None when there is none or several."""
        try:
            return self._resolve(self._aliases.get(name, name), None)
        except (UnknownModel, AmbiguousModel, BadRequest):
            return None

    def max_output(self, target: Target) -> int | None:
        """The most output tokens of a target's model, None when unknown: what a translation asks for by default."""
        card = self.card(target.provider.name, target.model) or self._dressed(
            ModelCard(target.provider.name, target.model)
        )
        return card.max_output

    def is_auto(self, model: str, x_provider: str | None) -> bool:
        """The model means whichever target of `auto` is well."""
        return x_provider is None and self._aliases.get(model, model) in AUTO_NAMES

    def route(
        self,
        model: str,
        x_provider: str | None,
        endpoint: Endpoint,
        health: Callable[[str], bool] = lambda origin: True,
    ) -> Route:
        """The targets for a model at an endpoint; `health` says of an origin whether it may be asked now.

        A named target is returned whatever its health, and `auto` gives all of its targets when none is healthy: then
        the breaker refuses with the time to wait. Raises BadRequest, UnknownModel, AmbiguousModel, ProviderConflict,
        NoTargets, UnsupportedEndpoint.
        """
        if not model or len(model) > MAX_MODEL_CHARS or not model.isprintable():
            raise BadRequest(f"expected the name of a model, at most {MAX_MODEL_CHARS} characters", param="model")
        name = self._aliases.get(model, model)
        if self.is_auto(model, x_provider):
            return self._route_auto(model, endpoint, health)
        target = self._resolve(name, x_provider)
        if endpoint not in target.provider.endpoints:
            raise self._unsupported(f"provider {target.provider.name} has no", endpoint)
        return Route((target,), model)

    def _resolve(self, name: str, x_provider: str | None) -> Target:
        """The one target that a name (aliases already followed) means."""
        prefix, slash, rest = name.partition("/")
        prefixed = bool(slash) and prefix in self._providers
        if x_provider is not None:
            wanted = x_provider.strip()
            if wanted not in self._providers:
                known = self._known_providers()
                raise BadRequest(f"X-Provider names no configured provider; {known}", param="x-provider")
            if prefixed and prefix != wanted:
                raise ProviderConflict(f"X-Provider says {wanted}, the model says {prefix}", param="model")
            if not prefixed:
                prefix, rest, prefixed = wanted, name, True
        if prefixed:
            return self._named(prefix, rest)
        owners = self._owners(name)
        if len(owners) > 1:
            raise _ambiguous(name, owners)
        if not owners:
            why = self._not_enabled(prefix) if slash else ""
            raise UnknownModel(f"no provider owns model {name}{why}; {self._known_providers()}", param="model")
        return Target(self._providers[owners[0]], name)

    def _named(self, provider: str, model: str) -> Target:
        if not model:
            raise BadRequest(f"expected {provider}/<model>, got no model", param="model")
        if self._providers[provider].is_demo and self.card(provider, model) is None:
            known = _list([card.id for card in self._cards[provider].values()])
            raise UnknownModel(f"no such model: {provider}/{model}; there is {known}", param="model")
        return Target(self._providers[provider], model)

    def _route_auto(self, model: str, endpoint: Endpoint, health: Callable[[str], bool]) -> Route:
        targets = self._auto_targets()
        if not targets:
            hint = "list some in [auto] targets, or name a provider's model"
            raise NoTargets(f"model auto has no targets; {hint}", param="model")
        able = [target for target in targets if endpoint in target.provider.endpoints]
        if not able:
            raise self._unsupported("no target of auto has", endpoint)
        healthy = [target for target in able if health(target.provider.origin)] or able
        passed_over = tuple(
            PassedOver(target, "circuit_open" if target in able else "unsupported_endpoint")
            for target in targets
            if target not in healthy
        )
        return Route(tuple(healthy), model, passed_over)

    def _auto_targets(self) -> list[Target]:
        """The configured targets that mean something now: enabled providers, never the demo, each once."""
        targets: dict[str, Target] = {}
        for written in self._auto:
            target = self.resolve(written)  # None: a provider that is not enabled; `check-config` names such targets
            if target is not None and not target.provider.is_demo:
                targets.setdefault(target.id, target)
        return list(targets.values())

    def _owners(self, model: str) -> list[str]:
        return [
            name
            for name, provider in self._providers.items()
            if not provider.is_demo and self.card(name, model) is not None
        ]

    def _unsupported(self, who: str, endpoint: Endpoint) -> UnsupportedEndpoint:
        having = providers_with(self._providers, endpoint)
        there = f"providers that have it: {_list(having)}" if having else "no configured provider has it"
        return UnsupportedEndpoint(f"{who} {endpoint.value}; {there}", param="model")

    def _not_enabled(self, name: str) -> str:
        """What to do about a provider that could be asked and is not enabled; "" for any other name."""
        adapter = ADAPTERS.get(name) if name != GENERIC_KIND else None
        if adapter is None and name not in self._declared_names:
            return ""
        wants_key = adapter is not None and adapter.needs_key and name not in self._declared_names
        remedy = "give it an api_key" if wants_key else f"set providers.{name}.enabled"
        return f": provider {name} is not enabled ({remedy})"

    def _known_providers(self) -> str:
        known = _list([f"{name}/" for name in self._providers])
        return f"configured providers: {known}" if known else "no provider is configured"

    def _index(self) -> dict[str, dict[str, ModelCard]]:
        """Provider -> its own id -> card: discovered if it was, else shipped, and what the configuration declares."""
        index: dict[str, dict[str, ModelCard]] = {}
        for name, provider in self._providers.items():
            shipped = {card.model: card for card in self._shipped[name]}
            known = {card.model: card for card in self._discovered.get(name, shipped.values())}
            for model in self._declared(provider):
                known.setdefault(model, shipped.get(model) or ModelCard(name, model))
            index[name] = {model: self._dressed(card, shipped.get(model)) for model, card in known.items()}
        return index

    def _declared(self, provider: Provider) -> list[str]:
        prefix = f"{provider.name}/"
        settings = [key.removeprefix(prefix) for key in self._settings if key.startswith(prefix)]
        return [*provider.models, *(model for model in settings if model != "*")]

    def _dressed(self, card: ModelCard, shipped: ModelCard | None = None) -> ModelCard:
        """A card with what the configuration says of the model, then its own word, then the shipped one."""
        exact, wide = self._settings.get(card.id), self._settings.get(f"{card.provider}/*")
        context, max_output, free = card.context, card.max_output, card.free
        if shipped is not None:
            context, max_output = context or shipped.context, max_output or shipped.max_output
        for setting in (wide, exact):
            if setting is not None:
                context = setting.context or context
                max_output = setting.max_output or max_output
                free = setting.free or free
        return msgspec.structs.replace(card, context=context, max_output=max_output, free=free)


def _ambiguous(name: str, owners: list[str]) -> AmbiguousModel:
    listed = _list([f"{owner}/{name}" for owner in owners])
    return AmbiguousModel(f"model {name} is owned by several providers: {listed}", param="model")


def _list(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
