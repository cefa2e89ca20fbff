"""What the commands of the audit log share: where it is, what is asked for, and how a record is shown."""

import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from securellm.audit.filters import Filters
from securellm.audit.record import timestamp
from securellm.chat import Status
from securellm.config import Config

EVENT_TYPES = ("request_received", "attempt_started", "response_sent", "request_failed", "security_event")
STATUSES = tuple(status.value for status in Status)
ENDS = frozenset({"response_sent", "request_failed", "security_event"})  # what is shown unless more is asked for
NUSD_PER_USD = 1_000_000_000

_AGE = re.compile(r"(\d{1,6})([mhdw])", re.ASCII)
_UNIT = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_F = TypeVar("_F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each record.")


def filter_options(command: _F) -> _F:
    """The options that say which records are wanted; `read_filters` takes them."""
    options = (
        click.option("--since", metavar="WHEN", help="From then on: 2h, 7d, 2026-11-22 or 2026-11-22T10:00Z."),
        click.option("--until", metavar="WHEN", help="Before then."),
        click.option("--user", "user_id", metavar="ID", help="Of this user."),
        click.option("--key", "key_id", metavar="ID", help="Of this key."),
        click.option("--provider", metavar="NAME", help="Answered, or asked last, by this provider."),
        click.option("--model", metavar="NAME", help="The provider's own name of the model."),
        click.option("--status", "statuses", multiple=True, type=click.Choice(STATUSES), help="Ended so."),
        click.option("--event", "event_types", multiple=True, type=click.Choice(EVENT_TYPES), help="Of this type."),
        click.option("--request", "request_id", metavar="ID", help="Of this request."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def read_filters(
    since: str | None,
    until: str | None,
    statuses: tuple[str, ...],
    event_types: tuple[str, ...],
    **equal: str | None,
) -> Filters:
    """What the options ask for. Raises BadParameter."""
    now_s = time.time()
    return Filters(
        since=parse_moment(since, now_s, "--since") if since else None,
        until=parse_moment(until, now_s, "--until") if until else None,
        statuses=frozenset(statuses),
        event_types=frozenset(event_types),
        **equal,
    )


def parse_moment(text: str, now_s: float, option: str) -> str:
    """A moment as records have it: so long ago, the start of a day, or a time, in UTC unless it says another zone."""
    age = _AGE.fullmatch(text)
    try:
        if age:
            moment = datetime.fromtimestamp(now_s, UTC) - timedelta(**{_UNIT[age[2]]: int(age[1])})
        else:
            moment = datetime.fromisoformat(text)
            moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        return timestamp(round(moment.timestamp() * 1_000_000))
    except (ValueError, OverflowError):
        expected = "expected an age (30m, 2h, 7d, 4w), a day (2026-11-22) or a time (2026-11-22T10:00Z)"
        raise click.BadParameter(f"got {text!r}, {expected}", param_hint=option) from None


def log_directory(config: Config) -> Path:
    """Where the audit files are. Raises ClickException when there is no such directory."""
    if not config.log_dir.is_dir():
        raise click.ClickException(f"there is no audit log yet: {config.log_dir} is not there")
    return config.log_dir


def unreadable(error: OSError) -> click.ClickException:
    """What a command says when a file of the log cannot be read."""
    return click.ClickException(f"the audit log cannot be read: {error.strerror or 'input/output error'}")


def warn_of_damage(count: int) -> None:
    """Say on standard error that lines were left out."""
    if count:
        lines = "line is no record" if count == 1 else "lines are no records"
        click.echo(f"{count} {lines}; securellm audit verify tells where.", err=True)


def encode_row(row: Mapping[str, Any]) -> str:
    """A row as a line of JSON, without what is not there."""
    return json.dumps({name: value for name, value in row.items() if value is not None}, ensure_ascii=False)


def heading() -> str:
    """The names above the rows of `format_row`."""
    texts = f"{'time (UTC)':<20}{'status':<13}{'http':<5}{'user':<14}{'model':<34}"
    return f"{texts}{'tokens':>9}{'USD':>11}{'ms':>9}  request"


def format_row(row: Mapping[str, Any]) -> str:
    """A record in a line, for people; what callers wrote cannot move the cursor."""
    time_ = str(row["timestamp"])[:19].replace("T", " ")
    if row["event_type"] == "security_event":
        count = f" x{row['count']}" if row["count"] is not None else ""
        return printable(f"{time_:<20}{'event':<13}{row['action'] or '?'}{count}  {row['client_ip'] or ''}").rstrip()
    open_words = {"request_received": "begun", "attempt_started": f"attempt {row['attempt'] or '?'}"}
    status = row["status"] or open_words.get(row["event_type"], "?")
    model = "/".join(part for part in (row["provider"], row["model"]) if part) or row["requested_model"] or "-"
    usd = f"{row['cost_nusd'] / NUSD_PER_USD:.6f}" if row["cost_nusd"] is not None else "-"
    ms = f"{row['duration_ms']:.0f}" if row["duration_ms"] is not None else "-"
    http = row["http_status"] if row["http_status"] is not None else "-"
    tokens = row["total_tokens"] if row["total_tokens"] is not None else "-"
    user = row["user_id"] or row["key_id"] or "-"
    texts = f"{_cut(status, 13)}{http:<5}{_cut(user, 14)}{_cut(model, 34)}"
    return printable(f"{time_:<20}{texts}{tokens:>9}{usd:>11}{ms:>9}  {row['request_id'] or '-'}")


def printable(text: str) -> str:
    """The text without what a terminal would act upon."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _cut(text: str, width: int) -> str:
    return f"{text if len(text) < width else text[: width - 2] + '…':<{width}}"
