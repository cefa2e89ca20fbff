"""What the commands on keys, users and budgets share: the store, options, times, and how a mistake is told."""

import json
import os
import pwd
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
import msgspec

from securellm.accounts.store import Store
from securellm.cli.settings import load_or_explain
from securellm.config.tree import Config, Rates
from securellm.errors import BadRequest, ConfigError, NotFound, StoreUnavailable

_LIFETIME = re.compile(r"(\d{1,6})([smhdwy])", re.ASCII)
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}

# What the store calls a field, as one writes it here.
_OPTION_OF = {
    "id": "ID",
    "subject": "ID",
    "kind": "KIND",
    "user_id": "--user",
    "team_id": "--team",
    "expires_at_s": "--expires",
    "overlap_s": "--overlap",
    "limit_nusd": "--usd",
    "limit_tokens": "--tokens",
    "rolling_s": "--rolling",
    "grants.models": "--model",
    "grants.providers": "--provider",
    "grants.endpoints": "--endpoint",
    "grants.networks": "--network",
}

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")

F = TypeVar("F", bound=Callable[..., Any])


def rate_options(command: F) -> F:
    """The bounds of a key, a user or a team; what is not given is as the configuration says."""
    for name, help_text in (
        ("--concurrent", "Requests at one time; 0 is no limit."),
        ("--tpm", "Tokens in a minute, in and out; 0 is no limit."),
        ("--burst", "Requests at once, when it was quiet before; goes with --rpm."),
        ("--rpm", "Requests in a minute; 0 is no limit."),
    ):
        command = click.option(name, type=int, metavar="N", help=help_text)(command)
    return command


def read_rates(rpm: int | None, burst: int | None, tpm: int | None, concurrent: int | None) -> Rates | None:
    """What the options say, None for nothing."""
    rates = Rates(rpm, burst, tpm, concurrent)
    return rates if rates != Rates() else None


def change_rates(before: Rates | None, given: dict[str, int | None]) -> Rates:
    """The rates with what the options say in place of what there was."""
    return msgspec.structs.replace(before or Rates(), **{name: one for name, one in given.items() if one is not None})


@contextmanager
def opened(config: Config | str | None) -> Iterator[Store]:
    """The store of a configuration or of its file; when it refuses something or is away, what to do about it."""
    store = Store(config if isinstance(config, Config) else load_or_explain(config))
    try:
        yield store
    except BadRequest as exc:
        param = exc.param or ""
        option = _OPTION_OF.get(param, f"--{param.rpartition('.')[2]}")
        raise click.BadParameter(exc.message.removeprefix(f"{param}: "), param_hint=option) from None
    except NotFound as exc:
        raise click.ClickException(exc.message) from None
    except (StoreUnavailable, ConfigError) as exc:
        raise click.ClickException(f"the key store cannot be used: {exc.message}") from None
    finally:
        store.close()


def actor() -> str:
    """Who is at the keyboard, for the audit log; behind sudo, who called it."""
    login = os.environ.get("SUDO_USER", "")
    if not login or os.getuid() != 0:
        try:
            login = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            login = str(os.getuid())
    return f"cli:{login[:64]}"


def parse_expiry_s(text: str, now_s: int) -> int:
    """Unix seconds of a lifetime from now or of the start of a day in UTC. Raises BadParameter."""
    try:
        if _LIFETIME.fullmatch(text):
            expires_at_s = now_s + parse_lifetime_s(text, "--expires")
        else:
            expires_at_s = int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
        datetime.fromtimestamp(expires_at_s, UTC)
    except (ValueError, OverflowError):
        expected = "expected a lifetime (12h, 30d, 8w, 1y) or a day (2027-01-31)"
        raise click.BadParameter(f"got {text!r}, {expected}", param_hint="--expires") from None
    if expires_at_s <= now_s:
        raise click.BadParameter(f"got {text!r}, which is not in the future", param_hint="--expires")
    return expires_at_s


def parse_lifetime_s(text: str, option: str) -> int:
    """Seconds of `90m`, `12h`, `30d`. Raises BadParameter."""
    lifetime = _LIFETIME.fullmatch(text)
    if lifetime is None:
        raise click.BadParameter(f"got {text!r}, expected a time like 90m, 12h or 30d", param_hint=option)
    return int(lifetime[1]) * _UNIT_S[lifetime[2]]


def date(seconds: int | None) -> str | None:
    """RFC 3339 in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now_s() -> int:
    """Unix seconds."""
    return int(time.time())


def plain_rates(rates: Rates | None) -> dict[str, int]:
    """The rates that are set, for JSON."""
    return (
        {}
        if rates is None
        else {name: value for name, value in msgspec.structs.asdict(rates).items() if value is not None}
    )


def print_facts(facts: dict[str, Any], *, as_json: bool) -> None:
    """One thing: as JSON, or a line a fact without those that are not there."""
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        if value not in (None, "", {}):
            click.echo(f"{name:<12}{value if isinstance(value, str | int) else _listed(value)}")


def print_list(rows: list[dict[str, Any]], columns: dict[str, int], empty: str, *, as_json: bool) -> None:
    """Several things: as JSON, or a table of some of their facts; `columns` has the width of each."""
    if as_json:
        click.echo(json.dumps(rows))
        return
    if not rows:
        click.echo(empty)
        return
    click.echo("".join(f"{name:<{width}}" for name, width in columns.items()).rstrip())
    for row in rows:
        cells = ((str(row[name]) if row[name] is not None else "") for name in columns)
        click.echo("".join(f"{cell:<{width}}" for cell, width in zip(cells, columns.values(), strict=True)).rstrip())


def _listed(value: dict[str, Any] | list[str]) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return ", ".join(value) or "none"
