"""`securellm prices`: listed, imported, checked; a configuration that names a model without a price does not start."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from securellm.cli.group import cli
from securellm.pricing.importing import encode_price_file
from securellm.pricing.price import Listed, Price, Section

ROOT = Path(__file__).parent.parent.parent
BOX = '[providers.box]\nkind = "openai-compatible"\nbase_url = "http://10.0.0.5:8000/v1"\n'
GROQ = '[providers.groq]\napi_key = "env:GROQ_API_KEY"\n'
PRICED = '[models."box/*"]\ninput_usd_per_mtok = 1.5\noutput_usd_per_mtok = 2\n'
NAMING = {
    "an alias": '[aliases]\nfast = "box/m"\n',
    "a target of auto": '[auto]\ntargets = ["box/m"]\n',
    "an alias in auto": '[auto]\ntargets = ["fast"]\n[aliases]\nfast = "box/m"\n',
}


def _run(tmp_path: Path, text: str, *arguments: str) -> Result:
    config = tmp_path / "config.toml"
    config.write_text(f'state_dir = "{tmp_path / "state"}"\n{text}')
    environ = {"GROQ_API_KEY": "gsk-x", "OPENAI_API_KEY": None, "ANTHROPIC_API_KEY": None}
    return CliRunner().invoke(cli, [*arguments, "--config", str(config)], env=environ)


@pytest.mark.parametrize("command", ["check-config", "serve", "prices check"])
@pytest.mark.parametrize("naming", NAMING.values(), ids=NAMING.keys())
def test_a_named_model_without_a_price_stops_everything(tmp_path: Path, naming: str, command: str) -> None:
    """Guarantee 35: checks and the start fail, name the model and its place, and say what to add."""
    port = ("--port", "0") if command == "serve" else ()
    done = _run(tmp_path, naming + BOX, *command.split(), *port)
    assert done.exit_code == 1
    assert "the configuration names " in done.stderr
    assert 'box/m has no price; add [models."box/m"] with free = true, or with input_usd_per_mtok' in done.stderr


@pytest.mark.parametrize("naming", NAMING.values(), ids=NAMING.keys())
@pytest.mark.parametrize("price", ['[models."box/m"]\nfree = true\n', PRICED], ids=["free", "priced"])
def test_with_a_price_it_is_fine(tmp_path: Path, naming: str, price: str) -> None:
    """The lines that the message names make it pass."""
    assert _run(tmp_path, naming + BOX + price, "check-config").exit_code == 0
    done = _run(tmp_path, naming + BOX + price, "prices", "check")
    assert done.exit_code == 0
    assert done.stdout.startswith("every model that the configuration names has a price; the table is ")


def test_a_providers_own_models_are_checked(tmp_path: Path) -> None:
    """`models` of an enabled provider need prices, every one; those of a provider that is off do not."""
    listed = BOX + 'models = ["a", "b"]\n'
    done = _run(tmp_path, listed, "prices", "check")
    assert done.exit_code == 1
    assert "names 2 models without a price:\n  providers.box.models: box/a has no price" in done.stderr
    assert _run(tmp_path, listed + "enabled = false\n", "prices", "check").exit_code == 0
    assert _run(tmp_path, listed + PRICED, "prices", "check").exit_code == 0
    one = _run(tmp_path, BOX + 'models = ["a"]\n', "prices", "check")
    assert "the configuration names a model without a price:" in one.stderr


@pytest.mark.parametrize("page", ["README.md", "docs/configuration.md", "docs/prices.md"])
def test_the_examples_of_the_pages_are_fine(tmp_path: Path, page: str) -> None:
    """A configuration that a page shows passes the check, its prices included."""
    text = (ROOT / page).read_text().partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "anthropic-key").write_text("sk-ant-x")
    path = tmp_path / "config.toml"
    path.write_text(text if "[providers" in text else text + BOX.replace("box", "my-box") + "[providers.openai]\n")
    environ = {"OPENAI_API_KEY": "sk-x", "ANTHROPIC_API_KEY": "sk-ant-x", "STATE_DIRECTORY": str(tmp_path / "state")}
    done = CliRunner().invoke(cli, ["check-config", "--config", str(path)], env=environ)
    assert (done.exit_code, done.stderr) == (0, "")


def test_the_list_is_that_of_the_enabled_providers(tmp_path: Path) -> None:
    """One line a model, in USD per million tokens, the configuration's over the shipped ones; the table on stderr."""
    done = _run(tmp_path, GROQ + BOX + PRICED, "prices", "list")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["model", "input", "output", "cached", "notes"]
    assert lines[1].split() == ["box/*", "1.5", "2", "1.5"]
    assert {line.partition("/")[0] for line in lines[1:]} == {"box", "groq"}
    assert "groq/openai/gpt-oss-120b" in done.stdout
    assert "The table in force is " in done.stderr
    everything = _run(tmp_path, GROQ, "prices", "list", "--all")
    assert "anthropic/claude-opus-4-5" in everything.stdout
    assert [line.split() for line in everything.stdout.splitlines() if line.startswith("ollama/")] == [
        ["ollama/*", "free"]
    ]


def test_one_provider_as_json(tmp_path: Path) -> None:
    """--json has exact integers with source and day, also of a provider that is not enabled; tiers are shown."""
    done = _run(tmp_path, GROQ, "prices", "list", "gemini", "--json")
    shown = json.loads(done.stdout)
    assert len(shown["price_table"]) == 64
    models = {entry["model"]: entry for entry in shown["models"]}
    assert all(name.startswith("gemini/") for name in models)
    pro = models["gemini/gemini-2.5-pro"]
    assert (pro["input"], pro["tiers"][0]["above_tokens"]) == (1_250_000_000, 200_000)
    assert pro["source"].startswith("genai-prices ")
    assert len(pro["date"]) == 10
    assert "more above 200000 tokens" in _run(tmp_path, GROQ, "prices", "list", "gemini").stdout


def test_an_unknown_provider(tmp_path: Path) -> None:
    """Whoever mistypes a provider is told which have prices."""
    done = _run(tmp_path, GROQ, "prices", "list", "gork")
    assert done.exit_code == 1
    assert "no prices for provider gork. There are: anthropic, deepseek" in done.stderr


def test_prices_from_another_machine(tmp_path: Path) -> None:
    """--from takes a file into the state directory, for the owner only, and it is in force from then on."""
    given = tmp_path / "given.json"
    sections = {"groq": Section("mine", "2027-01-01", {"m": Listed(Price(input=42))})}
    given.write_bytes(encode_price_file("me 1", "2027-01-01", sections))
    done = _run(tmp_path, GROQ, "prices", "import", "--from", str(given))
    written = tmp_path / "state" / "prices.json"
    assert done.exit_code == 0
    assert done.stdout == f"{written}: 1 models of 1 providers, from me 1, 2027-01-01\n"
    assert written.read_bytes() == given.read_bytes()
    assert written.stat().st_mode & 0o777 == 0o600
    assert _run(tmp_path, GROQ, "prices", "list").stdout.splitlines()[1].split()[:2] == ["groq/m", "0.000000042"]


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot be read: No such file"), ("{}", "is not a file of prices")],
    ids=["none", "other"],
)
def test_a_file_that_cannot_be_imported(tmp_path: Path, content: str | None, told: str) -> None:
    """Nothing is written when the file is missing or something else."""
    given = tmp_path / "given.json"
    if content is not None:
        given.write_text(content)
    done = _run(tmp_path, GROQ, "prices", "import", "--from", str(given))
    assert done.exit_code == 1
    assert told in done.stderr
    assert not (tmp_path / "state").exists()


def test_a_damaged_import_stops_everything(tmp_path: Path) -> None:
    """A damaged file in the state directory is told by every command that needs prices; nothing becomes free."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "prices.json").write_text("{")
    for command in ("check-config", "prices check", "prices list"):
        done = _run(tmp_path, GROQ, *command.split())
        assert done.exit_code == 1, command
        assert "is not a file of prices" in done.stderr, command


def test_a_day_that_is_none(tmp_path: Path) -> None:
    """--date takes a day."""
    done = _run(tmp_path, GROQ, "prices", "import", "--date", "tomorrow")
    assert done.exit_code == 2
    assert "expected a day (2027-01-31)" in done.stderr


def test_the_group_is_short() -> None:
    """Three commands: what is not needed is not there."""
    from securellm.cli.prices import prices

    assert isinstance(prices, click.Group)
    assert sorted(prices.commands) == ["check", "import", "list"]
