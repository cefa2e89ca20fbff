"""The catalogue that we ship: well-known models of each provider, with their source and date.

It names models for bare names and `/v1/models` until a sync has asked the providers, and their limits where a
provider's own list has none. It is data, not a gate: a prefixed model is asked for whether it is listed or not.
"""

from datetime import UTC, datetime
from functools import cache
from importlib.resources import files

import msgspec

from securellm.providers.models import ModelCard


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
    data = files("securellm.providers").joinpath("catalogue.json").read_bytes()
    sections = msgspec.json.decode(data, type=dict[str, _Section])
    return tuple(
        ModelCard(
            provider=kind,
            model=entry.id,
            context=entry.context,
            max_output=entry.max_output,
            created_s=_midnight_s(entry.created),
            display_name=entry.display_name,
            free=kind == "demo",
        )
        for kind, section in sections.items()
        for entry in section.models
    )


def _midnight_s(day: str | None) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) if day else 0
