"""`securellm audit show`: the whole story of one request, from the files; and its bodies, where they are recorded."""

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from securellm.audit.content import KINDS, Kind, content_path, hash_file, load_content_key, read_content
from securellm.audit.reading import Placed, read_story
from securellm.cli import audit_options as options
from securellm.cli.settings import config_option, load_or_explain
from securellm.config import Config
from securellm.errors import ConfigError

_CHAIN = ("v", "seq", "slot", "prev", "timestamp", "event_type", "request_id")


@click.command()
@click.argument("request_id", metavar="REQUEST_ID")
@click.option("--content", type=click.Choice(KINDS), help="Print this recorded body and nothing else.")
@options.json_option
@config_option
def show(request_id: str, content: Kind | None, as_json: bool, config_path: str | None) -> None:
    """Show every record of a request, oldest first. The id is the answer's x-request-id."""
    config = load_or_explain(config_path)
    directory = options.log_directory(config)
    try:
        story = read_story(directory, request_id)
    except OSError as exc:
        raise options.unreadable(exc) from None
    if not story:
        raise click.ClickException(f"no record of {options.printable(request_id)!r}. securellm audit query lists them.")
    if content is not None:
        _print_content(config, directory, story, content)
        return
    for placed in story:
        click.echo(placed.line.decode() if as_json else _told(placed))


def _told(placed: Placed) -> str:
    record: dict[str, Any] = msgspec.json.decode(placed.line)
    head = placed.head
    lines = [f"{head.timestamp}  {head.event_type}  (slot {head.slot}, record {head.seq})"]
    for name, value in record.items():
        if name == "attempts":
            lines += [f"  attempt: {_attempt(attempt)}" for attempt in value]
        elif name not in _CHAIN:
            lines.append(f"  {name}: {_text(value)}")
    return "\n".join(options.printable(line) for line in lines)


def _attempt(attempt: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in attempt.items())


def _text(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={item}" for name, item in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:.9f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _print_content(config: Config, directory: Path, story: list[Placed], kind: Kind) -> None:
    """Print a body; it is compared with what the chain says of it first."""
    record = msgspec.json.decode(story[-1].line)
    request_id, recorded = record["request_id"], record.get(f"{kind}_content_sha256")
    if recorded is None:
        raise click.ClickException(f"the {kind}'s body is not recorded; audit.content decides for later requests")
    from securellm.audit.sealing import ContentDamaged  # not at the top: cryptography takes long to load

    try:
        path = content_path(directory, request_id, kind)
        if hash_file(path) != recorded:
            raise click.ClickException(f"{path} is not what was recorded: its hash is another")
        for piece in read_content(path, request_id, kind, load_content_key(config, create=False)):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    except FileNotFoundError:
        raise click.ClickException(f"the {kind}'s body was erased, or went with its day") from None
    except BrokenPipeError:
        raise  # whoever read our output has gone; main ends quietly
    except OSError as exc:
        raise options.unreadable(exc) from None
    except ContentDamaged as exc:
        raise click.ClickException(f"{path} {exc}") from None
    except ConfigError as exc:
        raise click.ClickException(exc.message) from None
