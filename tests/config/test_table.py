"""The table of settings agrees with the tree, with the providers, and with the documentation."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from securellm.config import load_config
from securellm.config.describe import encode_markdown
from securellm.config.table import BUILT_IN, COMPATIBLE, DECLARED_KINDS, ENDPOINTS, SETTINGS, Kind, default_of
from securellm.config.tree import Config, Model, Provider, Rates
from securellm.providers.registry import ADAPTERS, DECLARABLE

DOCS = Path(__file__).parent.parent.parent / "docs"
NOT_SET_BY_ANYBODY = {
    "log_dir",
    "epoch",
    "source",
    "warnings",
    "database.path",
    "database.server",
    "rate_limit.providers",
}  # `load.py` makes them


def _fields(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    for field in msgspec.structs.fields(struct):
        name = f"{prefix}{field.name}"
        if isinstance(field.default, msgspec.Struct):
            yield from _fields(type(field.default), f"{name}.")
        elif name == "providers":
            yield from _fields(Provider, "providers.*.")
        elif name == "rate_limit.models":
            yield from _fields(Rates, "rate_limit.models.*.")
        elif name == "models":
            yield from _fields(Model, "models.*.")
        else:
            yield name


def test_every_field_of_the_tree_is_a_row_of_the_table() -> None:
    """Nothing in the tree is unknown to the table, and every built row has its place in the tree."""
    rows = {".".join(setting.path) for setting in SETTINGS}
    fields = set(_fields(Config))
    assert {name for name in fields - rows - NOT_SET_BY_ANYBODY if not name.startswith("aliases")} == set()
    built = {".".join(setting.path) for setting in SETTINGS if setting.built}
    assert built - fields == {"aliases.*", "rate_limit.*"}


def test_defaults_are_values_that_the_table_allows() -> None:
    """Each default lies between the bounds and among the choices of its row."""
    for setting in SETTINGS:
        default = default_of(setting)
        if isinstance(default, bool) or not isinstance(default, int | float):
            assert not setting.choices or default in (None, (), *setting.choices), setting.path
        else:
            assert setting.least is None or default >= setting.least, setting.path
            assert setting.most is None or default <= setting.most, setting.path


def test_every_row_is_unique_and_described() -> None:
    """One row a path, one variable a row, help on each; seconds and sizes say their unit."""
    assert len({setting.path for setting in SETTINGS}) == len(SETTINGS)
    variables = [setting.env for setting in SETTINGS if setting.env]
    assert len(set(variables)) == len(variables)
    assert all(setting.help.endswith(".") for setting in SETTINGS)
    assert all(setting.unit for setting in SETTINGS if setting.kind is Kind.SECONDS)


def test_the_built_in_providers_are_those_that_exist() -> None:
    """Names, kinds and the need of a key are the providers' own; whoever may be declared exists."""
    assert set(BUILT_IN) == set(ADAPTERS) - {COMPATIBLE}
    for name, built_in in BUILT_IN.items():
        assert built_in.needs_key == ADAPTERS[name].needs_key, name
        assert built_in.kind in ADAPTERS, name
    assert set(DECLARED_KINDS) <= set(ADAPTERS)
    assert set(ENDPOINTS) == set(DECLARABLE)


def test_the_page_of_settings_is_in_step() -> None:
    """docs/configuration.md is what the table says; made by `python -m securellm.config.describe`."""
    assert (DOCS / "configuration.md").read_text() == encode_markdown()


def test_the_example_of_the_page_loads(tmp_path: Path) -> None:
    """The TOML at the top of the page is a configuration without a mistake."""
    text = encode_markdown().partition("```toml\n")[2].partition("```")[0]
    path = tmp_path / "config.toml"
    path.write_text(text)
    (tmp_path / "anthropic-key").write_text("sk-ant-x")
    config = load_config(path, environ={"OPENAI_API_KEY": "sk-x"})
    assert [name for name, provider in config.providers.items() if provider.enabled] == [
        "openai",
        "anthropic",
        "my-box",
    ]


@pytest.mark.parametrize("setting", [setting for setting in SETTINGS if not setting.built], ids=lambda row: row.name)
def test_the_page_says_what_is_not_built(setting: object) -> None:
    """Every unbuilt setting is marked on the page."""
    name = setting.name.rpartition(".")[2]  # type: ignore[attr-defined]  # a row of the table
    rows = [line for line in encode_markdown().splitlines() if line.startswith(f"| `{name}` |")]
    assert any("*Not built.*" in row for row in rows)
