"""`securellm completions`: the script that makes a shell complete our commands."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completions(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  eval "$(securellm completions bash)"      in ~/.bashrc
    zsh:   eval "$(securellm completions zsh)"       in ~/.zshrc
    fish:  securellm completions fish > ~/.config/fish/completions/securellm.fish
    """
    from securellm.cli.group import cli  # not at the top: the group imports this module

    made_by = get_completion_class(shell)
    if made_by is None:
        raise click.ClickException(f"no completion for {shell}")
    click.echo(made_by(cli, {}, "securellm", "_SECURELLM_COMPLETE").source())
