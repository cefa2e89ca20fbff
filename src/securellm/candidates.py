"""Who may answer a call: the targets of its model that the key was granted and that have a price. No I/O.

A target that falls out is passed over, and the record says why; only when none is left is the request refused, for the
reason of the first.
"""

from collections.abc import Iterable

import msgspec

from securellm.accounts.authority import check_model, may_use
from securellm.chat import Caller, Endpoint
from securellm.errors import ModelRefused, UnpricedModel, UnsupportedEndpoint
from securellm.holdings import Most
from securellm.pricing.bound import Ceiling, by_price, ceiling_of, image_tokens_at_most, worst_case
from securellm.pricing.table import price_of
from securellm.routing import PassedOver, Route, Target
from securellm.serving import KnownCeiling, Serving
from securellm.wire.body import Peeked, names_of
from securellm.wire.weight import Weight

MAX_KNOWN = 4096  # bounds that are kept, by target; past it all are found anew


def candidates_of(serving: Serving, caller: Caller, endpoint: Endpoint, model: str, x_provider: str | None) -> Route:
    """The targets to ask, in order. Raises UnknownModel and its kin, ModelRefused, UnpricedModel."""
    catalogue, healthy = serving.catalogue, serving.origins.healthy
    try:
        route = catalogue.route(model, x_provider, endpoint, healthy)
    except UnsupportedEndpoint:
        if endpoint is not Endpoint.COUNT_TOKENS:
            raise
        # Whoever cannot count may still be asked for an answer: the count is then estimated, and says so.
        route = catalogue.route(model, x_provider, Endpoint.MESSAGES, healthy)
    if len(route.targets) > 1 and serving.config.auto.order == "price":
        prices = serving.prices
        ordered = by_price(route.targets, lambda target: prices.find(target.provider.name, target.model))
        route = msgspec.structs.replace(route, targets=tuple(ordered))
    reasons = [_reason(serving, caller, target) for target in route.targets]
    if not any(reasons):
        return route
    first = route.targets[0]
    if all(reasons):
        check_model(caller, first.provider.name, first.model)
        price_of(serving.prices, first.provider.name, first.model)
    left = tuple(target for target, reason in zip(route.targets, reasons, strict=True) if not reason)
    fallen = tuple(PassedOver(target, reason) for target, reason in zip(route.targets, reasons, strict=True) if reason)
    return msgspec.structs.replace(route, targets=left, passed_over=route.passed_over + fallen)


def other_models_of(caller: Caller, targets: Iterable[Target]) -> frozenset[str]:
    """The fields by which a body would have the targets ask other models, where the key is for some models only."""
    if caller.grants.models is None:
        return frozenset()
    return frozenset(name for target in targets for name in target.provider.quirks.other_models)


def check_other_models(names: frozenset[str], body: bytes) -> None:
    """Refuse a body that names others for the provider to ask in their place. Raises ModelRefused."""
    for name in names.intersection(names_of(body) if names else ()):
        raise ModelRefused(
            f"this key may use some models only, and {name} names others beside model; leave it out", param=name
        )


def most_of(endpoint: Endpoint, peeked: Peeked, weight: Weight, ceilings: Iterable[Ceiling]) -> Most:
    """The dearest of some targets, each at its own prices and bounds."""
    cost_nusd = tokens = output_tokens = 0
    for ceiling in ceilings:
        bound = worst_case(endpoint, peeked, weight, ceiling)
        output = (peeked.max_output_tokens or ceiling.max_output_tokens) * peeked.n * weight.answers
        if bound.cost_nusd > cost_nusd:
            cost_nusd = bound.cost_nusd
        if bound.tokens > tokens:
            tokens = bound.tokens
        if output > output_tokens:
            output_tokens = output
    return Most(cost_nusd, tokens, output_tokens)


def ceilings_of(serving: Serving, targets: Iterable[Target]) -> tuple[Ceiling, ...]:
    """What bounds requests to some targets, as long as the catalogue says the same of them."""
    return tuple(_ceiling(serving, target) for target in targets)


def _ceiling(serving: Serving, target: Target) -> Ceiling:
    """What bounds requests to a target, as long as the catalogue says the same of it."""
    provider, model, generation = target.provider, target.model, serving.catalogue.generation
    known = serving.ceilings.get((provider.name, model))
    if known is not None and known.generation == generation:
        return known.ceiling
    card = serving.catalogue.card(provider.name, model)
    ceiling = ceiling_of(
        price_of(serving.prices, provider.name, model),
        image_tokens=image_tokens_at_most(provider.kind, model),
        window_tokens=card.context if card is not None else None,
        max_output_tokens=serving.catalogue.max_output(target) or serving.config.budgets.unknown_max_output_tokens,
    )
    if len(serving.ceilings) >= MAX_KNOWN:
        serving.ceilings.clear()
    serving.ceilings[provider.name, model] = KnownCeiling(generation, ceiling)
    return ceiling


def _reason(serving: Serving, caller: Caller, target: Target) -> str:
    """Why a target may not be asked, as an error's code; empty when it may."""
    if not may_use(caller, target.provider.name, target.model):
        return ModelRefused.code
    return "" if serving.prices.find(target.provider.name, target.model) is not None else UnpricedModel.code
