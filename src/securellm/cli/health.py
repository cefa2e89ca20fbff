"""`securellm health`: how the running gateway and its providers are."""

from typing import Any

import click
import msgspec

from securellm.cli.gateway import Refused, ask_gateway, refusal


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The gateway's answer as it is.")
@click.pass_context
def health(ctx: click.Context, as_json: bool) -> None:
    """Show how the gateway and its providers are. Ends with 1 when the gateway is unhealthy.

    Providers are shown to callers with a key (SECURELLM_API_KEY).
    """
    with ask_gateway("GET", "/api/health") as answer:
        body = b"".join(answer.pieces())
        report = _report(answer.status, body)
    if as_json:
        click.echo(msgspec.json.format(body))
    else:
        _show(report)
    if report["status"] == "unhealthy":
        ctx.exit(1)


def _report(status: int, body: bytes) -> dict[str, Any]:
    """The report, which an unhealthy gateway may send with a 503."""
    try:
        report = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError:
        raise Refused("this is not the gateway: it answered without JSON", status) from None
    if not isinstance(report.get("status"), str):
        raise refusal(status, body)
    return report


def _show(report: dict[str, Any]) -> None:
    click.echo(f"gateway   {report['status']}, version {report.get('version')}, up {report.get('uptime_seconds')} s")
    for provider in report.get("providers") or []:
        click.echo(f"provider  {provider['name']}: {provider['status']}, circuit {provider.get('circuit_breaker')}")
        if provider.get("last_error"):
            click.echo(f"          last error: {provider['last_error']}")
    for part in ("database", "redis"):
        state = report.get(part)
        if state:
            error = f" ({state['error']})" if state.get("error") else ""
            click.echo(f"{part:<9} {state['status']}{error}")
