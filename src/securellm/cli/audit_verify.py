"""`securellm audit verify` and `securellm audit public-key`: whether the log is as it was written, and by whose key."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from securellm.audit import verify as verifier
from securellm.cli.settings import config_option, load_or_explain
from securellm.errors import ConfigError

UNREADABLE = 2  # no verdict, as when it is called wrongly

_file = click.Path(path_type=Path)


@click.command()
@click.argument("directory", required=False, type=_file)
@click.option("--key", "keys", multiple=True, metavar="KEY", help="The public key, or a file with it; else our own.")
@click.option("--all", "every", is_flag=True, help="Verify every signature, and that every line is in canonical form.")
@click.option("--from", "since", multiple=True, type=_file, metavar="FILE", help="Begin at this checkpoint.")
@click.option(
    "--checkpoint", "kept", multiple=True, type=_file, metavar="FILE", help="Compare with one kept elsewhere."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, for programs.")
@click.option(
    "--write-verifier", "target", type=_file, metavar="FILE", help="Write the verifier for auditors, no more."
)
@config_option
@click.pass_context
def verify(
    ctx: click.Context,
    directory: Path | None,
    keys: tuple[str, ...],
    every: bool,
    since: tuple[Path, ...],
    kept: tuple[Path, ...],
    as_json: bool,
    target: Path | None,
    config_path: str | None,
) -> None:
    """Check every record, checkpoint and file of the audit log in DIRECTORY, else of the configuration's.

    Ends with 0 when all is good, with 1 when something is bad, with 2 when it could not be read. The gateway may run
    meanwhile. What an auditor runs elsewhere is the file that --write-verifier writes: it needs Python alone.
    """
    if target is not None:
        _write_verifier(target)
        return
    try:
        report = verifier.verify_directory(
            str(directory or load_or_explain(config_path).log_dir),
            [verifier.load_key(key) for key in keys] or [verifier.parse_key(_own_key(config_path))],
            every=every,
            since=[str(path) for path in since],
            kept=[str(path) for path in kept],
        )
    except (verifier.Unreadable, OSError) as exc:
        click.echo(f"not verified: {exc}", err=True)
        ctx.exit(UNREADABLE)
    click.echo(json.dumps(asdict(report), indent=2) if as_json else "\n".join(verifier.describe(report)))
    if report.good and not keys:
        click.echo("Checked with the key that is on this machine now; with one noted earlier: --key KEY.", err=True)
    ctx.exit(0 if report.good else 1)


@click.command("public-key")
@config_option
def public_key(config_path: str | None) -> None:
    """Print the key that checkpoints are checked with. Note it where this machine cannot change it."""
    click.echo(_own_key(config_path))


def _own_key(config_path: str | None) -> str:
    """The public key of the configuration's signing key, which is not made here: its owner is who serves."""
    from securellm.audit.keys import load_signing_key  # cryptography takes long to import

    config = load_or_explain(config_path)
    try:
        return load_signing_key(config.state_dir, config.audit.signing_key, create=False).encode_public_key()
    except ConfigError as exc:
        hint = "It is made when the gateway first starts; `--key KEY` gives another."
        raise click.ClickException(f"{exc.message}. {hint}") from None


def _write_verifier(target: Path) -> None:
    source = Path(verifier.__file__).read_bytes()
    try:
        with target.open("xb") as file:
            file.write(source)
    except OSError as exc:
        raise click.ClickException(f"{target} cannot be written: {exc.strerror}") from None
    click.echo(f"{target} verifies with Python 3.9 or later: python {target} DIRECTORY --key KEY")
