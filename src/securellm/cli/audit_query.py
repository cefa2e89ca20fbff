"""`securellm audit query`: find requests and events, by the index where it is there, else in the files."""

from collections import deque
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import msgspec

from securellm.audit.filters import Filters
from securellm.audit.reading import Reading
from securellm.audit.rows import parse_row
from securellm.cli import audit_options as options
from securellm.cli.settings import config_option, load_or_explain
from securellm.config import Config
from securellm.errors import StoreUnavailable

CATCH_UP_S = 2.0  # for which a query fills the index itself, when that is behind; then the files are faster


@click.command()
@options.filter_options
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="The newest so many.")
@click.option("--all", "every", is_flag=True, help="Show the beginnings of requests and attempts, too.")
@click.option("--files", "from_files", is_flag=True, help="Read the files, whatever the index says.")
@options.json_option
@config_option
def query(limit: int, every: bool, from_files: bool, as_json: bool, config_path: str | None, **wanted: Any) -> None:
    """Find requests and events: the newest that match, the newest last."""
    filters = options.read_filters(**wanted)
    if not every and not filters.event_types:
        filters = msgspec.structs.replace(filters, event_types=options.ENDS)
    config = load_or_explain(config_path)
    directory = options.log_directory(config)
    try:
        rows = None if from_files else _ask_index(config, directory, filters, limit)
        if rows is None:
            rows = _ask_files(directory, filters, limit)
    except OSError as exc:
        raise options.unreadable(exc) from None
    if as_json:
        for row in rows:
            click.echo(options.encode_row(row))
        return
    if not rows:
        click.echo("Nothing matches.")
        return
    click.echo(options.heading())
    for row in rows:
        click.echo(options.format_row(row))
    if len(rows) == limit:
        click.echo(f"The newest {limit}; --limit shows more.", err=True)


def _ask_index(config: Config, directory: Path, filters: Filters, limit: int) -> list[dict[str, Any]] | None:
    """The index's answer; None when there is none, or it is too far behind. Raises OSError."""
    from securellm.audit.index import open_index  # not at the top: it takes long to load

    if config.database.server is None and not config.database.path.exists():
        return None
    try:
        with closing(open_index(config, directory)) as index:
            if index.fill(within_s=CATCH_UP_S):
                return index.find(filters, limit)
        click.echo("The index is far behind; reading the files. securellm audit rebuild fills it.", err=True)
    except StoreUnavailable as exc:
        click.echo(f"The index cannot be used ({exc.message}); reading the files.", err=True)
    return None


def _ask_files(directory: Path, filters: Filters, limit: int) -> list[dict[str, Any]]:
    reading = Reading(directory, since=filters.since)
    newest = deque((placed.line for placed in reading if filters.match(placed.head)), maxlen=limit)
    options.warn_of_damage(reading.damaged)
    return [row for line in newest if (row := parse_row(line)) is not None]
