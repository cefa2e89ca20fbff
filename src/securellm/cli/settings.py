"""What commands that read the configuration share: the option, the one error, the exercise of the routes."""

from collections.abc import Mapping

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
