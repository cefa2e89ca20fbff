"""`securellm chat`: one question to a model through the gateway, the answer as it comes."""

import sys
from typing import Any

import click
import msgspec

from securellm.cli.gateway import GatewayAnswer, Refused, ask_gateway, refusal
from securellm.errors import UpstreamInvalid
from securellm.wire.sse import SSESplitter


@click.command()
@click.option("-m", "--message", help="What to ask; without it, standard input is read.")
@click.option("--system", help="The system message.")
@click.option("--model", default="auto", show_default=True, help="<provider>/<model>, an alias, or auto.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="The most tokens to answer.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 is the most predictable.")
def chat(
    message: str | None, system: str | None, model: str, max_tokens: int | None, temperature: float | None
) -> None:
    """Ask a model through the gateway at SECURELLM_URL with the key in SECURELLM_API_KEY."""
    request: dict[str, Any] = {"model": model, "stream": True, "messages": _messages(system, _question(message))}
    if max_tokens is not None:
        request["max_tokens"] = max_tokens
    if temperature is not None:
        request["temperature"] = temperature
    with ask_gateway("POST", "/v1/chat/completions", request) as answer:
        if answer.status >= 400:
            raise _explained(refusal(answer.status, b"".join(answer.pieces())))
        _show(answer)


def _question(message: str | None) -> str:
    if message is None:
        if sys.stdin.isatty():
            raise click.UsageError("Nothing to ask. Try: securellm chat -m 'hello'")
        message = sys.stdin.read()
    if not message.strip():
        raise click.UsageError("The message is empty. Try: securellm chat -m 'hello'")
    return message


def _messages(system: str | None, question: str) -> list[dict[str, str]]:
    opening = [{"role": "system", "content": system}] if system else []
    return [*opening, {"role": "user", "content": question}]


def _show(answer: GatewayAnswer) -> None:
    """Print the text of the stream. Raises ClickException when the stream ends in an error, or without an end."""
    splitter = SSESplitter()
    written = False
    try:
        for piece in answer.pieces():
            for event in splitter.feed(piece):
                if event.data is None:
                    continue
                if event.data == b"[DONE]":
                    return
                text = _text_of(event.data)
                written = written or bool(text)
                click.echo(text, nl=False)
        raise click.ClickException("the answer broke off before its end")
    except UpstreamInvalid as exc:
        raise click.ClickException("the gateway sent a stream that cannot be read") from exc
    except KeyboardInterrupt:
        written = False  # click ends the line
        raise
    finally:
        if written:
            click.echo()


def _text_of(data: bytes) -> str:
    try:
        chunk = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError as exc:
        raise click.ClickException("the gateway sent a stream that cannot be read") from exc
    if chunk.get("error") is not None:
        raise refusal(502, data)
    parts = []
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or {}
        parts += [delta.get("content") or "", delta.get("refusal") or ""]
    return "".join(parts)


def _explained(refused: Refused) -> Refused:
    """Nobody who types `securellm chat -m hello` for the first time has configured [auto]."""
    if refused.code in ("no_auto_targets", "model_not_found"):
        message = f"{refused.message}. Name one with --model; securellm models lists them; demo/echo needs no provider."
        return Refused(message, refused.status, refused.code)
    return refused
