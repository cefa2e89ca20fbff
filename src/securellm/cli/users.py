"""`securellm users`: the people, programs and teams that keys belong to, whether the gateway runs or not."""

from typing import Any

import click

from securellm.accounts.records import TeamChanges, TeamRecord, UserChanges, UserRecord
from securellm.cli.accounts_options import (
    actor,
    change_rates,
    date,
    json_option,
    opened,
    plain_rates,
    print_facts,
    print_list,
    rate_options,
    read_rates,
)
from securellm.cli.settings import config_option

COLUMNS = {"id": 24, "state": 10, "team": 16, "created_at": 22, "name": 0}
TEAM_COLUMNS = {"id": 24, "state": 10, "created_at": 22, "name": 0}

_id_argument = click.argument("owner_id", metavar="ID")
_name_option = click.option("--name", default="", help="A name for people.")


@click.group()
def users() -> None:
    """Keep the users and teams that keys belong to. A running gateway takes a change within 2 s."""


@users.command()
@_id_argument
@_name_option
@click.option("--team", "team_id", metavar="ID", help="The team that the user is in.")
@rate_options
@json_option
@config_option
def create(owner_id: str, name: str, team_id: str | None, as_json: bool, config_path: str | None, **rates: Any) -> None:
    """Make a user; ID is what the audit log says of the user's requests."""
    with opened(config_path) as store:
        record = store.create_user(owner_id, name, team_id=team_id, rates=read_rates(**rates), actor=actor())
    _print_made(_shown(record), f"User {owner_id} is made. Next: securellm keys create --user {owner_id}", as_json)


@users.command("list")
@click.option("--team", "team_id", metavar="ID", help="Only those of a team.")
@json_option
@config_option
def list_users(team_id: str | None, as_json: bool, config_path: str | None) -> None:
    """List the users."""
    with opened(config_path) as store:
        records = store.list_users(team_id=team_id)
    empty = "No users yet. Make one: securellm users create ID"
    print_list([_shown(record) for record in records], COLUMNS, empty, as_json=as_json)


@users.command()
@_id_argument
@json_option
@config_option
def show(owner_id: str, as_json: bool, config_path: str | None) -> None:
    """Show a user, and the user's keys by id."""
    with opened(config_path) as store:
        record = store.find_user(owner_id)
        key_ids = [str(key.id) for key in store.list_keys(user_id=owner_id)]
    print_facts({**_shown(record), "keys": key_ids}, as_json=as_json)


@users.command("set")
@_id_argument
@click.option("--name", help="A name for people.")
@click.option("--team", "team_id", metavar="ID", help="The team that the user is in.")
@rate_options
@click.option("--clear", multiple=True, type=click.Choice(["team", "rates"]), help="Take this away; repeatable.")
@json_option
@config_option
def set_user(
    owner_id: str,
    name: str | None,
    team_id: str | None,
    clear: tuple[str, ...],
    as_json: bool,
    config_path: str | None,
    **rates: Any,
) -> None:
    """Change a user; what is not named stays."""
    changes: dict[str, Any] = {"team_id": None} if "team" in clear else {}
    changes |= {field: value for field, value in (("name", name), ("team_id", team_id)) if value is not None}
    with opened(config_path) as store:
        before = store.find_user(owner_id)
        if "rates" in clear or any(value is not None for value in rates.values()):
            changes["rates"] = change_rates(None if "rates" in clear else before.rates, rates)
        record = store.update_user(owner_id, UserChanges(**changes), actor=actor())
    print_facts(_shown(record), as_json=as_json)


@users.command()
@_id_argument
@config_option
def disable(owner_id: str, config_path: str | None) -> None:
    """Stop every key of a user, until the user is enabled again."""
    with opened(config_path) as store:
        store.update_user(owner_id, UserChanges(disabled=True), actor=actor())
    click.echo(f"User {owner_id} is disabled; a running gateway refuses the user's keys within 2 s.")


@users.command()
@_id_argument
@config_option
def enable(owner_id: str, config_path: str | None) -> None:
    """Let the keys of a user work again."""
    with opened(config_path) as store:
        store.update_user(owner_id, UserChanges(disabled=False), actor=actor())
    click.echo(f"User {owner_id} is enabled.")


@users.command()
@_id_argument
@config_option
def delete(owner_id: str, config_path: str | None) -> None:
    """Forget a user without active keys, and the user's budgets."""
    with opened(config_path) as store:
        store.delete_user(owner_id, actor=actor())
    click.echo(f"User {owner_id} is deleted.")


@users.group()
def teams() -> None:
    """Keep the teams that users and keys belong to."""


@teams.command("create")
@_id_argument
@_name_option
@rate_options
@json_option
@config_option
def create_team(owner_id: str, name: str, as_json: bool, config_path: str | None, **rates: Any) -> None:
    """Make a team."""
    with opened(config_path) as store:
        record = store.create_team(owner_id, name, rates=read_rates(**rates), actor=actor())
    _print_made(_shown(record), f"Team {owner_id} is made. Next: securellm users create ID --team {owner_id}", as_json)


@teams.command("list")
@json_option
@config_option
def list_teams(as_json: bool, config_path: str | None) -> None:
    """List the teams."""
    with opened(config_path) as store:
        records = store.list_teams()
    empty = "No teams yet. Make one: securellm users teams create ID"
    print_list([_shown(record) for record in records], TEAM_COLUMNS, empty, as_json=as_json)


@teams.command("disable")
@_id_argument
@config_option
def disable_team(owner_id: str, config_path: str | None) -> None:
    """Stop every key of a team and of its users, until it is enabled again."""
    with opened(config_path) as store:
        store.update_team(owner_id, TeamChanges(disabled=True), actor=actor())
    click.echo(f"Team {owner_id} is disabled; a running gateway refuses its keys within 2 s.")


@teams.command("enable")
@_id_argument
@config_option
def enable_team(owner_id: str, config_path: str | None) -> None:
    """Let the keys of a team work again."""
    with opened(config_path) as store:
        store.update_team(owner_id, TeamChanges(disabled=False), actor=actor())
    click.echo(f"Team {owner_id} is enabled.")


@teams.command("delete")
@_id_argument
@config_option
def delete_team(owner_id: str, config_path: str | None) -> None:
    """Forget a team without users and active keys, and its budgets."""
    with opened(config_path) as store:
        store.delete_team(owner_id, actor=actor())
    click.echo(f"Team {owner_id} is deleted.")


def _print_made(facts: dict[str, Any], note: str, as_json: bool) -> None:
    if as_json:
        print_facts(facts, as_json=True)
    else:
        click.echo(note)


def _shown(record: UserRecord | TeamRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "state": "active" if record.disabled_at_s is None else "disabled",
        **({"team": record.team_id} if isinstance(record, UserRecord) else {}),
        "created_at": date(record.created_at_s),
        "disabled_at": date(record.disabled_at_s),
        "rates": plain_rates(record.rates),
    }
