"""The entry point: what it imports, what it ends with, and what it says to who mistypes."""

import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from securellm import __version__
from securellm.cli.group import COMMANDS, cli

HEAVY = ("trio", "quart", "quart_trio", "hypercorn", "httpx", "httpcore", "sqlalchemy", "prometheus_client", "h11")


def _securellm(*arguments: str, stdin: str = "", **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "securellm", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": "src", "PATH": "", "HOME": "/nonexistent", "STATE_DIRECTORY": "/nonexistent", **environ},
    )


def _imported(*arguments: str) -> set[str]:
    """The modules that a command line imports, by the interpreter's own account."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "securellm", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": "src", "PATH": "", "STATE_DIRECTORY": "/nonexistent"},
    )
    rows = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert len(rows) > 20
    return {row.split(".")[0] for row in rows} | set(rows)


def test_the_version_is_quick(record_property: Callable[[str, object], None]) -> None:
    """Guarantee 39: `--version` imports nothing heavy, not even click; the time is reported, and fails at 1 s."""
    imported = _imported("--version")
    assert imported.isdisjoint((*HEAVY, "click", "msgspec"))
    took_s = []
    for _ in range(3):
        started_s = time.perf_counter()
        assert _securellm("--version").stdout == f"securellm {__version__}\n"
        took_s.append(time.perf_counter() - started_s)
    record_property("version_ms", round(min(took_s) * 1000))
    assert min(took_s) < 1.0


@pytest.mark.parametrize(
    "arguments", [["--help"], ["check-config"], ["info", "openai"], ["completions", "bash"], ["models"], ["health"]]
)
def test_commands_import_what_they_need(arguments: list[str]) -> None:
    """Commands that serve nothing import no server, no store and no HTTP library."""
    assert _imported(*arguments).isdisjoint(HEAVY)


def test_the_port_is_bound_before_anything_heavy() -> None:
    """`serve` up to the bound port imports neither Trio nor the server: a port in use is told without them."""
    assert _imported("serve", "--host", "203.0.113.1", "--port", "1").isdisjoint(HEAVY)


def test_every_command_is_there() -> None:
    """Each name of the list leads to a command of that name with that help."""
    for name, command in COMMANDS.items():
        found = cli.get_command(None, name)  # type: ignore[arg-type]  # the context is not used
        assert found is not None
        assert found.name == name
        assert found.help
        assert command.help.endswith(".")


def test_help_and_no_argument() -> None:
    """Without a command, and with --help, the commands are listed; both end with 0."""
    for arguments in ([], ["--help"], ["-h"]):
        done = _securellm(*arguments)
        assert done.returncode == 0
        assert all(name in done.stdout for name in COMMANDS)
        assert done.stderr == ""


def test_an_unknown_command_comes_with_the_nearest() -> None:
    """A typo ends with 2 and the command that was meant."""
    done = _securellm("serv")
    assert done.returncode == 2
    assert "Did you mean: securellm serve" in done.stderr
    assert "securellm --help lists the commands." in _securellm("xyzzy").stderr


def test_python_m_is_the_same() -> None:
    """`python -m securellm` and the group itself agree on the version."""
    assert _securellm("--version").stdout == CliRunner().invoke(cli, ["--version"]).output


def test_output_that_nobody_reads() -> None:
    """`securellm … | head -1` ends without a traceback."""
    with subprocess.Popen(
        [sys.executable, "-m", "securellm", "check-config", "--print"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": "src", "PATH": "", "STATE_DIRECTORY": "/nonexistent"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions(shell: str) -> None:
    """Every shell gets a script that calls us by name."""
    done = _securellm("completions", shell)
    assert done.returncode == 0
    assert "_SECURELLM_COMPLETE" in done.stdout


def test_completion_answers() -> None:
    """The script's question is answered with the commands."""
    done = _securellm(_SECURELLM_COMPLETE="bash_complete", COMP_WORDS="securellm che", COMP_CWORD="1")
    assert "plain,check-config" in done.stdout
