"""What commands that read the configuration share: the option, the one error, the exercise of the routes."""

from collections.abc import Iterator, Mapping

import click

from securellm.config import Config, ConfigMistakes, load_config
from securellm.errors import SecureLLMError

config_option = click.option(
    "--config",
    "config_path",
    metavar="PATH",
    help="The TOML file; else CONFIG_PATH, else /etc/securellm/config.toml if it is there.",
)


def load_or_explain(
    config_path: str | None, flags: Mapping[str, str] | None = None, found: tuple[str, ...] = ()
) -> Config:
    """Load the configuration. Raises ClickException that lists every mistake."""
    try:
        return load_config(config_path, flags=flags, found=found)
    except ConfigMistakes as exc:
        raise click.ClickException(exc.message) from None


def check_routes(config: Config) -> None:
    """Follow every alias and `auto` target as a request would. Raises ClickException that lists what leads nowhere."""
    mistakes = _route_mistakes(config)
    if mistakes:
        lines = [f"the configuration has {len(mistakes)} routes that lead nowhere:", *mistakes]
        raise click.ClickException("\n".join(lines).replace("has 1 routes that lead", "has a route that leads"))


def check_prices(config: Config) -> None:
    """See that every model which the configuration names has a price. Raises ClickException that lists those without.

    Named are the models of aliases, of `auto` and of providers' own lists; others are refused when they are asked for.
    """
    mistakes = _price_mistakes(config)
    if mistakes:
        lines = [f"the configuration names {len(mistakes)} models without a price:", *mistakes]
        raise click.ClickException("\n".join(lines).replace("names 1 models", "names a model"))


def _price_mistakes(config: Config) -> list[str]:
    from securellm.pricing.kept import load_table  # not at the top: nor are prices
    from securellm.pricing.table import lines_to_add

    try:
        table = load_table(config)
    except SecureLLMError as exc:
        return [f"  {exc.message}"]
    return [
        f"  {place}: {provider}/{model} has no price; add {lines_to_add(provider, model)}"
        for place, provider, model in _named_models(config)
        if table.find(provider, model) is None
    ]


def _named_models(config: Config) -> Iterator[tuple[str, str, str]]:
    """Where the configuration names a model, its provider, and the provider's own id; not what leads nowhere."""
    from securellm.providers.registry import describe_providers
    from securellm.providers.shipped import load_shipped
    from securellm.routing import AUTO_NAMES, Catalogue

    catalogue = Catalogue(config, describe_providers(config), load_shipped())
    places = [(f"aliases.{alias}", name) for alias, name in config.aliases.items() if name not in AUTO_NAMES]
    places += [(f"auto.targets: {target}", target) for target in config.auto.targets]
    for place, name in places:
        target = catalogue.resolve(name)
        if target is not None:
            yield place, target.provider.name, target.model
    for provider, section in config.providers.items():
        if section.enabled:
            yield from ((f"providers.{provider}.models", provider, model) for model in section.models)


def _route_mistakes(config: Config) -> list[str]:
    from securellm.chat import Endpoint  # not at the top: the providers are not needed to find other mistakes
    from securellm.providers.registry import describe_providers
    from securellm.providers.shipped import load_shipped
    from securellm.routing import Catalogue

    try:
        catalogue = Catalogue(config, describe_providers(config), load_shipped())
    except SecureLLMError as exc:
        return [f"  {exc.message}"]
    mistakes = []
    named = {f"aliases.{alias}": alias for alias in config.aliases}
    named.update({f"auto.targets: {target}": target for target in config.auto.targets})
    for place, model in named.items():
        failures: list[SecureLLMError] = []
        for endpoint in Endpoint:  # a target need not have every endpoint, only one
            try:
                catalogue.route(model, None, endpoint)
            except SecureLLMError as exc:
                failures.append(exc)
        if len(failures) == len(Endpoint):
            mistakes.append(f"  {place}: {failures[0].message}")
    return mistakes
