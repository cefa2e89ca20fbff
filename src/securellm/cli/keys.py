"""`securellm keys`: make, list, rotate and revoke the keys of callers, whether the gateway runs or not."""

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from securellm.accounts.keys import ROLES, KeyRecord, MintedKey, parse_key
from securellm.accounts.records import KeyChanges
from securellm.chat import Endpoint, Grants
from securellm.cli.accounts_options import (
    actor,
    change_rates,
    date,
    json_option,
    now_s,
    opened,
    parse_expiry_s,
    parse_lifetime_s,
    plain_rates,
    print_facts,
    print_list,
    rate_options,
    read_rates,
)
from securellm.cli.settings import config_option

F = TypeVar("F", bound=Callable[..., Any])

CLEARABLE = ("user", "team", "expires", "models", "providers", "endpoints", "networks", "rates")
_FIELD_OF = {"user": "user_id", "team": "team_id", "expires": "expires_at_s"}

COLUMNS = {"id": 10, "state": 9, "role": 10, "created_at": 22, "expires_at": 22, "user": 16, "name": 0}


def _grant_options(command: F) -> F:
    """What a key may be used for; what is not given is not restricted."""
    endpoints = click.Choice([endpoint.value for endpoint in Endpoint])
    for option in (
        click.option("--network", "networks", multiple=True, metavar="CIDR", help="Only from these, like 10.0.0.0/8."),
        click.option("--endpoint", "endpoints", multiple=True, type=endpoints, help="Only at this door; repeatable."),
        click.option("--provider", "providers", multiple=True, metavar="NAME", help="Only this provider; repeatable."),
        click.option("--model", "models", multiple=True, metavar="PATTERN", help="Only openai/gpt-5, openai/* …"),
    ):
        command = option(command)
    return command


@click.group()
def keys() -> None:
    """Make, list, rotate and revoke the keys of callers. A running gateway takes a change within 2 s."""


@keys.command()
@click.option("--name", default="", help="Whose key it is; shown in lists and in the audit.")
@click.option("--user", "user_id", metavar="ID", help="The user that it belongs to: securellm users.")
@click.option("--team", "team_id", metavar="ID", help="The team that it belongs to, else its user's.")
@click.option("--role", type=click.Choice(ROLES), default="user", show_default=True, help="What it may do.")
@click.option("--expires", metavar="WHEN", help="A lifetime (12h, 30d, 8w, 1y) or a day (2027-01-31, UTC).")
@_grant_options
@rate_options
@json_option
@config_option
def create(
    name: str,
    user_id: str | None,
    team_id: str | None,
    role: str,
    expires: str | None,
    models: tuple[str, ...],
    providers: tuple[str, ...],
    endpoints: tuple[str, ...],
    networks: tuple[str, ...],
    as_json: bool,
    config_path: str | None,
    **rates: Any,
) -> None:
    """Make a key and print it. It is shown this once; only its id is ever shown again."""
    expires_at_s = parse_expiry_s(expires, now_s()) if expires else None
    with opened(config_path) as store:
        minted = store.create_key(
            name,
            role,
            expires_at_s=expires_at_s,
            user_id=user_id,
            team_id=team_id,
            grants=Grants(models or None, providers or None, endpoints or None, networks or None),
            rates=read_rates(**rates),
            actor=actor(),
        )
    if minted is None:
        raise click.ClickException("the key was not made")
    until = f", until {date(expires_at_s)}" if expires_at_s else ""
    facts = {"name": name, "role": role, "expires_at": date(expires_at_s)}
    _print_key(minted, facts, f"Key {minted.id}, role {role}{until}.", as_json=as_json)


@keys.command("list")
@click.option("--user", "user_id", metavar="ID", help="Only those of a user.")
@click.option("--team", "team_id", metavar="ID", help="Only those of a team; those of its users are theirs.")
@json_option
@config_option
def list_keys(user_id: str | None, team_id: str | None, as_json: bool, config_path: str | None) -> None:
    """List the keys by id: never the keys themselves."""
    with opened(config_path) as store:
        records = store.list_keys(user_id=user_id, team_id=team_id)
    shown = [_shown(record) for record in records]
    if not as_json:
        shown = [{**one, "expires_at": one["expires_at"] or "never"} for one in shown]
    print_list(shown, COLUMNS, "No keys yet. Make one: securellm keys create", as_json=as_json)


@keys.command()
@click.argument("key_id", metavar="ID")
@json_option
@config_option
def show(key_id: str, as_json: bool, config_path: str | None) -> None:
    """Show what a key belongs to and may do."""
    with opened(config_path) as store:
        record = store.find_key(_id_of(key_id))
    print_facts(_shown(record), as_json=as_json)


@keys.command("set")
@click.argument("key_id", metavar="ID")
@click.option("--name", help="Whose key it is.")
@click.option("--user", "user_id", metavar="ID", help="The user that it belongs to.")
@click.option("--team", "team_id", metavar="ID", help="The team that it belongs to, else its user's.")
@click.option("--role", type=click.Choice(ROLES), help="What it may do.")
@click.option("--expires", metavar="WHEN", help="A lifetime from now, or a day.")
@_grant_options
@rate_options
@click.option("--clear", multiple=True, type=click.Choice(CLEARABLE), help="Take this away; repeatable.")
@json_option
@config_option
def set_key(
    key_id: str,
    name: str | None,
    user_id: str | None,
    team_id: str | None,
    role: str | None,
    expires: str | None,
    models: tuple[str, ...],
    providers: tuple[str, ...],
    endpoints: tuple[str, ...],
    networks: tuple[str, ...],
    clear: tuple[str, ...],
    as_json: bool,
    config_path: str | None,
    **rates: Any,
) -> None:
    """Change what a key belongs to and may do; what is not named stays."""
    given: dict[str, Any] = {"name": name, "role": role, "user_id": user_id, "team_id": team_id}
    given["expires_at_s"] = parse_expiry_s(expires, now_s()) if expires else None
    granted = {"models": models, "providers": providers, "endpoints": endpoints, "networks": networks}
    fields = {_FIELD_OF.get(one, one) for one in clear}
    with opened(config_path) as store:
        before = store.find_key(_id_of(key_id))
        grants = msgspec.structs.replace(
            before.grants,
            **{field: None for field in fields & set(granted)},
            **{field: value for field, value in granted.items() if value},
        )
        changes = {field: value for field, value in given.items() if value is not None}
        changes |= {field: None for field in fields - set(granted)}
        if grants != before.grants:
            changes["grants"] = grants
        if any(value is not None for value in rates.values()):
            changes["rates"] = change_rates(None if "rates" in fields else before.rates, rates)
        record = store.update_key(before.id, KeyChanges(**changes), actor=actor())
    print_facts(_shown(record), as_json=as_json)


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--overlap", default="1h", show_default=True, metavar="TIME", help="How long the old one stays good.")
@json_option
@config_option
def rotate(key_id: str, overlap: str, as_json: bool, config_path: str | None) -> None:
    """Give a key a new secret and print it; id, limits and budgets stay, and the old one is good for a while."""
    overlap_s = parse_lifetime_s(overlap, "--overlap") if overlap != "0" else 0
    with opened(config_path) as store:
        minted = store.rotate_key(_id_of(key_id), overlap_s=overlap_s, actor=actor())
    until = date(now_s() + overlap_s)
    note = f"until {until}" if overlap_s else "no longer"
    facts = {"previous_until": until if overlap_s else None}
    _print_key(minted, facts, f"Key {minted.id} is rotated; the old one is good {note}.", as_json=as_json)


@keys.command()
@click.argument("key_id", metavar="ID")
@config_option
def revoke(key_id: str, config_path: str | None) -> None:
    """Revoke a key, for good. ID is its eight characters; the whole key is understood, too."""
    wanted = _id_of(key_id)
    with opened(config_path) as store:
        revoked = store.revoke_key(wanted, actor=actor())
    if not revoked:
        # An argument that is not an id may be a secret: it is not repeated.
        which = wanted if re.fullmatch("[a-z2-7]{8}", wanted) else "with that id"
        raise click.ClickException(f"no active key {which}. securellm keys list shows them.")
    click.echo(f"Key {wanted} is revoked; a running gateway refuses it within 2 s.")


def _id_of(text: str) -> str:
    return parse_key(text) or text


def _print_key(minted: MintedKey, facts: dict[str, Any], note: str, *, as_json: bool) -> None:
    """The key alone on standard output, so that a script can take it; the note is for people."""
    if as_json:
        click.echo(json.dumps({"id": minted.id, "key": minted.text, **facts}))
        return
    click.echo(minted.text)
    click.echo(f"{note} It is shown this once: keep it now.", err=True)


def _shown(record: KeyRecord) -> dict[str, Any]:
    grants = {name: getattr(record.grants, name) for name in Grants.__struct_fields__}
    return {
        "id": record.id,
        "name": record.name,
        "role": record.role,
        "state": record.state(now_s()),
        "created_at": date(record.created_at_s),
        "expires_at": date(record.expires_at_s),
        "revoked_at": date(record.revoked_at_s),
        "user": record.user_id,
        "team": record.team_id,
        **{name: list(granted) if granted is not None else None for name, granted in grants.items()},
        "rates": plain_rates(record.rates),
        "rotated_until": date(record.previous_until_s),
    }
