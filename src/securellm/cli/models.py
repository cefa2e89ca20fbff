"""`securellm models`: the models of the running gateway."""

import click
import msgspec

from securellm.cli.gateway import ask_gateway


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The gateway's answer as it is.")
def models(as_json: bool) -> None:
    """List the models of the gateway, as `--model` takes them."""
    with ask_gateway("GET", "/v1/models") as answer:
        listed = answer.json()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(listed)))
        return
    ids = [str(model["id"]) for model in listed.get("data", [])]
    if not ids:
        raise click.ClickException("the gateway has no models. Enable a provider; securellm info <provider> says how.")
    click.echo("\n".join(ids))
