"""`securellm keys`, `users` and `budgets` on a real store: what they keep, what they refuse, and what is told of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from securellm.accounts.store import Store
from securellm.cli.group import cli
from securellm.config import load_config


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(f'state_dir = "{tmp_path / "state"}"\n[budgets.per_team]\ntokens = 500\nwindow = "day"\n')
    return path


def _run(config: Path, command: str) -> Result:
    return CliRunner().invoke(cli, [*command.split(), "--config", str(config)])


def _good(config: Path, command: str) -> str:
    result = _run(config, command)
    assert (result.exit_code, result.exception) == (0, None), result.output
    return result.stdout


def _json(config: Path, command: str) -> Any:
    return json.loads(_good(config, f"{command} --json"))


def test_a_restricted_key(config: Path) -> None:
    """Whatever a key belongs to and may do is given at its making, and shown again."""
    _good(config, "users teams create core")
    _good(config, "users create alice --name Alice --team core --tpm 1000")
    made = _json(
        config,
        "keys create --name ci --user alice --role operator --model openai/* --model demo/echo --provider openai "
        "--endpoint messages --network 10.0.0.0/8 --network ::1 --rpm 60 --burst 5 --concurrent 0",
    )
    shown = _json(config, f"keys show {made['id']}")
    assert (shown["user"], shown["role"], shown["state"]) == ("alice", "operator", "active")
    assert (shown["models"], shown["providers"]) == (["openai/*", "demo/echo"], ["openai"])
    assert (shown["endpoints"], shown["networks"]) == (["messages"], ["10.0.0.0/8", "::1/128"])
    assert shown["rates"] == {"rpm": 60, "burst": 5, "concurrent": 0}
    text = _good(config, f"keys show {made['id']}")
    assert "openai/*, demo/echo" in text
    assert "rpm 60, burst 5, concurrent 0" in text
    assert [key["id"] for key in _json(config, "keys list --user alice")] == [made["id"]]
    assert _json(config, "keys list --team core") == []
    plain = _json(config, f"keys show {_json(config, 'keys create')['id']}")
    assert (plain["models"], plain["rates"], plain["user"]) == (None, {}, None)


def test_changing(config: Path) -> None:
    """What is named changes, what is cleared goes, and the rest stays."""
    _good(config, "users teams create core")
    _good(config, "users create alice --rpm 5")
    key = _json(config, "keys create --user alice --model openai/* --provider openai --rpm 60 --tpm 9 --expires 1d")[
        "id"
    ]
    first = _json(config, f"keys set {key} --role auditor --model demo/echo --clear providers --rpm 7")
    assert (first["role"], first["models"], first["providers"]) == ("auditor", ["demo/echo"], None)
    assert (first["rates"], first["user"], first["expires_at"] is None) == ({"rpm": 7, "tpm": 9}, "alice", False)
    second = _json(config, f"keys set {key} --clear user --clear expires --clear rates --clear models --tpm 1")
    assert (second["user"], second["expires_at"], second["models"]) == (None, None, None)
    assert (second["rates"], second["role"]) == ({"tpm": 1}, "auditor")
    assert second == _json(config, f"keys show {key}")
    assert _json(config, f"keys set {key} --clear rates")["rates"] == {}
    assert _json(config, "users set alice --team core --tpm 3")["rates"] == {"rpm": 5, "tpm": 3}
    cleared = _json(config, "users set alice --clear team --clear rates --name Alice")
    assert (cleared["team"], cleared["rates"], cleared["name"]) == (None, {}, "Alice")
    nothing = _run(config, f"keys set {key}")
    assert nothing.exit_code == 2
    assert "nothing to change" in nothing.stderr


def test_rotating(config: Path) -> None:
    """The new key alone is on stdout, under the same id; the note says until when the old one is good."""
    first = _good(config, "keys create").strip()
    rotated = _run(config, f"keys rotate {first} --overlap 2h")
    second = rotated.stdout.strip()
    assert second[:13] == first[:13]
    assert second != first
    assert "the old one is good until 20" in rotated.stderr
    assert first[13:] not in rotated.output
    at_once = _run(config, f"keys rotate {first[4:12]} --overlap 0")
    assert "the old one is good no longer" in at_once.stderr
    assert _json(config, f"keys show {first[4:12]}")["rotated_until"] is None
    assert _run(config, "keys rotate aaaaaaaa").exit_code == 1
    assert _run(config, f"keys rotate {first[4:12]} --overlap soon").exit_code == 2


def test_users_and_teams(config: Path) -> None:
    """They are made, listed, shown, disabled, enabled and deleted."""
    assert _good(config, "users list") == "No users yet. Make one: securellm users create ID\n"
    _good(config, "users teams create core --name Core --rpm 5")
    assert "securellm keys create --user alice" in _good(config, "users create alice --team core")
    key = _good(config, "keys create --user alice").strip()
    (alice,) = _json(config, "users list")
    assert (alice["id"], alice["team"], alice["state"], alice["rates"]) == ("alice", "core", "active", {})
    assert _json(config, "users show alice")["keys"] == [key[4:12]]
    assert "within 2 s" in _good(config, "users disable alice")
    assert "disabled" in _good(config, "users list --team core")
    _good(config, "users enable alice")
    _good(config, "users teams disable core")
    (core,) = _json(config, "users teams list")
    assert (core["state"], core["rates"]) == ("disabled", {"rpm": 5})
    _good(config, "users teams enable core")
    in_use = _run(config, "users delete alice")
    assert in_use.exit_code == 2
    assert "revoke them or disable user alice" in in_use.stderr
    _good(config, f"keys revoke {key[4:12]}")
    _good(config, "users delete alice")
    _good(config, "users teams delete core")
    assert _json(config, "users list") == []


def test_budgets(config: Path) -> None:
    """They are set to the nano-dollar, listed, shown with what was spent, and removed."""
    _good(config, "users teams create core")
    _good(config, "users create alice")
    assert _good(config, "budgets list").startswith("No budgets yet. Set one:")
    _good(config, "budgets set user alice --usd 12.500000001 --tokens 1000")
    _good(config, "budgets set user alice --usd 1 --window rolling --rolling 7d")
    listed = {budget["window"]: budget for budget in _json(config, "budgets list")}
    assert (listed["month"]["usd"], listed["month"]["tokens"]) == ("12.500000001", 1000)
    assert (listed["rolling"]["usd"], listed["rolling"]["rolling_s"]) == ("1.00", 7 * 86_400)
    shown = _json(config, "budgets show user alice")
    assert {(one["window"], one["spent_usd"], one["reserved_tokens"]) for one in shown} == {
        ("month", "0.00", 0), ("rolling", "0.00", 0),
    }  # fmt: skip
    (team,) = _json(config, "budgets show team core")
    assert (team["tokens"], team["window"], team["spent_tokens"]) == (500, "day", 0)
    assert "12.500000001" in _good(config, "budgets show user alice")
    assert "No budget bounds key" in _good(config, "budgets show key aaaaaaaa")
    assert _good(config, "budgets remove user alice --window month") == "1 budget of user alice removed.\n"
    _good(config, "budgets remove user alice")
    assert _run(config, "budgets remove user alice").exit_code == 1


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("keys create --user nobody", 2, "--user"),
        ("keys create --team nobody", 2, "--team"),
        ("keys create --model gpt", 2, "--model"),
        ("keys create --network house", 2, "--network"),
        ("keys create --endpoint chat", 2, "--endpoint"),
        ("keys create --rpm -1", 2, "--rpm"),
        ("keys create --burst 5", 2, "--burst"),
        ("keys show aaaaaaaa", 1, "no key with that id"),
        ("users create .x", 2, "ID"),
        ("users create a/b", 2, "ID"),
        ("users show nobody", 1, "no user nobody"),
        ("users disable nobody", 1, "no user nobody"),
        ("users teams disable nobody", 1, "no team nobody"),
        ("budgets set user nobody --usd 1", 1, "no user nobody"),
        ("budgets set house x --usd 1", 2, "key|user|team"),
        ("budgets set key anonymous", 2, "--usd"),
        ("budgets set key anonymous --usd much", 2, "--usd"),
        ("budgets set key anonymous --usd nan", 2, "--usd"),
        ("budgets set key anonymous --usd -1", 2, "--usd"),
        ("budgets set key anonymous --usd 0.0000000001", 2, "--usd"),
        ("budgets set key anonymous --usd 1 --rolling 1s", 2, "--rolling"),
    ],
)
def test_what_is_wrong_is_told(config: Path, command: str, code: int, told: str) -> None:
    """By the name of its option or argument, and nothing is kept."""
    refused = _run(config, command)
    assert refused.exit_code == code, refused.output
    assert told in refused.stderr
    assert _json(config, "keys list") == []
    assert _json(config, "budgets list") == []


def test_who_did_it_is_noted(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit log is told the login at the keyboard, also behind sudo, and what was changed."""
    monkeypatch.delenv("SUDO_USER", raising=False)
    _good(config, "users create alice --rpm 5")
    monkeypatch.setenv("SUDO_USER", "carol")
    _good(config, "budgets set user alice --tokens 9")
    store = Store(load_config(config))
    first, second = store.read_events()
    store.close()
    assert first.actor.startswith("cli:")
    assert json.loads(first.changed)["rates"]["rpm"] == 5
    assert (second.action, second.subject) == ("budget_set", "user:alice:month")
    assert second.actor in ("cli:carol", first.actor)
    assert json.loads(second.changed)["limit_tokens"] == 9
