"""What becomes of the package's rules and prices. The stand-ins have the names and fields of genai-prices 0.2.3."""

import datetime
import sys
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest

from securellm.pricing.importing import VENDORS, PackageMissing, import_prices
from securellm.pricing.price import Listed, Period, Price, Section
from securellm.pricing.shipped import decode_price_file, decode_sections

DAY = datetime.date(2026, 11, 22)
# What the package looks like to us: classes with these names and these fields.
PACKAGE = """
import datetime
from decimal import Decimal as D


class Thing:
    def __init__(self, **fields):
        self.__dict__.update(fields)


class ClauseEquals(Thing): ...
class ClauseStartsWith(Thing): ...
class ClauseEndsWith(Thing): ...
class ClauseContains(Thing): ...
class ClauseRegex(Thing): ...
class ClauseOr(Thing): ...
class ClauseAnd(Thing): ...
class TieredPrices(Thing): ...
class StartDateConstraint(Thing): ...
class TimeOfDateConstraint(Thing): ...


def model(name, match=None, prices=None, comments=None):
    return Thing(id=name, match=match or ClauseEquals(equals=name), prices=prices, price_comments=comments)


def costs(**prices):
    return Thing(**prices)


def when(constraint, **prices):
    return Thing(constraint=constraint, prices=costs(**prices))


def since(*day):
    return StartDateConstraint(start_date=datetime.date(*day))


def daily(start, end):
    utc = datetime.UTC
    start, end = datetime.time(start, 30, tzinfo=utc), datetime.time(end, tzinfo=utc)
    return TimeOfDateConstraint(start_time=start, end_time=end)


def tiered(base, *tiers):
    return TieredPrices(base=D(base), tiers=[Thing(start=start, price=D(price)) for start, price in tiers])


def vendor(name, *models):
    return Thing(id=name, pricing_urls=["https://" + name + ".example/pricing"], models=list(models))


providers = [
    vendor("anthropic",
        model("claude-x", ClauseOr(or_=[
            ClauseStartsWith(starts_with="claude-x-"), ClauseEquals(equals="claude-x-latest"),
            ClauseRegex(regex=r"^claude-x\\.1-\\d{8}$"), ClauseRegex(regex=r"^claude-y[-@]\\d{8}$"),
            ClauseRegex(regex=r"^(?!.*tts)")]),
            costs(input_mtok=D("3"), output_mtok=D("15"), cache_read_mtok=D("0.3"), cache_write_mtok=D("3.75"),
                  cache_write_1h_mtok=D("6"), web_searches_kcount=D("10"), cache_image_read_mtok=None)),
    ),
    vendor("deepseek",
        model("deepseek-chat", prices=costs(input_mtok=D("99"))),
        model("deepseek-v4-flash", prices=[
            when(None, input_mtok=D("0.1")), when(since(2026, 1, 1), input_mtok=D("0.2")),
            when(since(2026, 11, 22), input_mtok=D("0.3")), when(daily(1, 4), input_mtok=D("0.6")),
            when(since(2027, 1, 1), input_mtok=D("0.4"))]),
    ),
    vendor("google",
        model("gemini-x", ClauseAnd(and_=[ClauseStartsWith(starts_with="gemini-x"), ClauseRegex(regex="^(?!tts)")]),
            costs(input_mtok=tiered("1.25", (200000, "2.5")), output_mtok=D("10"), input_audio_mtok=D("1"))),
        model("gemini-z", ClauseOr(or_=[ClauseEndsWith(ends_with="gemini-z"), ClauseContains(contains="gemini-z-0")]),
            costs(input_mtok=D("0.0000000005"))),
        model("gemma-free", prices=costs(), comments="Free of charge on the Gemini API with no paid tier"),
        model("gemma-unknown", prices=costs()),
        model("claude-resold", prices=costs(input_mtok=D("1"))),
    ),
    vendor("groq", model("whisper", prices=costs(audio_hours=D("0.1")))),
    vendor("mistral", model("m", ClauseOr(or_=[ClauseEquals(equals="m"), ClauseEquals(equals="same")]),
                            costs(input_mtok=D("1"))),
                      model("n", ClauseEquals(equals="same"), costs(input_mtok=D("2")))),
    vendor("openai", model("gpt-4o-audio-preview", prices=costs(input_mtok=D("2.5"), output_mtok=D("10"))),
                     model("ft:gpt", ClauseStartsWith(starts_with="ft:gpt-"), costs(input_mtok=D("3")))),
    vendor("openrouter", model("bare", prices=costs(input_mtok=D("1"))), model("a/b:free", prices=costs()),
                         model("a/b", prices=costs(input_mtok=D("1"), output_reasoning_mtok=D("2"),
                                                   input_image_mtok=D("3")))),
    vendor("x-ai", model("grok", prices=costs(input_mtok=D("3"), output_audio_mtok=D("4")))),
]
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in on the path of imports, with the metadata of an installed distribution."""
    (tmp_path / "genai_prices").mkdir()
    (tmp_path / "genai_prices" / "__init__.py").write_text("")
    (tmp_path / "genai_prices" / "data.py").write_text(PACKAGE)
    info = tmp_path / "genai_prices-7.8.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: genai-prices\nVersion: 7.8.9\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("genai_prices", "genai_prices.data"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.fixture
def sections(package: Path) -> dict[str, Section]:
    file = decode_price_file(import_prices(DAY)[0])
    return dict(decode_sections(file, set(file.sections)))


def test_the_file_says_what_made_it(package: Path) -> None:
    """The package's version and the day stand in the file and in each section; the same inputs make the same bytes."""
    data, _ = import_prices(DAY)
    file = decode_price_file(data)
    assert (file.made_by, file.date) == ("genai-prices 7.8.9", "2026-11-22")
    anthropic = decode_sections(file, {"anthropic"})["anthropic"]
    assert (anthropic.source, anthropic.date) == (
        "genai-prices 7.8.9; https://anthropic.example/pricing",
        "2026-11-22",
    )
    assert import_prices(DAY)[0] == data
    assert set(file.sections) == {name for name, _, _ in VENDORS} | {"ollama", "vllm", "llamacpp", "demo", "nvidia"}


def test_rates_are_taken_exactly(sections: dict[str, Section]) -> None:
    """USD per million tokens become nano-USD, half up; what is not billed by tokens is left aside."""
    claude = sections["anthropic"].models["claude-x"].price
    assert claude == Price(
        input=3_000_000_000,
        output=15_000_000_000,
        cache_read=300_000_000,
        cache_write_5m=3_750_000_000,
        cache_write_1h=6_000_000_000,
    )
    assert sections["gemini"].models["gemini-z"].price.input == 1
    routed = sections["openrouter"].models["a/b"].price
    assert (routed.input, routed.reasoning, routed.image) == (1_000_000_000, 2_000_000_000, 3_000_000_000)
    assert sections["xai"].models["grok"].price.audio_output == 4_000_000_000


def test_a_tier_has_every_rate(sections: dict[str, Section]) -> None:
    """In a tier, rates that do not change with the size are repeated: a tier stands for the whole request."""
    price = sections["gemini"].models["gemini-x"].price
    (tier,) = price.tiers
    assert (price.input, price.output, price.audio_input) == (1_250_000_000, 10_000_000_000, 1_000_000_000)
    assert (tier.above_tokens, tier.input, tier.output, tier.audio_input) == (
        200_000,
        2_500_000_000,
        10_000_000_000,
        1_000_000_000,
    )


def test_what_is_over_is_left_out_and_what_comes_is_kept(sections: dict[str, Section]) -> None:
    """Of prices by day the one in force is the price; later days and hours of the day are periods, in their order."""
    assert sections["deepseek"].models["deepseek-v4-flash"] == Listed(
        Price(input=300_000_000),
        (
            Period(Price(input=600_000_000), daily_s=(5400, 4 * 3600)),
            Period(Price(input=400_000_000), from_s=1_798_761_600),
        ),
        names=("deepseek-chat", "deepseek-reasoner"),
    )


def test_rules_become_names_and_stems(sections: dict[str, Section]) -> None:
    """Whole ids are names, beginnings are stems; an id belongs to the first model that has it."""
    claude = sections["anthropic"].models["claude-x"]
    assert claude.names == ("claude-x-latest",)
    assert claude.stems == ("claude-x", "claude-x.1", "claude-y")
    assert sections["gemini"].models["gemini-x"].stems == ("gemini-x",)
    assert sections["gemini"].models["gemini-z"].stems == ("gemini-z-0",)
    assert sections["openai"].models["ft:gpt"].stems == ("ft:gpt-",)
    mistral = sections["mistral"].models
    assert (mistral["m"].names, mistral["n"].names) == (("same",), ())


def test_only_what_is_said_to_be_free_is_free(package: Path, sections: dict[str, Section]) -> None:
    """A model without a price is left out and told, unless its id or the package's comment says that it is free."""
    _, unpriced = import_prices(DAY)
    assert unpriced == ["gemini/gemma-unknown", "groq/whisper"]
    assert sections["gemini"].models["gemma-free"].price.free
    assert sections["openrouter"].models["a/b:free"].price.free
    assert "gemma-unknown" not in sections["gemini"].models
    assert "claude-resold" not in sections["gemini"].models
    assert "bare" not in sections["openrouter"].models


def test_our_own_corrections_go_over_the_package(sections: dict[str, Section]) -> None:
    """What own.json says of a model counts: audio has its price, old names stand for what they stand for today."""
    audio = sections["openai"].models["gpt-4o-audio-preview"].price
    assert Decimal(audio.audio_input or 0) / 1_000_000_000 == 40
    assert audio.source.startswith("developers.openai.com/")
    assert "deepseek-chat" not in sections["deepseek"].models


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the extra is not installed that is said; nothing else is tried."""
    monkeypatch.setitem(sys.modules, "genai_prices", ModuleType("genai_prices"))
    monkeypatch.delitem(sys.modules, "genai_prices.data", raising=False)
    with pytest.raises(PackageMissing, match="the package genai-prices is not installed"):
        import_prices(DAY)
