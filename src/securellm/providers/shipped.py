"""The catalogue that we ship: well-known models of each provider, with their source and date. Pure.

It names models for bare names and `/v1/models` until a sync has asked the providers, and their limits where a
provider's own list has none. It is data, not a gate: a prefixed model is asked for whether it is listed or not.
`catalogue.json` lies beside this file and is read as its code is, by the loader that imported it.
"""

import pkgutil
from functools import cache

import msgspec

from securellm.providers.models import ModelCard, parse_date_s


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    context: int | None = None
    max_output: int | None = None
    created: str | None = None  # informal; the day the provider gives
    display_name: str | None = None


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    date: str
    models: list[_Entry]


@cache
def load_shipped() -> tuple[ModelCard, ...]:
    """Every shipped card; `provider` is the family that the model belongs to. Read once."""
    data = pkgutil.get_data("securellm.providers", "catalogue.json")
    sections = msgspec.json.decode(data or b"{}", type=dict[str, _Section])
    return tuple(
        ModelCard(
            provider=kind,
            model=entry.id,
            context=entry.context,
            max_output=entry.max_output,
            created_s=parse_date_s(entry.created or ""),
            display_name=entry.display_name,
            free=kind == "demo",
        )
        for kind, section in sections.items()
        for entry in section.models
    )
