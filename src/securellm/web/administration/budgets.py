"""`/api/admin/budgets`: what keys, users and teams may spend, what they have spent, and what is left."""

from collections.abc import Sequence
from typing import Any

import msgspec

from securellm.accounts.bounds import Budget, default_budget
from securellm.accounts.leases import Spending
from securellm.accounts.store import MONTH_S
from securellm.errors import BadRequest
from securellm.web.administration import schemas
from securellm.web.administration.asking import Asking, endpoint


class NewBudget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A budget to be set in place of the one for the same window. A limit that is None is no bound."""

    kind: str
    subject: str
    window: str = "month"
    rolling_s: int = MONTH_S
    limit_nusd: int | None = None
    limit_tokens: int | None = None


async def list_budgets(asking: Asking) -> dict[str, Any]:
    """The budgets that were set. For one subject without any, the configuration's for every such subject."""
    wanted = asking.query("kind", "subject")
    kind, subject = wanted.get("kind"), wanted.get("subject")
    found = await asking.read(lambda store: store.list_budgets(kind=kind, subject=subject))
    if not found and kind in ("key", "user", "team") and subject:
        default = default_budget(asking.runtime.config.budgets, kind, subject)
        found = [default] if default is not None else []
    return {"budgets": await _with_figures(asking, found)}


async def set_budget(asking: Asking) -> dict[str, Any]:
    """Set one; what was spent counts on."""
    new = await asking.body(NewBudget)
    budget = await asking.change(lambda store: store.set_budget(**msgspec.structs.asdict(new), actor=asking.actor))
    return (await _with_figures(asking, [budget]))[0]


async def remove_budgets(asking: Asking) -> dict[str, Any]:
    """Remove a subject's budgets, or the one of a window; what the configuration gives everybody holds again."""
    wanted = asking.query("kind", "subject", "window")
    for name in ("kind", "subject"):
        if not wanted.get(name):
            raise BadRequest(f"{name}: got none in the query, expected whose budget is to be removed", param=name)
    removed = await asking.change(
        lambda store: store.remove_budget(wanted["kind"], wanted["subject"], wanted.get("window"), actor=asking.actor)
    )
    return {"removed": removed}


async def _with_figures(asking: Asking, budgets: Sequence[Budget]) -> list[dict[str, Any]]:
    figures: list[Spending] = await asking.runtime.budgets.spent(budgets)
    return [_shown(one) for one in figures]


def _shown(figures: Spending) -> dict[str, Any]:
    limit_tokens = figures.budget.limit_tokens
    held_tokens = figures.spent_tokens + figures.reserved_tokens
    return {
        **msgspec.structs.asdict(figures.budget),
        "window_start_s": figures.window.start_s,
        "window_end_s": figures.window.end_s,
        "spent_nusd": figures.spent_nusd,
        "spent_tokens": figures.spent_tokens,
        "reserved_nusd": figures.reserved_nusd,
        "reserved_tokens": figures.reserved_tokens,
        "left_nusd": figures.left_nusd,
        "left_tokens": None if limit_tokens is None else max(limit_tokens - held_tokens, 0),
    }


ROUTES = (
    endpoint("GET", "/budgets", list_budgets, "List the budgets with what is spent and left", schemas.BUDGETS),
    endpoint("PUT", "/budgets", set_budget, "Set a budget", schemas.BUDGET, schema=schemas.NEW_BUDGET),
    endpoint("DELETE", "/budgets", remove_budgets, "Remove budgets", schemas.REMOVED),
)
