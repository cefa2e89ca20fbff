"""`securellm audit recompute`: past costs, computed again from the recorded usage and the recorded table of prices."""

import json
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from securellm.cli.settings import config_option, load_or_explain
from securellm.pricing.kept import read_kept_table
from securellm.pricing.recompute import Finding, recompute_lines
from securellm.pricing.table import PriceTable


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each record that was computed again.")
@config_option
def recompute(files: tuple[Path, ...], as_json: bool, config_path: str | None) -> None:
    """Compute past costs again: of FILEs, else of every audit file. Ends with 1 when one is not what was recorded.

    The tables of prices that were in force are kept in <state_dir>/prices.
    """
    config = load_or_explain(config_path)
    paths = files or tuple(sorted(config.log_dir.glob("audit.*.log")))

    def kept(name: str) -> PriceTable | None:
        return read_kept_table(config.state_dir, name)

    checked, wrong, total_nusd = 0, 0, 0
    for finding in recompute_lines(_lines(paths), kept):
        checked += 1
        total_nusd += finding.recomputed_nusd or 0
        wrong += finding.problem is not None
        if as_json:
            click.echo(json.dumps(msgspec.to_builtins(finding)))
        elif finding.problem is not None:
            click.echo(_told(finding))
    usd = f"{total_nusd // 1_000_000_000}.{total_nusd % 1_000_000_000:09d}"
    summary = f"{checked} records with a cost in {len(paths)} files, together {usd} USD"
    if wrong:
        raise click.ClickException(f"{summary}; {wrong} of them could not be confirmed")
    click.echo(f"{summary}; every recorded cost is confirmed", err=as_json)


def _lines(paths: tuple[Path, ...]) -> Iterator[tuple[str, bytes]]:
    """Every line of the files with its place; one line in memory at a time."""
    for path in paths:
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.endswith(b"\n"):  # what has no end yet is being written
                        yield f"{path.name}:{number}", line
        except OSError as exc:
            raise click.ClickException(f"{path} cannot be read: {exc.strerror}") from None


def _told(finding: Finding) -> str:
    figures = ""
    if finding.recomputed_nusd is not None:
        figures = f": recorded {finding.recorded_nusd} nano-USD, recomputed {finding.recomputed_nusd}"
    return f"{finding.place} {finding.request_id} {finding.problem}{figures}"
