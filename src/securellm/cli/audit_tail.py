"""`securellm audit tail`: the newest records, and those that follow, over midnight and in every slot."""

import time
from collections.abc import Iterable

import click

from securellm.audit.reading import Follower, Placed, read_last
from securellm.audit.rows import parse_row
from securellm.cli import audit_options as options
from securellm.cli.settings import config_option, load_or_explain

LOOK_EVERY_S = 0.25  # soon enough for a person, and nothing for a disk


@click.command()
@click.option(
    "-n", "--lines", type=click.IntRange(0, 100_000), default=10, show_default=True, help="The newest so many."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on, until Ctrl-C.")
@options.json_option
@config_option
def tail(lines: int, follow: bool, as_json: bool, config_path: str | None) -> None:
    """Show the newest records, of requests as they begin and end, and of events."""
    directory = options.log_directory(load_or_explain(config_path))
    try:
        follower = Follower(directory) if follow else None
        if not as_json:
            click.echo(options.heading())
        _print(read_last(directory, lines), as_json)
        while follower is not None:
            _print(follower.read(), as_json)
            time.sleep(LOOK_EVERY_S)
    except BrokenPipeError:
        raise  # whoever read our output has gone; main ends quietly
    except OSError as exc:
        raise options.unreadable(exc) from None


def _print(records: Iterable[Placed], as_json: bool) -> None:
    for placed in records:
        if as_json:
            click.echo(placed.line)
        elif (row := parse_row(placed.line)) is not None:
            click.echo(options.format_row(row))
