"""`securellm budgets`: what keys, users and teams may spend, and what they have, whether the gateway runs or not."""

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import click

from securellm.accounts.bounds import KINDS, NUSD_PER_USD, WINDOWS, Budget, default_budget
from securellm.cli.accounts_options import (
    actor,
    date,
    json_option,
    now_s,
    opened,
    parse_lifetime_s,
    print_facts,
    print_list,
)
from securellm.cli.settings import config_option, load_or_explain

if TYPE_CHECKING:
    from securellm.accounts.leases import Spending

COLUMNS = {"kind": 7, "subject": 24, "window": 10, "usd": 16, "tokens": 16}
SPENT_COLUMNS = {
    "window": 10, "since": 22, "usd": 14, "spent_usd": 16, "reserved_usd": 16, "tokens": 14, "spent_tokens": 14,
    "reserved_tokens": 16,
}  # fmt: skip

_kind_argument = click.argument("kind", type=click.Choice(KINDS))
_subject_argument = click.argument("subject", metavar="ID")
_window_choice = click.Choice(WINDOWS)


@click.group()
def budgets() -> None:
    """Set and show what keys, users and teams may spend. A running gateway takes a change within 2 s."""


@budgets.command("set")
@_kind_argument
@_subject_argument
@click.option("--usd", metavar="AMOUNT", help="The most in US dollars, like 12.50.")
@click.option("--tokens", type=int, metavar="N", help="The most in tokens, in and out.")
@click.option("--window", type=_window_choice, default="month", show_default=True, help="Days and months are in UTC.")
@click.option("--rolling", default="30d", show_default=True, metavar="TIME", help="How long a rolling window is.")
@json_option
@config_option
def set_budget(
    kind: str,
    subject: str,
    usd: str | None,
    tokens: int | None,
    window: str,
    rolling: str,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Set a budget of a key, user or team, in place of the one for the same window; what was spent counts on."""
    with opened(config_path) as store:
        budget = store.set_budget(
            kind,
            subject,
            limit_nusd=_nusd(usd) if usd is not None else None,
            limit_tokens=tokens,
            window=window,
            rolling_s=parse_lifetime_s(rolling, "--rolling"),
            actor=actor(),
        )
    if as_json:
        print_facts(_shown(budget), as_json=True)
    else:
        click.echo(f"The budget of {kind} {subject} is set; a running gateway keeps to it within 2 s.")


@budgets.command("list")
@click.option("--kind", type=click.Choice(KINDS), help="Only those of one kind.")
@json_option
@config_option
def list_budgets(kind: str | None, as_json: bool, config_path: str | None) -> None:
    """List the budgets that were set; what the configuration gives everybody is not among them."""
    with opened(config_path) as store:
        found = store.list_budgets(kind=kind)
    empty = "No budgets yet. Set one: securellm budgets set user ID --usd 10"
    print_list([_shown(budget) for budget in found], COLUMNS, empty, as_json=as_json)


@budgets.command()
@_kind_argument
@_subject_argument
@json_option
@config_option
def show(kind: str, subject: str, as_json: bool, config_path: str | None) -> None:
    """Show what a key, user or team may spend, by its own budgets or the configuration's, and what it has spent."""
    from securellm.accounts.spending import read_spending  # not at the top: SQLAlchemy takes long to load

    config = load_or_explain(config_path)
    with opened(config) as store:
        found = store.list_budgets(kind=kind, subject=subject)
        if not found and (default := default_budget(config.budgets, kind, subject)) is not None:
            found = [default]
        with store.transaction() as connection:
            figures = read_spending(connection, found, now_s())
    shown = [_spent(one) for one in figures]
    if as_json or shown:
        print_list(shown, SPENT_COLUMNS, "", as_json=as_json)
    else:
        click.echo(f"No budget bounds {kind} {subject}. Set one: securellm budgets set {kind} {subject} --usd 10")


@budgets.command()
@_kind_argument
@_subject_argument
@click.option("--window", type=_window_choice, help="Only the one for this window.")
@config_option
def remove(kind: str, subject: str, window: str | None, config_path: str | None) -> None:
    """Take away the budgets of a key, user or team; what the configuration gives everybody holds again."""
    with opened(config_path) as store:
        count = store.remove_budget(kind, subject, window, actor=actor())
    click.echo(f"{count} budget{'' if count == 1 else 's'} of {kind} {subject} removed.")


def _nusd(text: str) -> int:
    try:
        nusd = Decimal(text) * NUSD_PER_USD
        exact = int(nusd)
    except (InvalidOperation, ValueError, OverflowError):
        raise click.BadParameter(f"got {text!r}, expected an amount like 12.50", param_hint="--usd") from None
    if exact != nusd:
        raise click.BadParameter(f"got {text!r}, expected at most 9 digits after the point", param_hint="--usd")
    return exact


def _usd(nusd: int | None) -> str | None:
    if nusd is None:
        return None
    whole, rest = divmod(abs(nusd), NUSD_PER_USD)
    digits = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nusd < 0 else ''}{whole}.{digits}"


def _spent(figures: "Spending") -> dict[str, Any]:
    return {
        **_shown(figures.budget),
        "since": date(figures.window.start_s),
        "until": date(figures.window.end_s),
        "spent_usd": _usd(figures.spent_nusd),
        "spent_tokens": figures.spent_tokens,
        "reserved_usd": _usd(figures.reserved_nusd),
        "reserved_tokens": figures.reserved_tokens,
    }


def _shown(budget: Budget) -> dict[str, Any]:
    return {
        "id": budget.id,
        "kind": budget.kind,
        "subject": budget.subject,
        "window": budget.window,
        "usd": _usd(budget.limit_nusd),
        "tokens": budget.limit_tokens,
        "rolling_s": budget.rolling_s if budget.window == "rolling" else None,
    }
