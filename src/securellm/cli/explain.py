"""`securellm explain`: what the gateway would do with a request, without asking any provider."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
import trio

from securellm.accounts.bounds import ANONYMOUS
from securellm.accounts.snapshot import Accounts
from securellm.accounts.store import Store
from securellm.chat import Caller, Endpoint, Headers
from securellm.cli.accounts_options import date, json_option, now_s, opened
from securellm.cli.settings import config_option, load_or_explain
from securellm.config import Config
from securellm.errors import SecureLLMError
from securellm.pricing.price import NUSD_PER_USD, Price

if TYPE_CHECKING:
    from securellm.explaining import Candidate, Explanation, Refusal

DOORS = (
    Endpoint.CHAT,
    Endpoint.COMPLETIONS,
    Endpoint.EMBEDDINGS,
    Endpoint.RESPONSES,
    Endpoint.MESSAGES,
    Endpoint.COUNT_TOKENS,
)

_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e]*?)[ \t]*")


@click.command()
@click.argument("request", metavar="REQUEST.json")
@click.option(
    "--key", "key_id", metavar="ID", help="Whose request: the id of a key. Not needed without authentication."
)
@click.option(
    "--endpoint",
    type=click.Choice([endpoint.value for endpoint in DOORS]),
    default=Endpoint.CHAT.value,
    show_default=True,
    help="The door at which it comes in.",
)
@click.option("--model", metavar="MODEL", help="In place of the request's own model.")
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header of it; may be repeated.")
@click.option(
    "--from", "client_ip", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where it is from."
)
@json_option
@config_option
def explain(
    request: str,
    key_id: str | None,
    endpoint: str,
    model: str | None,
    headers: tuple[str, ...],
    client_ip: str,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Tell what the gateway would do with a request (- for standard input), and ask no provider.

    Limits, what is reserved, budgets, candidates in order, and exactly what each provider would be sent.
    """
    body = _read(request)
    given = _headers(headers)
    config = load_or_explain(config_path)
    with opened(config) as store:
        try:
            told = trio.run(_explain, config, store, key_id, Endpoint(endpoint), given, body, model, client_ip)
        except SecureLLMError as exc:
            raise click.ClickException(exc.message) from None
    if as_json:
        click.echo(msgspec.json.encode(told))
    else:
        click.echo("\n".join(_lines(told)))


async def _explain(
    config: Config,
    store: Store,
    key_id: str | None,
    endpoint: Endpoint,
    headers: Headers,
    body: bytes,
    model: str | None,
    client_ip: str,
) -> "Explanation":
    from securellm import explaining  # not at the top: completion and help need none of it
    from securellm.accounts.spending import SpendingDatabase
    from securellm.discovery import Discovery
    from securellm.pricing.kept import load_table

    accounts = Accounts(config, store)
    await accounts.refresh()
    caller = _caller(accounts, config, key_id)
    serving = explaining.explaining_serving(config, load_table(config), accounts)
    await Discovery(serving, store).recall()
    if model is not None:
        body = await explaining.with_model(endpoint, body, model)
    spending = SpendingDatabase(config)
    try:
        spent = spending.read(accounts.budgets(caller), now_s())
    finally:
        spending.close()
    return await explaining.explain(serving, caller, explaining.call_of(endpoint, headers, body, client_ip), spent)


def _caller(accounts: Accounts, config: Config, key_id: str | None) -> Caller:
    if key_id is None and config.security.require_auth:
        raise click.BadParameter(
            "got none, expected the id of a key; securellm keys list shows them", param_hint="--key"
        )
    caller = accounts.caller_of(key_id or ANONYMOUS)
    if caller is not None:
        return caller
    error = accounts.statistics().error
    if error is not None:
        raise click.ClickException(f"the key store cannot be used: {error}")
    raise click.ClickException("no key in force has that id. securellm keys list shows them.")


def _read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as exc:
        raise click.ClickException(f"{name} cannot be read: {exc.strerror}") from None


def _headers(texts: tuple[str, ...]) -> Headers:
    headers: Headers = []
    for text in texts:
        found = _HEADER.fullmatch(text)
        if found is None:
            raise click.BadParameter(f"got {text!r}, expected 'Name: value'", param_hint="--header")
        headers.append((found[1].lower().encode("ascii"), found[2].encode("ascii")))
    return headers


def _lines(told: "Explanation") -> list[str]:
    caller = told.caller
    lines = [
        f"endpoint     {told.endpoint}{', streamed' if told.stream else ''}",
        f"model        {told.model or 'not known'}",
        f"caller       key {caller.key_id or ANONYMOUS}, role {caller.role}"
        f", user {caller.user_id or 'none'}, team {caller.team_id or 'none'}",
    ]
    for name in caller.grants.__struct_fields__:
        granted = getattr(caller.grants, name)
        if granted is not None:
            lines.append(f"             only these {name}: {', '.join(granted) or 'none'}")
    if told.refusal is not None:
        lines.append(f"refused      {_refusal(told.refusal)}")
    lines += ["", f"limits       {'' if told.limits else 'none'}".rstrip()]
    for limit in told.limits:
        window = f" in {limit.period_s:.4g} s, {limit.burst} at once" if limit.period_s else " at one time"
        lines.append(
            f"  {limit.scope} {limit.subject}: {limit.limit} {_WHAT[limit.measure]}{window}; it takes {limit.takes}"
        )
    if told.reservation is not None:
        most = told.reservation
        lines += ["", f"may cost     {_usd(most.cost_nusd)} USD and {most.tokens} tokens at most"]
        lines.append(f"budgets      {'' if told.budgets else 'none'}".rstrip())
        for budget in told.budgets:
            left = [f"{_usd(budget.left_nusd)} USD"] if budget.left_nusd is not None else []
            left += [f"{budget.left_tokens} tokens"] if budget.left_tokens is not None else []
            verdict = "fits" if budget.fits else "does not fit"
            lines.append(f"  {budget.id}: {' and '.join(left)} left until {date(budget.window_end_s)}; {verdict}")
    if told.note is not None:
        lines += ["", told.note]
    for number, candidate in enumerate(told.candidates, 1):
        lines += ["", *_candidate_lines(number, candidate)]
    return lines


_WHAT = {"requests": "requests", "tokens": "tokens", "concurrent": "requests"}


def _candidate_lines(number: int, candidate: "Candidate") -> list[str]:
    lines = [f"candidate {number}  {candidate.provider}/{candidate.model}, {_price(candidate.price)}"]
    if candidate.passed_over is not None:
        lines.append(f"  passed over: {candidate.passed_over}")
    if candidate.refusal is not None:
        lines.append(f"  not asked: {_refusal(candidate.refusal)}")
    if candidate.request is not None:
        request = candidate.request
        lines.append(f"  {request.method} {request.url}")
        lines += [f"  {name}: {value}" for name, value in request.headers]
        if request.dropped:
            lines.append(f"  (cannot be told, x-securellm-dropped: {', '.join(request.dropped)})")
        lines += ["", request.body]
    return lines


def _refusal(refusal: "Refusal") -> str:
    return f"{refusal.status} {refusal.code}: {refusal.message}"


def _price(price: Price | None) -> str:
    if price is None:
        return "without a price"
    if price.free:
        return "free"
    output = price.input if price.output is None else price.output
    return f"{_usd(price.input)} USD a million tokens in, {_usd(output)} out"


def _usd(nusd: int) -> str:
    whole, rest = divmod(nusd, NUSD_PER_USD)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")
