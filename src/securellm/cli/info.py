"""`securellm info <provider>`: how a provider is configured here, and how it would be."""

import click

from securellm.cli.settings import config_option, load_or_explain
from securellm.config.mistakes import nearest_name
from securellm.config.table import provider_variable
from securellm.config.tree import Config
from securellm.config.tree import Provider as ProviderConfig


@click.command()
@click.argument("provider")
@config_option
def info(provider: str, config_path: str | None) -> None:
    """Show how a provider is configured: kind, final URLs, key, limits. Nothing is asked of it."""
    from securellm.providers.registry import ADAPTERS, describe

    config = load_or_explain(config_path)
    section = config.providers.get(provider)
    if section is None and provider not in ADAPTERS:
        known = sorted({*ADAPTERS, *config.providers})
        near = nearest_name(provider, known)
        hint = f"Did you mean: securellm info {near}" if near else f"Known: {', '.join(known)}"
        raise click.ClickException(f"no provider {provider}. {hint}")
    described = describe(provider, section or ProviderConfig(enabled=False, kind=ADAPTERS[provider].name))
    enabled = section is not None and section.enabled
    click.echo(f"{provider} ({described.kind}): {'enabled' if enabled else 'not enabled'}")
    if described.is_demo:
        click.echo("  answers by itself: demo/echo, demo/lorem")
        return
    _show_key(provider, described.api_key is not None, described.needs_key)
    for endpoint, spec in described.endpoints.items():
        translated = "" if spec.dialect is endpoint.dialect else f" (translated to {spec.dialect.value})"
        click.echo(f"  {endpoint.value:<22} {spec.url}{translated}")
    _show_limits(config, section or ProviderConfig())
    if not enabled:
        switch = "API_KEY" if described.needs_key else "ENABLED"
        value = "<your key>" if described.needs_key else "true"
        click.echo(f"Enable it with: {provider_variable(provider, switch)}={value} securellm serve")


def _show_key(provider: str, is_set: bool, needed: bool) -> None:
    state = "set" if is_set else ("missing" if needed else "none needed")
    click.echo(f"  {'key':<22} {state} ({provider_variable(provider, 'API_KEY')} or api_key in the file)")


def _show_limits(config: Config, section: ProviderConfig) -> None:
    breaker = section.circuit_breaker
    click.echo(f"  {'retries':<22} at most {section.max_retries}, before the first byte")
    attempt = f"{section.timeout_secs:g} s an attempt, " if section.timeout_secs else ""
    click.echo(f"  {'time':<22} {attempt}{config.timeouts.total_s:g} s in all")
    click.echo(
        f"  {'circuit breaker':<22} opens after {breaker.failure_threshold} failures, for {breaker.timeout_secs:g} s"
    )
