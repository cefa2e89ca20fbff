"""`securellm audit seal|prune|erase`: care for the files that no gateway writes, and for recorded bodies."""

from collections.abc import Callable
from pathlib import Path

import click

from securellm.audit.content import erase_content, list_content
from securellm.audit.keeping import Keeper
from securellm.audit.reading import list_slots
from securellm.cli import audit_options as options
from securellm.cli.settings import config_option, load_or_explain
from securellm.config import Config
from securellm.errors import ConfigError, StoreUnavailable

CONTENT_ERASED = "content_erased"  # as in docs/audit-format.md

_slot_option = click.option("--slot", "slots", multiple=True, type=click.IntRange(1), help="Only this one; else all.")


@click.command()
@_slot_option
@config_option
def seal(slots: tuple[int, ...], config_path: str | None) -> None:
    """Close the chain of slots that no gateway writes, with a last checkpoint.

    After a crash, or when there are fewer workers than there were. What the crash left is put right first.
    """
    config = load_or_explain(config_path)
    directory = options.log_directory(config)
    keeper = _keeper(config, directory)

    def close(slot: int) -> str:
        sealed = keeper.seal(slot)
        if not sealed.added:
            return f"Slot {slot} is closed already, with record {sealed.seq}."
        were = "request was" if sealed.interrupted == 1 else "requests were"
        interrupted = f"; {sealed.interrupted} {were} interrupted" if sealed.interrupted else ""
        return f"Slot {slot} is closed with record {sealed.seq}{interrupted}."

    _for_each(directory, slots, close)


@click.command()
@_slot_option
@config_option
def prune(slots: tuple[int, ...], config_path: str | None) -> None:
    """Delete what is older than audit.retention_days, now. A running gateway does it each midnight."""
    config = load_or_explain(config_path)
    directory = options.log_directory(config)
    keeper = _keeper(config, directory)

    def delete(slot: int) -> str:
        pruned = keeper.prune(slot, config.audit.retention_days)
        days = f"{pruned.days} {'day' if pruned.days == 1 else 'days'}"
        return f"Slot {slot}: {days if pruned.days else 'nothing'} older than {config.audit.retention_days} days."

    _for_each(directory, slots, delete)


@click.command()
@click.argument("request_id", metavar="REQUEST_ID")
@config_option
def erase(request_id: str, config_path: str | None) -> None:
    """Delete the recorded bodies of a request. Its records stay, and the chain verifies and says that it was done."""
    config = load_or_explain(config_path)
    directory = options.log_directory(config)
    try:
        if list_content(directory, request_id):
            _announce_erasing(config, request_id)
        erased = erase_content(directory, request_id)
    except ValueError:
        raise click.BadParameter("expected the id of a request (x-request-id)", param_hint="REQUEST_ID") from None
    except OSError as exc:
        raise click.ClickException(f"the bodies cannot be deleted: {exc.strerror or 'input/output error'}") from None
    if not erased:
        raise click.ClickException("no bodies of that request are recorded, or they are erased already")
    click.echo(f"Erased: {' and '.join(erased)} of {request_id}.")


def _announce_erasing(config: Config, request_id: str) -> None:
    """Leave word for the gateway, which writes it into the chain, before anything is deleted."""
    from securellm.accounts.store import Store  # not at the top: only erasing needs it

    store = Store(config)
    try:
        store.note_event(CONTENT_ERASED, request_id)
    except StoreUnavailable as exc:
        raise click.ClickException(f"nothing is erased, as it cannot be noted: {exc.message}") from None
    finally:
        store.close()


def _keeper(config: Config, directory: Path) -> Keeper:
    from securellm.audit.keys import load_signing_key  # not at the top: cryptography takes long to load
    from securellm.audit.opening import unix_us

    try:
        key = load_signing_key(config.state_dir, config.audit.signing_key, create=False)
    except ConfigError as exc:
        raise click.ClickException(exc.message) from None
    return Keeper(directory, key, now_us=unix_us, longest_request_s=config.timeouts.total_s)


def _for_each(directory: Path, slots: tuple[int, ...], act: Callable[[int], str]) -> None:
    """Do it for each slot; one that is being written is told, and is an error when nothing else could be done."""
    failures = []
    try:
        there = list_slots(directory)
        for slot in slots or there:
            if slot not in there:
                failures.append(f"slot {slot} has no file")
                continue
            try:
                click.echo(act(slot))
            except ConfigError as exc:
                failures.append(f"{exc.message}; stop it first, or leave it alone")
    except OSError as exc:
        raise click.ClickException(f"the audit log cannot be written: {exc.strerror or 'input/output error'}") from None
    if failures:
        raise click.ClickException("\n".join(failures))
    if not slots and not there:
        click.echo("There are no audit files.")
