"""Tables on disk: the imported one is in force, every one that was in force is kept, and what was changed shows."""

import os
from pathlib import Path

import pytest

from securellm.config.tree import Config, Model, Provider
from securellm.errors import ConfigError
from securellm.pricing.importing import encode_price_file
from securellm.pricing.kept import keep_table, load_table, read_kept_table
from securellm.pricing.price import Listed, Price, Section


def _config(state_dir: Path, **models: Model) -> Config:
    return Config(state_dir=state_dir, models=models, providers={"groq": Provider(enabled=True)})


def test_a_table_is_kept_under_its_name(tmp_path: Path) -> None:
    """A kept table is read again by its name, is for the owner only, and keeping it twice changes nothing."""
    table = load_table(_config(tmp_path / "state"))
    path = keep_table(tmp_path / "state", table)
    assert path == tmp_path / "state" / "prices" / f"{table.sha256}.json"
    assert path.read_bytes() == table.encoded
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    before = path.stat()
    assert keep_table(tmp_path / "state", table) == path
    assert path.stat() == before
    assert os.listdir(path.parent) == [path.name]
    again = read_kept_table(tmp_path / "state", table.sha256)
    assert again is not None
    assert again.sha256 == table.sha256


def test_what_was_not_kept_or_was_changed(tmp_path: Path) -> None:
    """Another name is None, whatever it is; a file that is not what its name says is an error, not a price."""
    table = load_table(_config(tmp_path))
    path = keep_table(tmp_path, table)
    for name in ("", "0" * 64, "../" + table.sha256, table.sha256.upper()):
        assert read_kept_table(tmp_path, name) is None
    path.write_bytes(table.encoded.replace(b'"input":', b'"input":1', 1))
    with pytest.raises(ValueError, match="has been changed"):
        read_kept_table(tmp_path, table.sha256)


def test_an_imported_file_goes_before_the_shipped_one(tmp_path: Path) -> None:
    """`<state>/prices.json` is in force when it is there; the configuration still goes over it."""
    shipped = load_table(_config(tmp_path))
    sections = {"groq": Section("mine", "2027-01-01", {"m": Listed(Price(input=42))})}
    (tmp_path / "prices.json").write_bytes(encode_price_file("me", "2027-01-01", sections))
    table = load_table(_config(tmp_path))
    assert table.sha256 != shipped.sha256
    assert [(model, price.input) for model, price in table.entries("groq")] == [("m", 42)]
    dearer = load_table(_config(tmp_path, **{"groq/m": Model(input_usd_per_mtok=1)}))
    assert [price.input for _, price in dearer.entries("groq")] == [1_000_000_000]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 9, "made_by": "x", "date": "x", "sections": {}}'])
def test_a_file_that_is_no_list_of_prices(tmp_path: Path, text: str) -> None:
    """A damaged file stops the start, and says how to make it again: it never means that everything is free."""
    (tmp_path / "prices.json").write_text(text)
    with pytest.raises(ConfigError, match=r"prices\.json is not a file of prices.*securellm prices import"):
        load_table(_config(tmp_path))
