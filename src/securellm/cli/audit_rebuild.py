"""`securellm audit rebuild`: the index of the audit log, made anew from the files."""

from contextlib import closing

import click

from securellm.audit.index import open_index
from securellm.cli import audit_options as options
from securellm.cli.settings import config_option, load_or_explain
from securellm.errors import StoreUnavailable


@click.command()
@config_option
def rebuild(config_path: str | None) -> None:
    """Fill the table audit_logs anew from the files. The gateway may run meanwhile."""
    config = load_or_explain(config_path)
    try:
        with closing(open_index(config, options.log_directory(config))) as index:
            rows = index.rebuild()
    except StoreUnavailable as exc:
        raise click.ClickException(f"the store cannot be used: {exc.message}") from None
    except OSError as exc:
        raise options.unreadable(exc) from None
    click.echo(f"{rows} records are indexed.")
