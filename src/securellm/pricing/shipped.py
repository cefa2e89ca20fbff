"""The prices that we ship, read from `prices.json` beside this file. Pure.

The file is made by `securellm prices import` and says its source and date. It is read as its code is, by the loader
that imported it, and a section is decoded only when its provider is configured.
"""

import pkgutil
from collections.abc import Collection, Mapping

import msgspec

from securellm.config.tree import Config
from securellm.pricing.price import Section
from securellm.pricing.table import FORMAT, PriceTable, make_table


class PriceFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of prices; its sections are decoded one by one."""

    format: int
    made_by: str
    date: str
    sections: dict[str, msgspec.Raw]


def table_for(config: Config, file: PriceFile, *, every: bool = False) -> PriceTable:
    """The table for a configuration: of its enabled providers, or of `every` provider that has prices."""
    kinds = {name: provider.kind for name, provider in config.providers.items() if provider.enabled or every}
    if every:
        kinds = {name: kinds.get(name, name) for name in (*file.sections, *kinds)}
    return make_table(config, decode_sections(file, {*kinds, *kinds.values()}), kinds)


def read_price_file() -> PriceFile:
    """The shipped file."""
    return decode_price_file(pkgutil.get_data("securellm.pricing", "prices.json") or b"{}")


def decode_price_file(data: bytes) -> PriceFile:
    """A file of prices. Raises msgspec.DecodeError (a ValueError) when it is none."""
    file = msgspec.json.decode(data, type=PriceFile)
    if file.format != FORMAT:
        raise msgspec.ValidationError(f"got format {file.format}, expected {FORMAT}")
    return file


def decode_sections(file: PriceFile, names: Collection[str]) -> Mapping[str, Section]:
    """The sections of those names that the file has."""
    return {name: msgspec.json.decode(raw, type=Section) for name, raw in file.sections.items() if name in names}
