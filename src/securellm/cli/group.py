"""The group of all commands. A command's module is imported when it is called, and no sooner.

So completion stays quick, and a command pays only for what it needs.
"""

from importlib import import_module
from typing import Any, NamedTuple

import click

from securellm import __version__


class Command(NamedTuple):
    """Where a command is and what it does; the name in its module is the command's, `-` as `_`."""

    module: str
    help: str


COMMANDS: dict[str, Command] = {
    "serve": Command("serve", "Start the gateway."),
    "check-config": Command("check_config", "Find every mistake in the configuration."),
    "keys": Command("keys", "Make, list, rotate and revoke the keys of callers."),
    "users": Command("users", "Keep the users and teams that keys belong to."),
    "budgets": Command("budgets", "Set and show what keys, users and teams may spend."),
    "audit": Command("audit", "Read, check and keep the audit log."),
    "prices": Command("prices", "List, import and check the prices of models."),
    "chat": Command("chat", "Ask a model through the gateway."),
    "models": Command("models", "List the models of the gateway."),
    "health": Command("health", "Show how the gateway and its providers are."),
    "bench": Command("bench", "Measure a running gateway."),
    "explain": Command("explain", "Tell what the gateway would do with a request."),
    "info": Command("info", "Show how a provider is configured."),
    "completions": Command("completions", "Print the completion script of a shell."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports them one by one."""

    def __init__(self, *args: Any, known: dict[str, Command], **options: Any) -> None:
        super().__init__(*args, **options)
        self._known = known

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order in which one meets them."""
        return list(self._known)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        known = self._known.get(cmd_name)
        if known is None:
            return None
        module = import_module(f"securellm.cli.{known.module}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but an unknown command comes with the nearest known one."""
        if args and args[0] not in self._known and not args[0].startswith("-"):
            from difflib import get_close_matches  # not at the top: only a mistake needs it

            near = get_close_matches(args[0], self._known, n=1)
            path = ctx.command_path
            hint = f"Did you mean: {path} {near[0]}" if near else f"{path} --help lists the commands."
            raise click.UsageError(f"No such command: {args[0]}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in self._known.items()])


@click.group(cls=LazyGroup, known=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="securellm %(version)s")
def cli() -> None:
    """SecureLLM Bridge: one OpenAI- and Anthropic-compatible endpoint in front of your providers.

    Start with: securellm serve
    """
