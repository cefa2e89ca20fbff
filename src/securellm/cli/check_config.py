"""`securellm check-config`: every mistake in the configuration, routes that lead nowhere, models without a price."""

import click

from securellm.cli.settings import check_prices, check_routes, config_option, load_or_explain
from securellm.config.show import encode_toml


@click.command("check-config")
@config_option
@click.option("--print", "print_it", is_flag=True, help="Print the effective configuration, secrets as ***.")
def check_config(config_path: str | None, print_it: bool) -> None:
    """Find every mistake in the configuration. Ends with 0 when `serve` would take it, else with 1.

    Mistakes are told with their line, and the nearest known name. Nothing is asked of any provider.
    """
    config = load_or_explain(config_path)
    check_routes(config)
    check_prices(config)
    for warning in config.warnings:
        click.echo(f"warning: {warning}", err=True)
    if print_it:
        click.echo(encode_toml(config), nl=False)
        return
    enabled = [name for name, provider in config.providers.items() if provider.enabled]
    click.echo(f"{config.source or 'defaults and environment (no file)'}: no mistakes")
    click.echo(f"providers: {', '.join(enabled) or 'none enabled'}; epoch {config.epoch}")
