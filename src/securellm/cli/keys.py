"""`securellm keys`: make, list and revoke the keys of callers, in the store, whether the gateway runs or not."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click

from securellm.accounts.keys import ROLES, KeyRecord, parse_key
from securellm.accounts.store import Store
from securellm.cli.settings import config_option, load_or_explain
from securellm.errors import StoreUnavailable

MAX_NAME_CHARS = 128

_LIFETIME = re.compile(r"(\d{1,6})([hdwy])", re.ASCII)
_UNIT_S = {"h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@click.group()
def keys() -> None:
    """Make, list and revoke the keys of callers. A running gateway takes a change within 2 s."""


@keys.command()
@click.option("--name", default="", help="Whose key it is; shown in lists and in the audit.")
@click.option("--role", type=click.Choice(ROLES), default="user", show_default=True, help="What it may do.")
@click.option("--expires", metavar="WHEN", help="A lifetime (12h, 30d, 8w, 1y) or a day (2027-01-31, UTC).")
@_json_option
@config_option
def create(name: str, role: str, expires: str | None, as_json: bool, config_path: str | None) -> None:
    """Make a key and print it. It is shown this once; only its id is ever shown again."""
    if len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise click.BadParameter(f"expected at most {MAX_NAME_CHARS} printable characters", param_hint="--name")
    now_s = int(time.time())
    expires_at_s = parse_expiry_s(expires, now_s) if expires else None
    with _opened(config_path) as store:
        minted = store.create_key(name, role, expires_at_s=expires_at_s)
    if minted is None:
        raise click.ClickException("the key was not made")
    if as_json:
        shown = {"id": minted.id, "key": minted.text, "name": name, "role": role, "expires_at": _date(expires_at_s)}
        click.echo(json.dumps(shown))
        return
    until = f", until {_date(expires_at_s)}" if expires_at_s else ""
    click.echo(minted.text)
    click.echo(f"Key {minted.id}, role {role}{until}. It is shown this once: keep it now.", err=True)


@keys.command("list")
@_json_option
@config_option
def list_keys(as_json: bool, config_path: str | None) -> None:
    """List the keys by id: never the keys themselves."""
    with _opened(config_path) as store:
        table = store.read_keys()
    records = table.records if table else ()
    now_s = time.time()
    if as_json:
        click.echo(json.dumps([_shown(record, now_s) for record in records]))
        return
    if not records:
        click.echo("No keys yet. Make one: securellm keys create")
        return
    click.echo(f"{'id':<10}{'state':<9}{'role':<10}{'created':<22}{'expires':<22}name")
    for record in records:
        created, expires = _date(record.created_at_s), _date(record.expires_at_s) or "never"
        state = record.state(now_s)
        click.echo(f"{record.id:<10}{state:<9}{record.role:<10}{created:<22}{expires:<22}{record.name}".rstrip())


@keys.command()
@click.argument("key_id", metavar="ID")
@config_option
def revoke(key_id: str, config_path: str | None) -> None:
    """Revoke a key, for good. ID is its eight characters; the whole key is understood, too."""
    wanted = parse_key(key_id) or key_id
    with _opened(config_path) as store:
        revoked = store.revoke_key(wanted)
    if not revoked:
        # An argument that is not an id may be a secret: it is not repeated.
        which = wanted if re.fullmatch("[a-z2-7]{8}", wanted) else "with that id"
        raise click.ClickException(f"no active key {which}. securellm keys list shows them.")
    click.echo(f"Key {wanted} is revoked; a running gateway refuses it within 2 s.")


def parse_expiry_s(text: str, now_s: int) -> int:
    """Unix seconds of a lifetime from now or of the start of a day in UTC. Raises BadParameter."""
    lifetime = _LIFETIME.fullmatch(text)
    try:
        if lifetime:
            expires_at_s = now_s + int(lifetime[1]) * _UNIT_S[lifetime[2]]
        else:
            expires_at_s = int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
        datetime.fromtimestamp(expires_at_s, UTC)
    except (ValueError, OverflowError):
        expected = "expected a lifetime (12h, 30d, 8w, 1y) or a day (2027-01-31)"
        raise click.BadParameter(f"got {text!r}, {expected}", param_hint="--expires") from None
    if expires_at_s <= now_s:
        raise click.BadParameter(f"got {text!r}, which is not in the future", param_hint="--expires")
    return expires_at_s


@contextmanager
def _opened(config_path: str | None) -> Iterator[Store]:
    """The store of the configuration; when it cannot be used, what to do about it."""
    store = Store(load_or_explain(config_path))
    try:
        yield store
    except StoreUnavailable as exc:
        raise click.ClickException(f"the key store cannot be used: {exc.message}") from None
    finally:
        store.close()


def _shown(record: KeyRecord, now_s: float) -> dict[str, str | None]:
    return {
        "id": record.id,
        "name": record.name,
        "role": record.role,
        "state": record.state(now_s),
        "created_at": _date(record.created_at_s),
        "expires_at": _date(record.expires_at_s),
        "revoked_at": _date(record.revoked_at_s),
    }


def _date(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
