"""`securellm prices`: what models cost here, where the figures come from, and which models have none."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import click
import msgspec

from securellm.cli.settings import check_prices, config_option, load_or_explain
from securellm.errors import ConfigError
from securellm.pricing.kept import IMPORTED, load_table, write_durably
from securellm.pricing.price import NUSD_PER_USD, Price
from securellm.pricing.shipped import decode_price_file, decode_sections
from securellm.pricing.table import PriceTable


@click.group()
def prices() -> None:
    """List, import and check the prices of models, in US dollars per million tokens."""


@prices.command("list")
@click.argument("provider", required=False)
@click.option("--all", "every", is_flag=True, help="Every provider that has prices, not only the enabled ones.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs: nano-USD per million tokens.")
@config_option
def list_prices(provider: str | None, every: bool, as_json: bool, config_path: str | None) -> None:
    """List prices: those of PROVIDER, else those of the enabled providers."""
    config = load_or_explain(config_path)
    try:
        table = load_table(config, every=every or provider is not None)
        in_force = load_table(config)
    except ConfigError as exc:
        raise click.ClickException(exc.message) from None
    if provider is not None and provider not in table.providers:
        raise click.ClickException(f"no prices for provider {provider}. There are: {', '.join(table.providers)}")
    rows = [
        (f"{name}/{model}", price)
        for name in ([provider] if provider is not None else table.providers)
        for model, price in table.entries(name)
    ]
    if as_json:
        models = [{"model": name, **msgspec.to_builtins(price)} for name, price in rows]
        click.echo(json.dumps({"price_table": in_force.sha256, "models": models}))
        return
    click.echo(f"{'model':<56}{'input':>11}{'output':>11}{'cached':>11}  notes")
    for name, price in rows:
        click.echo(_row(name, price))
    click.echo(f"USD per million tokens. The table in force is {in_force.sha256}.", err=True)


@prices.command("import")
@click.option("--from", "source", metavar="FILE", help="A file that this command wrote elsewhere, not the package.")
@click.option("--output", metavar="FILE", help="Where to write, in place of <state_dir>/prices.json.")
@click.option("--date", "day", metavar="DAY", help="The day whose prices are taken (2027-01-31); today when left out.")
@config_option
def import_command(source: str | None, output: str | None, day: str | None, config_path: str | None) -> None:
    """Take newer prices than the shipped ones, from the package genai-prices or from a file.

    A running gateway goes on with the prices that it has; it takes the new ones at its next start.
    """
    data, unpriced = (_read(source), []) if source is not None else _made(_day(day))
    path = Path(output) if output is not None else load_or_explain(config_path).state_dir / IMPORTED
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(path, data)
    except OSError as exc:
        raise click.ClickException(f"{path} cannot be written: {exc.strerror}") from exc
    file = decode_price_file(data)
    sections = decode_sections(file, set(file.sections))
    models = sum(len(section.models) for section in sections.values())
    click.echo(f"{path}: {models} models of {len(sections)} providers, from {file.made_by}, {file.date}")
    if unpriced:
        click.echo(f"without a price per token, left out: {', '.join(unpriced)}", err=True)


@prices.command()
@config_option
def check(config_path: str | None) -> None:
    """See that every model which the configuration names has a price or is free. Ends with 1 when one has none."""
    config = load_or_explain(config_path)
    check_prices(config)
    table: PriceTable = load_table(config)
    click.echo(f"every model that the configuration names has a price; the table is {table.sha256}")


def _made(day: date) -> tuple[bytes, list[str]]:
    from securellm.pricing.importing import PACKAGE, PackageMissing, import_prices  # only this command needs it

    try:
        return import_prices(day)
    except PackageMissing as exc:
        message = f"{exc}. Install it beside the gateway ({PACKAGE}, the extra `prices`), or give --from FILE"
        raise click.ClickException(message) from None


def _read(source: str) -> bytes:
    try:
        data = Path(source).read_bytes()
        file = decode_price_file(data)
        decode_sections(file, set(file.sections))
    except OSError as exc:
        raise click.ClickException(f"{source} cannot be read: {exc.strerror}") from None
    except ValueError as exc:
        raise click.ClickException(f"{source} is not a file of prices: {exc}") from None
    return data


def _day(text: str | None) -> date:
    if text is None:
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"got {text!r}, expected a day (2027-01-31)", param_hint="--date") from None


def _row(name: str, price: Price) -> str:
    if price.free:
        return f"{name:<56}{'free':>11}"
    output = price.input if price.output is None else price.output
    cached = price.input if price.cache_read is None else price.cache_read
    notes = [f"more above {tier.above_tokens} tokens" for tier in price.tiers[:1]]
    return f"{name:<56}{_usd(price.input):>11}{_usd(output):>11}{_usd(cached):>11}  {', '.join(notes)}".rstrip()


def _usd(nusd: int) -> str:
    whole, rest = divmod(nusd, NUSD_PER_USD)
    return " " + f"{whole}.{rest:09d}".rstrip("0").rstrip(".")
