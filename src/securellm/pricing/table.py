"""The table of prices in force: shipped sections, and over them what the configuration says. Pure.

A table is a value: its canonical form is JSON with sorted keys, its name the SHA-256 of that. Every audit record
carries the name, and the form is kept (`kept.py`), so any cost can be computed again. A table holds only the sections
of the providers that are configured.

Looking up `<provider>/<model>`: the configuration's entry for the model; its entry for `<provider>/*`; the provider's
section, by exact id; by an id that a date or version follows; the section's price for everything. Providers of one's
own have the section of their name, else that of their kind (`openai`, `anthropic`, `deepseek`, `ollama`).
"""

import re
from collections.abc import Iterator, Mapping

import msgspec

from securellm.chat import Usage
from securellm.config.tree import Config
from securellm.config.tree import Model as ModelSettings
from securellm.errors import UnpricedModel
from securellm.pricing.cost import cost_nusd
from securellm.pricing.price import NUSD_PER_USD, Listed, Price, Section

FORMAT = 1
SETTING_SUFFIX = "_usd_per_mtok"
BUCKETS = (
    "input",
    "output",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "reasoning",
    "audio_input",
    "audio_output",
    "image",
)

MAX_KNOWN = 1024  # models whose price is looked up without a search
MAX_KNOWN_CHARS = 256  # of the name of one

_ANY = "*"
_NEVER = Listed(Price())  # stands for a model that nobody has looked for
# What may follow an id: a day (20250929, 2025-09-29, 09-2025), a version of three digits or more (001, 0709), or one of
# a few words, each after - or @. A size or another generation (-5, -8b, -mini) is another model.
_SUFFIX = re.compile(
    r"(?:[-@](?:\d{4}-\d{2}-\d{2}|\d{2}-\d{2}(?:-\d{4})?|\d{2}-\d{4}|\d{3,8}|latest|preview|exp|experimental))+"
)
_DAY_AFTER_YEAR = re.compile(r"-?\d{2}-?\d{2}")  # where a stem ends in the year


class Document(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The canonical form of a table."""

    format: int
    sections: dict[str, Section]
    owners: dict[str, str]  # provider -> the section that prices its models
    overrides: dict[str, Price]  # "<provider>/<model>" or "<provider>/*"


class PriceTable:
    """The prices in force for one configuration. Never changes."""

    def __init__(self, document: Document) -> None:
        from hashlib import sha256  # not at the top: OpenSSL takes milliseconds to load

        self._document = document
        self.encoded = msgspec.json.encode(document, order="sorted")  # the canonical form
        self.sha256 = sha256(self.encoded).hexdigest()
        self._indexes: dict[str, _Index] = {}
        self._known: dict[tuple[str, str], Price | Listed | None] = {}  # what was found before

    def __repr__(self) -> str:
        models = sum(len(section.models) for section in self._document.sections.values())
        return f"<PriceTable {self.sha256[:16]} {models} models {len(self._document.overrides)} overrides>"

    def find(self, provider: str, model: str, at_us: int | None = None) -> Price | None:
        """The price of a provider's model, None when there is none.

        `at_us`, Unix microseconds, chooses between prices that change by day or hour; without it the dearest is given.
        """
        found = self._known.get((provider, model), _NEVER)
        if found is _NEVER:
            found = self._find(provider, model)
            if len(self._known) >= MAX_KNOWN:  # callers choose the names
                self._known.clear()
            if len(model) <= MAX_KNOWN_CHARS:
                self._known[provider, model] = found
        if isinstance(found, Listed):
            return found.dearest() if at_us is None else found.price_at(at_us // 1_000_000)
        return found

    def _find(self, provider: str, model: str) -> Price | Listed | None:
        """What there is of a model, for every moment."""
        overrides = self._document.overrides
        price = overrides.get(f"{provider}/{model}") or overrides.get(f"{provider}/{_ANY}")
        if price is not None:
            return price
        owner = self._document.owners.get(provider)
        if owner is None:
            return None
        index = self._indexes.get(owner)
        if index is None:
            index = self._indexes[owner] = _Index(self._document.sections[owner])
        listed = index.find(model)
        return index.every if listed is None else listed

    def cost_nusd(self, provider: str, model: str, usage: Usage, at_us: int) -> int | None:
        """What an attempt that ended at a moment costs, in nano-USD; None when the model has no price."""
        found = self._known.get((provider, model))
        price = found if isinstance(found, Price) else self.find(provider, model, at_us)
        return None if price is None else cost_nusd(usage, price)

    def entries(self, provider: str) -> Iterator[tuple[str, Price]]:
        """Every model of a provider that has a price of its own, then `*`; the dearest price where it changes."""
        prefix = f"{provider}/"
        own = {
            key.removeprefix(prefix): price for key, price in self._document.overrides.items() if key.startswith(prefix)
        }
        section = self._document.sections.get(self._document.owners.get(provider, ""))
        models = set(own) | (set(section.models) if section is not None else set())
        if section is not None and section.every is not None:
            models.add(_ANY)
        for model in sorted(models - {_ANY}):
            price = self.find(provider, model)
            if price is not None:
                yield model, price
        if _ANY in models:
            every = own.get(_ANY) or (section.every and _with_origin(section.every, section) if section else None)
            if every is not None:
                yield _ANY, every

    @property
    def providers(self) -> tuple[str, ...]:
        """The providers that have prices, in order of name."""
        return tuple(sorted({*self._document.owners, *(key.partition("/")[0] for key in self._document.overrides)}))


def decode_table(encoded: bytes) -> PriceTable:
    """The table of a canonical form. Raises msgspec.DecodeError (a ValueError) when it is none."""
    document = msgspec.json.decode(encoded, type=Document)
    if document.format != FORMAT:
        raise msgspec.ValidationError(f"got format {document.format}, expected {FORMAT}")
    return PriceTable(document)


def make_table(config: Config, sections: Mapping[str, Section], providers: Mapping[str, str]) -> PriceTable:
    """The table for a configuration; `providers` are the names of those that may be asked, with their kinds."""
    owners = {
        name: section
        for name, kind in providers.items()
        if (section := name if name in sections else kind if kind in sections else None) is not None
    }
    return PriceTable(
        Document(
            format=FORMAT,
            sections={name: sections[name] for name in owners.values()},
            owners=owners,
            overrides={
                name: price for name, model in config.models.items() if (price := override_price(model)) is not None
            },
        )
    )


def override_price(settings: ModelSettings) -> Price | None:
    """The price that the configuration gives a model, None when it says nothing of one."""
    given = {bucket: getattr(settings, bucket + SETTING_SUFFIX) for bucket in BUCKETS}
    rates = {bucket: round(usd * NUSD_PER_USD) for bucket, usd in given.items() if usd is not None}
    if not rates and not settings.free:
        return None
    return Price(**rates, free=settings.free, source="configuration")


def price_of(table: PriceTable, provider: str, model: str, at_us: int | None = None) -> Price:
    """The price of a provider's model. Raises UnpricedModel, whose message names the lines to add."""
    price = table.find(provider, model, at_us)
    if price is None:
        message = f"model {provider}/{model} has no price; the operator adds to the configuration: "
        raise UnpricedModel(message + lines_to_add(provider, model), param="model")
    return price


def lines_to_add(provider: str, model: str) -> str:
    """The TOML that gives a model a price."""
    name = f"{provider}/{model}".replace("\\", "\\\\").replace('"', '\\"')
    rates = f"input{SETTING_SUFFIX} = <price> and output{SETTING_SUFFIX} = <price>"
    return f'[models."{name}"] with free = true, or with {rates}'


def record_usage(usage: Usage) -> dict[str, int]:
    """The buckets as they stand on an audit record: zeros left out."""
    return {name: tokens for name, tokens in msgspec.structs.asdict(usage).items() if tokens}


class _Index:
    """One section by every id that its models are known by."""

    def __init__(self, section: Section) -> None:
        self.every = _with_origin(section.every, section) if section.every is not None else None
        self._prefix = section.prefix
        self._exact: dict[str, Listed] = {}
        stems: list[tuple[str, Listed]] = []
        for model, bare in section.models.items():
            listed = msgspec.structs.replace(
                bare,
                price=_with_origin(bare.price, section),
                periods=tuple(
                    msgspec.structs.replace(period, price=_with_origin(period.price, section))
                    for period in bare.periods
                ),
            )
            self._exact[model] = listed
            for name in listed.names:
                self._exact.setdefault(name, listed)
            stems.extend((stem, listed) for stem in listed.stems)
        self._stems = sorted(stems, key=lambda pair: -len(pair[0]))  # the longest first: it says most

    def find(self, model: str) -> Listed | None:
        name = model.removeprefix(self._prefix)
        listed = self._exact.get(name)
        if listed is not None:
            return listed
        for stem, listed in self._stems:
            if name.startswith(stem) and _may_follow(stem, name[len(stem) :]):
                return listed
        return None


def _may_follow(stem: str, rest: str) -> bool:
    if not rest or _SUFFIX.fullmatch(rest):
        return True
    if stem.startswith("ft:"):
        return True  # a fine-tuned model has its owner's words behind it
    return stem[-4:].isdigit() and bool(_DAY_AFTER_YEAR.fullmatch(rest))


def _with_origin(price: Price, section: Section) -> Price:
    return msgspec.structs.replace(price, source=price.source or section.source, date=price.date or section.date)
