"""Our file of prices, made from the package `genai-prices` and from `own.json`: what `securellm prices import` does.

The package (MIT, an optional extra) knows for each vendor the models, the rules by which ids are recognised, and prices
that may depend on the day, the hour or the size of the prompt. Of these the rates per token are taken. What is billed
otherwise (by the hour, the page, the search) is left out, and a model that has nothing else stays without a price; so
does one for which the package has no price at all, unless it is said to be free. `own.json` adds the providers that the
package does not have, and corrects what it lacks. The same inputs make the same bytes.
"""

import datetime
import pkgutil
import re
from collections.abc import Iterable, Iterator
from decimal import ROUND_HALF_UP, Decimal
from importlib import import_module, metadata
from typing import Any

import msgspec

from securellm.pricing.price import NUSD_PER_USD, Listed, Period, Price, Section
from securellm.pricing.table import FORMAT

PACKAGE = "genai-prices"

# Our provider, the package's id of it, and how the ids of its models begin (others are resold there, not served).
VENDORS = (
    ("anthropic", "anthropic", ""),
    ("deepseek", "deepseek", ""),
    ("gemini", "google", r"gemini-|gemma-|text-embedding-"),
    ("groq", "groq", ""),
    ("mistral", "mistral", ""),
    ("openai", "openai", ""),
    ("openrouter", "openrouter", r"[^/]+/"),
    ("xai", "x-ai", ""),
)
PREFIXES = {"gemini": "models/"}  # as Gemini's own list of models writes them

_RATES = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write_5m",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_reasoning_mtok": "reasoning",
    "input_audio_mtok": "audio_input",
    "output_audio_mtok": "audio_output",
    "input_image_mtok": "image",
}
_LITERAL = re.compile(r"\^((?:[\w/:-]|\\[.-])+?)-?(?:\[-@\])?-?(?:\\d.*)", re.ASCII)  # an id, then digits


class PackageMissing(Exception):
    """The package is not installed."""


class _Own(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sections: dict[str, Section]  # whole sections
    aliases: dict[str, dict[str, tuple[str, ...]]]  # what ids stand for today, where the package has their past
    models: dict[str, dict[str, Listed]]  # in the place of the package's own


def import_prices(day: datetime.date) -> tuple[bytes, list[str]]:
    """The file of the prices that hold on `day`, and the models that stay without one. Raises PackageMissing."""
    try:
        vendors = {vendor.id: vendor for vendor in import_module("genai_prices.data").providers}
        version = metadata.version(PACKAGE)
    except ImportError as exc:
        raise PackageMissing(f"the package {PACKAGE} is not installed") from exc
    made_by = f"{PACKAGE} {version}"
    own = msgspec.json.decode(pkgutil.get_data("securellm.pricing", "own.json") or b"", type=_Own)
    sections, unpriced = dict(own.sections), []
    for name, vendor_id, pattern in VENDORS:
        vendor = vendors[vendor_id]
        models: dict[str, Listed] = {}
        for model in vendor.models:
            if pattern and not re.match(pattern, model.id):
                continue
            listed = _listed(model, day)
            if listed is None:
                unpriced.append(f"{name}/{model.id}")
            else:
                models[model.id] = listed
        for model, others in own.aliases.get(name, {}).items():
            models = {other: listed for other, listed in models.items() if other not in others}
            models[model] = msgspec.structs.replace(models[model], names=(*models[model].names, *others))
        models |= own.models.get(name, {})
        source = f"{made_by}; {vendor.pricing_urls[0]}"
        sections[name] = Section(source, day.isoformat(), _distinct(models), prefix=PREFIXES.get(name, ""))
    return encode_price_file(made_by, day.isoformat(), sections), sorted(unpriced)


def encode_price_file(made_by: str, date: str, sections: dict[str, Section]) -> bytes:
    """The file, one model a line, in order of name."""
    parts = [f'{{"format":{FORMAT},"made_by":{_json(made_by)},"date":{_json(date)},"sections":{{']
    for place, (name, section) in enumerate(sorted(sections.items())):
        head = msgspec.structs.replace(section, models={})
        text = _json(head)[:-1] + ',"models":{'
        lines = [f"\n{_json(model)}:{_json(listed)}" for model, listed in sorted(section.models.items())]
        parts.append(f"{',' if place else ''}\n{_json(name)}:{text}{','.join(lines)}}}}}")
    return ("".join(parts) + "\n}}\n").encode()


def _listed(model: Any, day: datetime.date) -> Listed | None:
    """The package's model in our words, None when it has no price per token."""
    free = model.id.endswith(":free") or "free of charge" in (model.price_comments or "").lower()
    conditional = model.prices if isinstance(model.prices, list) else None
    prices = [_price(part.prices, free) for part in conditional] if conditional else [_price(model.prices, free)]
    starts = [part.constraint for part in conditional] if conditional else [None]
    # The last that holds counts, so whatever stands before the last that has begun for good never counts again.
    begun = [place for place, start in enumerate(starts) if start is None or _has_begun(start, day)]
    first = begun[-1] if begun else 0
    now = prices[first]
    if now is None:
        return None
    periods = tuple(
        Period(price, **_times(start))
        for price, start in zip(prices[first + 1 :], starts[first + 1 :], strict=True)
        if price is not None
    )
    names, stems = set[str](), set[str]()
    for kind, text in _ids(model.match):
        (names if kind == "name" else stems).add(text)
    return Listed(now, periods, tuple(sorted(names - {model.id})), tuple(sorted(stems)))


def _price(prices: Any, free: bool) -> Price | None:
    given = {key: value for key, value in vars(prices).items() if value is not None}
    if not given:
        return Price(free=True) if free else None
    if "input_mtok" not in given:
        return None
    tiered = {ours: given[theirs] for theirs, ours in _RATES.items() if theirs in given}
    starts = sorted({tier.start for value in tiered.values() for tier in getattr(value, "tiers", ())})
    tiers = [
        {"above_tokens": start, **{ours: _rate(value, start + 1) for ours, value in tiered.items()}} for start in starts
    ]
    return msgspec.convert({ours: _rate(value, 0) for ours, value in tiered.items()} | {"tiers": tiers}, Price)


def _rate(value: Any, prompt_tokens: int) -> int:
    """Nano-USD per million tokens, for a prompt of that size."""
    usd: Decimal = value if isinstance(value, Decimal) else value.base
    if not isinstance(value, Decimal):
        for tier in value.tiers:
            if prompt_tokens > tier.start:
                usd = tier.price
    return int((usd * NUSD_PER_USD).to_integral_value(ROUND_HALF_UP))


def _has_begun(constraint: Any, day: datetime.date) -> bool:
    start = getattr(constraint, "start_date", None)
    return start is not None and start <= day


def _times(constraint: Any) -> dict[str, Any]:
    start = getattr(constraint, "start_date", None)
    if start is not None:
        return {"from_s": int(datetime.datetime.combine(start, datetime.time(), datetime.UTC).timestamp())}
    return {"daily_s": (_second_of_day(constraint.start_time), _second_of_day(constraint.end_time))}


def _second_of_day(time: datetime.time) -> int:
    moment = datetime.datetime.combine(datetime.date(2000, 1, 2), time)
    utc = moment.replace(tzinfo=moment.tzinfo or datetime.UTC).astimezone(datetime.UTC)
    return utc.hour * 3600 + utc.minute * 60 + utc.second


def _ids(match: Any) -> Iterator[tuple[str, str]]:
    """The ids that a rule of the package recognises: ("name", a whole id) or ("stem", the beginning of one)."""
    match type(match).__name__:
        case "ClauseEquals":
            yield "name", match.equals
        case "ClauseEndsWith":
            yield "name", match.ends_with
        case "ClauseStartsWith":
            yield "stem", _stem(match.starts_with)
        case "ClauseContains":
            yield "stem", _stem(match.contains)
        case "ClauseRegex":
            literal = _LITERAL.fullmatch(match.regex.rstrip("$"))
            if literal:
                yield "stem", _stem(literal[1].replace("\\", ""))
        case "ClauseOr":
            for part in match.or_:
                yield from _ids(part)
        case "ClauseAnd":
            for part in match.and_:
                yield from _ids(part)


def _stem(text: str) -> str:
    return text if text.startswith("ft:") else text.rstrip("-@")


def _distinct(models: dict[str, Listed]) -> dict[str, Listed]:
    """Every further name and stem once, for the first model that has it, as the package looks them up."""
    taken = set(models)

    def once(texts: Iterable[str]) -> tuple[str, ...]:
        new = tuple(text for text in texts if text not in taken)
        taken.update(new)
        return new

    named = {model: msgspec.structs.replace(listed, names=once(listed.names)) for model, listed in models.items()}
    taken = set()
    return {model: msgspec.structs.replace(listed, stems=once(listed.stems)) for model, listed in named.items()}


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
