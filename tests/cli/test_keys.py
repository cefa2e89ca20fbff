"""`securellm keys`: made, listed and revoked in a real store; a key is printed once and never again."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from securellm.accounts.keys import parse_key
from securellm.cli.accounts_options import parse_expiry_s
from securellm.cli.keys import keys


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(f'state_dir = "{tmp_path / "state"}"\n')
    return path


def _run(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(keys, [*arguments, "--config", str(config)])


def test_a_key_is_printed_once(config: Path) -> None:
    """The key alone is on stdout, for scripts; the note on stderr names its id; the list shows the id only."""
    made = _run(config, "create", "--name", "alice", "--role", "operator", "--expires", "30d")
    assert made.exit_code == 0
    text = made.stdout.strip()
    key_id = parse_key(text)
    assert key_id is not None
    assert made.stdout == f"{text}\n"
    assert f"Key {key_id}, role operator, until " in made.stderr
    assert text not in made.stderr
    listed = _run(config, "list")
    assert key_id in listed.stdout
    assert "alice" in listed.stdout
    assert "operator" in listed.stdout
    assert text[13:] not in listed.output


def test_json(config: Path) -> None:
    """Programs get the same facts as JSON."""
    made = json.loads(_run(config, "create", "--name", "x", "--expires", "2999-01-31", "--json").stdout)
    assert made["expires_at"] == "2999-01-31T00:00:00Z"
    assert parse_key(made["key"]) == made["id"]
    (listed,) = json.loads(_run(config, "list", "--json").stdout)
    assert (listed["id"], listed["state"], listed["role"]) == (made["id"], "active", "user")
    assert "key" not in listed
    assert json.loads(_run(config, "list", "--json").stdout)[0]["revoked_at"] is None


def test_revoking(config: Path) -> None:
    """A key is revoked by its id or by itself, once; the list says so."""
    first, second = (_run(config, "create").stdout.strip() for _ in range(2))
    by_id = _run(config, "revoke", first[4:12])
    by_text = _run(config, "revoke", second)
    assert (by_id.exit_code, by_text.exit_code) == (0, 0)
    assert second[13:] not in by_text.output
    states = [record["state"] for record in json.loads(_run(config, "list", "--json").stdout)]
    assert states == ["revoked", "revoked"]
    again = _run(config, "revoke", first[4:12])
    assert again.exit_code == 1
    assert first[4:12] in again.stderr


def test_an_argument_that_is_no_id_is_not_repeated(config: Path) -> None:
    """Somebody else's secret pasted by mistake does not come back in the message."""
    refused = _run(config, "revoke", "sk-canary-0123456789")
    assert refused.exit_code == 1
    assert "canary" not in refused.output
    assert "securellm keys list" in refused.stderr


def test_an_empty_list_says_what_to_do(config: Path) -> None:
    """The first thing one sees names the next command."""
    assert _run(config, "list").stdout == "No keys yet. Make one: securellm keys create\n"
    assert json.loads(_run(config, "list", "--json").stdout) == []


@pytest.mark.parametrize(
    "arguments",
    [("--expires", "soon"), ("--expires", "1999-01-01"), ("--expires", "0d"), ("--role", "king"), ("--name", "a\nb")],
)
def test_bad_options(config: Path, arguments: tuple[str, str]) -> None:
    """What is wrong is told by the name of its option, and no key is made."""
    refused = _run(config, "create", *arguments)
    assert refused.exit_code == 2
    assert arguments[0] in refused.stderr
    assert json.loads(_run(config, "list", "--json").stdout) == []


def test_a_store_that_cannot_be_used(tmp_path: Path, config: Path) -> None:
    """An outage is one line that names the file, not a traceback."""
    (tmp_path / "state").touch()
    failed = _run(config, "list")
    assert failed.exit_code == 1
    assert failed.stderr.startswith("Error: the key store cannot be used: ")
    assert "models.db" in failed.stderr


def test_expiry() -> None:
    """Lifetimes count from now, days are in UTC, and far futures do not overflow."""
    assert parse_expiry_s("12h", 1000) == 1000 + 12 * 3600
    assert parse_expiry_s("8w", 0) == 8 * 7 * 86_400
    assert parse_expiry_s("1970-01-03", 0) == 2 * 86_400
    with pytest.raises(click.BadParameter):
        parse_expiry_s("999999y", 0)
