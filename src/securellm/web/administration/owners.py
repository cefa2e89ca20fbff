"""`/api/admin/users` and `/api/admin/teams`: what keys belong to."""

from typing import Any

import msgspec

from securellm.accounts.records import TeamChanges, TeamRecord, UserChanges, UserRecord
from securellm.config.tree import Rates
from securellm.web.administration import schemas
from securellm.web.administration.asking import Asking, endpoint


class NewUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user to be made."""

    id: str
    name: str = ""
    team_id: str | None = None
    rates: Rates | None = None


class NewTeam(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A team to be made."""

    id: str
    name: str = ""
    rates: Rates | None = None


async def list_users(asking: Asking) -> dict[str, Any]:
    """All users, or those of a team."""
    wanted = asking.query("team_id")
    records = await asking.read(lambda store: store.list_users(team_id=wanted.get("team_id")))
    return {"users": [_shown(record) for record in records]}


async def create_user(asking: Asking) -> dict[str, Any]:
    """Make a user."""
    new = await asking.body(NewUser)
    return _shown(
        await asking.change(
            lambda store: store.create_user(new.id, new.name, team_id=new.team_id, rates=new.rates, actor=asking.actor)
        )
    )


async def show_user(asking: Asking, user_id: str) -> dict[str, Any]:
    """One user."""
    return _shown(await asking.read(lambda store: store.find_user(user_id)))


async def change_user(asking: Asking, user_id: str) -> dict[str, Any]:
    """Change what is given; `disabled` stops every key of the user, or lets them go on."""
    changes = await asking.body(UserChanges)
    return _shown(await asking.change(lambda store: store.update_user(user_id, changes, actor=asking.actor)))


async def delete_user(asking: Asking, user_id: str) -> dict[str, Any]:
    """Forget a user without active keys, and the user's budgets."""
    await asking.change(lambda store: store.delete_user(user_id, actor=asking.actor))
    return {"id": user_id, "deleted": True}


async def list_teams(asking: Asking) -> dict[str, Any]:
    """All teams."""
    return {"teams": [_shown(record) for record in await asking.read(lambda store: store.list_teams())]}


async def create_team(asking: Asking) -> dict[str, Any]:
    """Make a team."""
    new = await asking.body(NewTeam)
    return _shown(
        await asking.change(lambda store: store.create_team(new.id, new.name, rates=new.rates, actor=asking.actor))
    )


async def show_team(asking: Asking, team_id: str) -> dict[str, Any]:
    """One team."""
    return _shown(await asking.read(lambda store: store.find_team(team_id)))


async def change_team(asking: Asking, team_id: str) -> dict[str, Any]:
    """Change what is given; `disabled` stops every key of the team and of its users."""
    changes = await asking.body(TeamChanges)
    return _shown(await asking.change(lambda store: store.update_team(team_id, changes, actor=asking.actor)))


async def delete_team(asking: Asking, team_id: str) -> dict[str, Any]:
    """Forget a team without users and active keys, and its budgets."""
    await asking.change(lambda store: store.delete_team(team_id, actor=asking.actor))
    return {"id": team_id, "deleted": True}


def _shown(record: UserRecord | TeamRecord) -> dict[str, Any]:
    state = "active" if record.disabled_at_s is None else "disabled"
    return {**msgspec.structs.asdict(record), "state": state}


ROUTES = (
    endpoint("GET", "/users", list_users, "List the users", schemas.USERS),
    endpoint("POST", "/users", create_user, "Make a user", schemas.USER, schema=schemas.NEW_USER, status=201),
    endpoint("GET", "/users/<user_id>", show_user, "Show a user", schemas.USER),
    endpoint("PATCH", "/users/<user_id>", change_user, "Change a user", schemas.USER, schema=schemas.USER_CHANGES),
    endpoint("DELETE", "/users/<user_id>", delete_user, "Delete a user", schemas.DELETED),
    endpoint("GET", "/teams", list_teams, "List the teams", schemas.TEAMS),
    endpoint("POST", "/teams", create_team, "Make a team", schemas.TEAM, schema=schemas.NEW_TEAM, status=201),
    endpoint("GET", "/teams/<team_id>", show_team, "Show a team", schemas.TEAM),
    endpoint("PATCH", "/teams/<team_id>", change_team, "Change a team", schemas.TEAM, schema=schemas.TEAM_CHANGES),
    endpoint("DELETE", "/teams/<team_id>", delete_team, "Delete a team", schemas.DELETED),
)
