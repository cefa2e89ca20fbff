"""docs/cli.md has every command with every option, and no other."""

import re
from collections.abc import Iterator
from pathlib import Path

import click

from securellm.cli.group import COMMANDS, cli

PAGE = Path(__file__).parent.parent.parent / "docs" / "cli.md"


def _leaves(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for below in command.list_commands(context):
        found = command.get_command(context, below)
        assert found is not None
        yield from _leaves(found, f"{name} {below}")


def _synopses() -> dict[str, str]:
    """Command -> the rest of its line, from the indented lines of the page."""
    names = sorted((name for name, _ in _leaves(cli, "securellm")), key=len, reverse=True)
    found = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("    securellm "):
            name = next(name for name in names if line.strip().startswith(name))
            found[name] = line.strip().removeprefix(name)
    return found


def test_every_option_of_every_command() -> None:
    """The synopsis of each command has exactly its options, and its choices."""
    synopses = _synopses()
    for name, command in _leaves(cli, "securellm"):
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        text = synopses[name]
        written = set(re.findall(r"--[a-z-]+", text)) | ({"--message"} if " -m " in text else set())
        assert written == options, name
        for parameter in command.params:
            if isinstance(parameter.type, click.Choice):
                assert "|".join(parameter.type.choices) in text, name


def test_the_table_of_commands() -> None:
    """Each command is in the table with the sentence that --help shows, and has a section."""
    text = PAGE.read_text()
    for name, command in COMMANDS.items():
        assert f"| [`securellm {name}`](#securellm-{name}) | {command.help} |" in text
        assert f"\n## securellm {name}\n" in text
