"""`securellm`: the entry point, which turns a command's end into an exit code.

The version is printed before click is imported, as its import is most of the time that this takes.
"""

import sys

from securellm import __version__

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main() -> None:
    """Run a command and end with its exit code. Ctrl-C ends quietly."""
    if sys.argv[1:] == ["--version"]:
        print(f"securellm {__version__}")
        return
    try:
        sys.exit(_run())
    except BrokenPipeError:
        # Whoever read our output has gone, as in `securellm models | head -1`. What is still buffered has no reader.
        sys.stdout = None  # the interpreter's last flush looks for None
        sys.exit(FAILED)


def _run() -> int:
    import click  # not at the top: see above

    from securellm.cli.group import cli

    try:
        code = cli.main(prog_name="securellm", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.format_message())
        return 0
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
