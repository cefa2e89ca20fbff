"""Token counts against those of others, tiktoken and bpe-openai: no difference, for no text.

The random tests take five times STRINGS strings an encoding; SECURELLM_TEST_SCALE=20 makes that a million.
"""

import hashlib
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rig.replay import CORPUS
from rig.scale import scaled
from rig.token_oracles import bpe_count, published, tiktoken_count
from securellm._fast import vocabulary

TWIN = "tokens"
STRINGS = scaled(10_000)
ROOT = Path(__file__).parent.parent.parent
SHA256 = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
ALPHABET = [*"aAbBzZ019 '\t\n\r/!?.-_sStTdDmMlLrReEvV", *"\u017fKéÉǅʰ中文²½٣한글क😀🏽"]
ALPHABET += ["\u0301", "\u0300", "\u0903", "\u00a0", "\u3000", "\u2028", "\u0085", "\x1c", "\x00", "\u200b", "\u200d"]
ALPHABET += ["\ufeff", "ा", "'s", "'LL", "'Ve", "  ", "\n\n", " \n", "\u1c89", "\u1ad1"]
SURROGATES = ["\ud800", "\udc00"]
RUNS = [*"a =\n的1é!A", "ab", "the", "xyz", "-_", "ab ab", " a", "คำ", "Ab", "'s"]

Count = Callable[[str], int]


@pytest.fixture(scope="module", params=vocabulary.ENCODINGS)
def encoding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tiktoken(encoding: str, tmp_path_factory: pytest.TempPathFactory) -> Count:
    return tiktoken_count(encoding, tmp_path_factory.mktemp("vocabularies"))


@pytest.fixture(scope="module")
def bpe(encoding: str) -> Count:
    return bpe_count(encoding)


@pytest.fixture(scope="module")
def counter(twin: ModuleType, encoding: str) -> Any:
    return twin.TokenCounter(encoding, vocabulary.read_vocabulary(encoding), vocabulary.read_classes())


@pytest.fixture(scope="module")
def share(twin: ModuleType) -> int:
    """Of how many strings one is counted: the definition is the slower."""
    return 1 if twin.__name__.endswith("_c") else 10


@pytest.mark.parametrize("name", vocabulary.ENCODINGS)
def test_the_shipped_vocabulary_is_the_published_one(name: str) -> None:
    """What is shipped expands to the published file, to the bit."""
    assert hashlib.sha256(published(name)).hexdigest() == SHA256[name]


@pytest.mark.corpus
def test_the_tables_are_what_the_script_writes() -> None:
    """Made anew from the published vocabularies and tiktoken's own classes of characters, the tables are the same."""
    command = [sys.executable, str(ROOT / "scripts" / "token_tables.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.slow
def test_every_character(counter: Any, tiktoken: Count, bpe: Count, share: int) -> None:
    """Each code point counts as theirs, beside letters, marks, signs, numbers, spaces and itself."""
    points = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    differing = []
    for start in range(0, len(points), 64 * share):
        characters = map(chr, points[start : start + 64])
        text = "\n".join(f"a{one}A{one}{one} {one}!{one}1{one}'s{one}" for one in characters)
        if not counter.count(text) == tiktoken(text) == bpe(text):
            differing.append(f"{points[start]:04X}")
    assert differing == []


@pytest.mark.slow
def test_strings_made_to_be_awkward(counter: Any, tiktoken: Count, bpe: Count, share: int) -> None:
    """Short strings of what the patterns tell apart, lone surrogates among them."""
    dice = random.Random(1)
    differing = []
    for _ in range(STRINGS * 2 // share):
        text = "".join(dice.choices(ALPHABET, k=dice.randint(1, 24)))
        if not counter.count(text) == tiktoken(text) == bpe(text):
            differing.append(text)
        broken = text[:12] + dice.choice(SURROGATES) + text[12:]
        if counter.count(broken) != tiktoken(broken):
            differing.append(broken)
    assert differing == []


@pytest.mark.slow
def test_strings_of_any_characters(counter: Any, tiktoken: Count, bpe: Count, share: int) -> None:
    """Strings from all over Unicode."""
    dice = random.Random(2)
    differing = []
    for _ in range(STRINGS // share):
        bounds = dice.choices((0x80, 0x800, 0xD800, 0x20000), k=dice.randint(1, 60))
        text = "".join(chr(point) for point in map(dice.randrange, bounds) if not 0xD800 <= point < 0xE000)
        if not counter.count(text) == tiktoken(text) == bpe(text):
            differing.append(text)
    assert differing == []


@pytest.mark.slow
def test_long_runs(counter: Any, tiktoken: Count, bpe: Count, share: int) -> None:
    """Pieces that are longer than a window, of one unit over and over with something behind it."""
    dice = random.Random(3)
    differing = []
    for _ in range(STRINGS // 50 // share):
        unit = dice.choice(RUNS) if dice.random() < 0.5 else "".join(dice.choices("abtheinX", k=dice.randint(1, 9)))
        text = unit * dice.randint(1, 2000) + "".join(dice.choices("abcdef", k=dice.randint(0, 600)))
        if not counter.count(text) == tiktoken(text) == bpe(text):
            differing.append(text)
    assert differing == []


@pytest.mark.slow
def test_a_million_spaces(counter: Any, bpe: Count) -> None:
    """What ends tiktoken in a panic is counted."""
    text = " " * 1_000_000
    assert counter.count(text + "y") == bpe(text + "y")


@pytest.mark.slow
@pytest.mark.corpus
def test_recordings(counter: Any, tiktoken: Count, bpe: Count, share: int) -> None:
    """What providers really sent, whole and cut anywhere."""
    texts = [path.read_bytes().decode(errors="replace") for path in sorted(CORPUS.rglob("*")) if path.is_file()]
    assert texts
    differing = []
    for text in texts[:: 4 * share]:
        for part in (text, *(text[start : start + 777] for start in range(0, len(text), 777 * 4))):
            if not counter.count(part) == tiktoken(part) == bpe(part):
                differing.append(part[:80])
    assert differing == []
