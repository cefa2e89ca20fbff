"""The table: who prices a model, in which order; its name; prices that change by day and hour; what has no price."""

from hashlib import sha256

import msgspec
import pytest

from securellm.chat import Usage
from securellm.config.tree import Config, Model, Provider
from securellm.errors import UnpricedModel
from securellm.pricing.kept import load_table
from securellm.pricing.price import Listed, Period, Price, Section
from securellm.pricing.shipped import decode_sections, read_price_file
from securellm.pricing.table import BUCKETS, decode_table, make_table, price_of, record_usage

DAY_S = 86_400
NEW_YEAR_S = 1_798_761_600  # 2027-01-01
SECTIONS = {
    "openai": Section(
        "a page",
        "2026-11-22",
        {
            "gpt-5": Listed(Price(input=5), names=("gpt-5-2025-08-07",)),
            "gpt-5-nano": Listed(Price(input=1), stems=("gpt-5-nano",)),
            "ft:gpt-4o": Listed(Price(input=9), stems=("ft:gpt-4o-2024-",)),
            "claude-sonnet-4-0": Listed(Price(input=3), stems=("claude-sonnet-4", "claude-sonnet-4-2025")),
        },
    ),
    "gemini": Section("a page", "2026-11-22", {"gemini-2.5-pro": Listed(Price(input=7))}, prefix="models/"),
    "deepseek": Section(
        "a page",
        "2026-11-22",
        {
            "by-hour": Listed(Price(input=1), (Period(Price(input=2), daily_s=(3600, 7200)),)),
            "by-night": Listed(Price(input=1), (Period(Price(input=2), daily_s=(DAY_S - 60, 60)),)),
            "by-day": Listed(Price(input=1), (Period(Price(input=3), from_s=NEW_YEAR_S),)),
        },
    ),
    "ollama": Section("one's own", "2026-11-22", every=Price(free=True)),
}
KINDS = {"openai": "openai", "gemini": "openai-compatible", "deepseek": "deepseek", "ollama": "ollama"}


def _input(provider: str, model: str, **models: Model) -> int | None:
    """The input rate that a table finds, with settings for models, None when there is no price."""
    config = Config(models=models)
    price = make_table(config, SECTIONS, {**KINDS, "box": "openai-compatible"}).find(provider, model)
    return None if price is None else price.input


@pytest.mark.parametrize(
    ("provider", "model", "rate"),
    [
        ("openai", "gpt-5", 5),
        ("openai", "gpt-5-2025-08-07", 5),
        ("openai", "gpt-5-2026-01-01", None),  # the vendor's other day is not listed, and no stem is
        ("openai", "gpt-5-mega", None),
        ("openai", "gpt-50", None),
        ("openai", "gpt-5-nano-2025-08-07", 1),
        ("openai", "gpt-5-nano-latest", 1),
        ("openai", "gpt-5-nano@20250807", 1),
        ("openai", "gpt-5-nano-8b", None),
        ("openai", "gpt-5-nano-2", None),
        ("openai", "ft:gpt-4o-2024-08-06:acme::abc", 9),
        ("openai", "claude-sonnet-4-20250514", 3),
        ("openai", "claude-sonnet-4-6", None),
        ("openai", "", None),
        ("gemini", "models/gemini-2.5-pro", 7),
        ("gemini", "gemini-2.5-pro", 7),
        ("ollama", "whatever:7b", 0),
        ("box", "gpt-5", None),
        ("nobody", "gpt-5", None),
    ],
)
def test_ids_are_recognised_and_strangers_are_not(provider: str, model: str, rate: int | None) -> None:
    """Whole ids, their other names, ids with a day or version behind them; another size or generation has no price."""
    assert _input(provider, model) == rate


def test_the_configuration_goes_first() -> None:
    """The entry of a model, then that of all of a provider's, then the section; one without a price changes nothing."""
    exact = Model(input_usd_per_mtok=2.5)
    wide = Model(input_usd_per_mtok=0.000001)
    silent = Model(context=1000)
    assert _input("openai", "gpt-5", **{"openai/gpt-50": exact}) == 5
    assert _input("openai", "gpt-5", **{"openai/gpt-5": exact, "openai/*": wide}) == 2_500_000_000
    assert _input("openai", "gpt-5", **{"openai/*": wide}) == 1000
    assert _input("openai", "gpt-5", **{"openai/gpt-5": silent, "openai/*": wide}) == 1000
    assert _input("openai", "gpt-5", **{"openai/gpt-5": silent}) == 5
    assert _input("box", "any", **{"box/*": Model(free=True)}) == 0


def test_every_setting_becomes_its_rate() -> None:
    """Each price of the configuration is nano-USD per million tokens, to the last of nine decimals."""
    given = {f"{bucket}_usd_per_mtok": place + 0.123456789 for place, bucket in enumerate(BUCKETS, 1)}
    price = make_table(Config(models={"box/m": Model(**given)}), {}, {"box": "openai-compatible"}).find("box", "m")
    assert price is not None
    assert [getattr(price, bucket) for bucket in BUCKETS] == [
        place * 1_000_000_000 + 123_456_789 for place in range(1, 10)
    ]
    assert price.source == "configuration"


def test_prices_that_change_by_hour_and_day() -> None:
    """The moment chooses; a window may pass midnight; without a moment the dearest is given."""
    table = make_table(Config(), SECTIONS, KINDS)

    def at(model: str, at_s: int | None) -> int:
        price = table.find("deepseek", model, None if at_s is None else at_s * 1_000_000)
        assert price is not None
        return price.input

    assert [at("by-hour", 10 * DAY_S + second) for second in (0, 3599, 3600, 7199, 7200)] == [1, 1, 2, 2, 1]
    assert [at("by-night", 10 * DAY_S + second) for second in (0, 59, 60, DAY_S - 61, DAY_S - 60)] == [2, 2, 1, 1, 2]
    assert [at("by-day", NEW_YEAR_S + second) for second in (-1, 0)] == [1, 3]
    assert [at(model, None) for model in ("by-hour", "by-night", "by-day")] == [2, 2, 3]
    assert table.cost_nusd("deepseek", "by-day", Usage(input_tokens=1_000_000), NEW_YEAR_S * 1_000_000) == 3
    assert table.cost_nusd("deepseek", "nothing", Usage(input_tokens=1), 0) is None


def test_a_table_has_a_name_that_says_all_of_it() -> None:
    """The name is the SHA-256 of the canonical form; the form gives the table back; any difference changes the name."""
    config = Config(models={"openai/x": Model(input_usd_per_mtok=1.0)})
    table = make_table(config, SECTIONS, KINDS)
    assert table.sha256 == sha256(table.encoded).hexdigest()
    back = decode_table(table.encoded)
    assert (back.sha256, back.encoded) == (table.sha256, table.encoded)
    assert back.find("openai", "gpt-5-nano-latest") == table.find("openai", "gpt-5-nano-latest")
    assert list(back.entries("openai")) == list(table.entries("openai"))
    reordered = dict(reversed(list(SECTIONS.items())))
    assert make_table(config, reordered, dict(reversed(list(KINDS.items())))).sha256 == table.sha256
    assert make_table(Config(), SECTIONS, KINDS).sha256 != table.sha256
    dearer = {**SECTIONS, "ollama": Section("one's own", "2026-11-22", every=Price(input=1))}
    assert make_table(config, dearer, KINDS).sha256 != table.sha256


@pytest.mark.parametrize(
    "encoded", [b"", b"[]", b'{"format":1}', b'{"format":2,"sections":{},"owners":{},"overrides":{}}']
)
def test_what_is_no_table(encoded: bytes) -> None:
    """Anything but the canonical form of our version raises a ValueError."""
    with pytest.raises(ValueError, match=r".+"):
        decode_table(encoded)


@pytest.mark.parametrize(
    ("model", "line"),
    [("gpt-9", '[models."box/gpt-9"]'), ('a"b\\c', r'[models."box/a\"b\\c"]')],
)
def test_an_unpriced_model_names_the_lines_to_add(model: str, line: str) -> None:
    """403 unpriced_model, with the TOML that the operator adds; a priced one is given."""
    table = make_table(Config(), SECTIONS, KINDS)
    with pytest.raises(UnpricedModel) as caught:
        price_of(table, "box", model)
    assert (caught.value.status, caught.value.code, caught.value.type) == (403, "unpriced_model", "permission_error")
    assert f"{line} with free = true, or with input_usd_per_mtok = <price>" in caught.value.message
    assert price_of(table, "openai", "gpt-5").input == 5


def test_entries_are_in_order_of_name() -> None:
    """Every priced model of a provider once, the configuration's over the shipped ones, and `*` at the end."""
    config = Config(models={"openai/gpt-5": Model(input_usd_per_mtok=1), "openai/*": Model(free=True)})
    table = make_table(config, SECTIONS, KINDS)
    entries = dict(table.entries("openai"))
    assert list(entries) == ["claude-sonnet-4-0", "ft:gpt-4o", "gpt-5", "gpt-5-nano", "*"]
    assert entries["gpt-5"].input == 1_000_000_000
    assert entries["*"].free
    assert [(model, price.free, price.source) for model, price in table.entries("ollama")] == [("*", True, "one's own")]
    assert list(table.entries("nobody")) == []
    assert table.providers == ("deepseek", "gemini", "ollama", "openai")
    assert "overrides" in repr(table)


def test_the_audit_shows_no_zeros() -> None:
    """Buckets on a record: what was used, under the names of `Usage`."""
    assert record_usage(Usage(input_tokens=3, image_tokens=1)) == {"input_tokens": 3, "image_tokens": 1}
    assert record_usage(Usage()) == {}


# -- the shipped file --------------------------------------------------------------------------------------------------


def test_the_shipped_file_says_where_it_is_from() -> None:
    """Each section has a source and a day, and each model a price; the file is small and in its own form."""
    file = read_price_file()
    assert file.made_by.startswith("genai-prices ")
    sections = decode_sections(file, set(file.sections))
    assert set(sections) >= {
        "openai",
        "anthropic",
        "deepseek",
        "gemini",
        "groq",
        "mistral",
        "xai",
        "nvidia",
        "openrouter",
    }
    for name, section in sections.items():
        assert section.source, name
        assert len(section.date) == 10, name
        for listed in section.models.values():
            for price in (listed.price, *(period.price for period in listed.periods)):
                assert price.free != (price.input > 0), (name, listed)
    free = {name for name, section in sections.items() if section.every is not None and section.every.free}
    assert free == {"ollama", "vllm", "llamacpp", "demo", "nvidia"}


def test_no_id_has_two_prices() -> None:
    """Every id and every other name stands in its section once."""
    file = read_price_file()
    for name, section in decode_sections(file, set(file.sections)).items():
        names = [*section.models, *(other for listed in section.models.values() for other in listed.names)]
        assert len(names) == len(set(names)), name


def test_only_enabled_providers_are_in_force() -> None:
    """A table holds the sections of the enabled providers; one's own has that of its name, else of its kind."""
    providers = {
        "openai": Provider(enabled=True, kind="openai"),
        "groq": Provider(enabled=False),
        "work": Provider(enabled=True, kind="anthropic"),
        "xai": Provider(enabled=True),
        "box": Provider(enabled=True),
    }
    table = load_table(Config(providers=providers))
    assert table.providers == ("openai", "work", "xai")
    assert table.find("work", "claude-sonnet-4-5") is not None
    assert table.find("groq", "llama-3.1-8b-instant") is None
    assert table.find("box", "gpt-5") is None


def test_lists_do_not_change_when_they_are_read() -> None:
    """The file is what its own encoder writes: one model a line, in order, so that a renewal shows as a diff."""
    from securellm.pricing.importing import encode_price_file

    file = read_price_file()
    sections = dict(decode_sections(file, set(file.sections)))
    again = encode_price_file(file.made_by, file.date, sections)
    assert msgspec.json.decode(again) == {
        "format": file.format,
        "made_by": file.made_by,
        "date": file.date,
        "sections": {name: msgspec.json.decode(raw) for name, raw in file.sections.items()},
    }
    assert again.count(b"\n") == sum(len(section.models) for section in sections.values()) + len(sections) + 2
