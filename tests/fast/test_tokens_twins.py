"""Both token counters: the same counts, for any text, in windows of any size, by any number of threads."""

import re
import threading
import time
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rig.scale import scaled
from securellm._fast import vocabulary

TWIN = "tokens"
EXAMPLES = scaled(100)

PIECES = [*"aAzZ019 '\t\n\r/!-_\u017féÉǅʰ中文²\u0301\u0903\u00a0\u3000\u2028\u0085\x1c\x00\u200d😀\ud800\udc00"]
PIECES += ["'s", "'LL", "'Ve", "'\u017f", "  ", "\n\n", " \n", "the ", "ing", "ा", "한"]
crafted = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
# One piece for the pattern, whose merging takes windows: words over and over, and what stands in no dictionary.
units = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12)
long_pieces = st.tuples(st.lists(st.tuples(units, st.integers(1, 400)), min_size=1, max_size=4), units).map(
    lambda parts: "".join(unit * times for unit, times in parts[0]) + parts[1]
)


def _open(twin: ModuleType, encoding: str, **windows: int) -> Any:
    return twin.TokenCounter(encoding, vocabulary.read_vocabulary(encoding), vocabulary.read_classes(), **windows)


@pytest.fixture(scope="module", params=vocabulary.ENCODINGS)
def encoding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def definition(pure: ModuleType, encoding: str) -> Any:
    return _open(pure, encoding)


@pytest.fixture(scope="module")
def fast(compiled: ModuleType, encoding: str) -> Any:
    return _open(compiled, encoding)


@pytest.fixture(scope="module", params=[(40, 12), (300, 130)], ids=lambda sizes: f"windows of {sizes[0]}")
def sizes(request: pytest.FixtureRequest) -> dict[str, int]:
    window_bytes, overlap_bytes = request.param
    return {"window_bytes": window_bytes, "overlap_bytes": overlap_bytes}


@pytest.fixture(scope="module")
def narrow(twin: ModuleType, encoding: str, sizes: dict[str, int]) -> Any:
    return _open(twin, encoding, **sizes)


@pytest.mark.compiled
@settings(max_examples=EXAMPLES, deadline=None)
@given(text=crafted | st.text(max_size=60))
def test_twins_count_alike(definition: Any, fast: Any, text: str) -> None:
    """Any text has the same number of tokens for both, alone and beside another."""
    assert fast.count(text) == definition.count(text)
    assert fast.count_all([text, "and", text]) == definition.count_all([text, "and", text]) == 2 * fast.count(text) + 1


@pytest.mark.compiled
@settings(max_examples=EXAMPLES, deadline=None)
@given(text=long_pieces)
def test_twins_count_long_pieces_alike(definition: Any, fast: Any, text: str) -> None:
    """So has one piece of several windows."""
    assert fast.count(text) == definition.count(text)


@settings(max_examples=EXAMPLES // 4, deadline=None)
@given(text=long_pieces.map(lambda text: text[:700]))
def test_windows_change_nothing(definition: Any, narrow: Any, text: str) -> None:
    """A piece that is merged in windows, however small, has the tokens that it has as one."""
    assert narrow.count(text) == definition.count(text)


@pytest.mark.parametrize(
    "text", ["a" * 500, " " * 200, "\n" * 300, "theing" * 60, "的" * 120], ids=lambda text: ascii(text[:2])
)
def test_windows_that_never_meet_change_nothing(definition: Any, twin: ModuleType, encoding: str, text: str) -> None:
    """Where windows are too small to hold a token the piece is counted prefix by prefix, to the same end."""
    assert _open(twin, encoding, window_bytes=3, overlap_bytes=2).count(text) == definition.count(text)


@settings(max_examples=EXAMPLES // 4, deadline=None)
@given(text=st.text("abtheing", min_size=1, max_size=120))
def test_prefixes_come_to_the_same(definition: Any, twin: ModuleType, encoding: str, text: str) -> None:
    """Counting prefix by prefix gives what merging gives."""
    assert _opened(twin, encoding).count_prefixes(text.encode()) == definition.count(text)


_OPEN: dict[tuple[str, str], Any] = {}


def _opened(twin: ModuleType, encoding: str) -> Any:
    key = (twin.__name__, encoding)
    if key not in _OPEN:
        _OPEN[key] = _open(twin, encoding)
    return _OPEN[key]


@pytest.mark.parametrize(
    ("text", "same_as"),
    [("\ud800", "\ufffd"), ("a\udc00b", "a\ufffdb"), ("\ud83d\ude00", "😀"), ("é\ud800\ud800", "é\ufffd\ufffd")],
    ids=ascii,
)
def test_lone_surrogates(twin: ModuleType, encoding: str, text: str, same_as: str) -> None:
    """Half a surrogate pair is a replacement character, and two halves are what they stand for."""
    counter = _opened(twin, encoding)
    assert counter.count(text) == counter.count(same_as)


def test_nothing_is_no_token(twin: ModuleType, encoding: str) -> None:
    """An empty text has none, nor have no texts."""
    counter = _opened(twin, encoding)
    assert (counter.count(""), counter.count_all([]), counter.count_all(["", ""])) == (0, 0, 0)


@pytest.mark.parametrize("sizes", [(0, 0), (4, 4), (2048, 384), (10, -1)], ids=str)
def test_impossible_windows_are_refused(twin: ModuleType, sizes: tuple[int, int]) -> None:
    """An overlap lies within its window, and a window within the room that there is."""
    with pytest.raises(ValueError, match="overlap"):
        _open(twin, "o200k_base", window_bytes=sizes[0], overlap_bytes=sizes[1])


def test_other_encodings_are_unknown(twin: ModuleType) -> None:
    """There is no pattern for another name."""
    with pytest.raises(KeyError):
        twin.TokenCounter("r50k_base", vocabulary.read_vocabulary("o200k_base"), vocabulary.read_classes())


@pytest.mark.compiled
@pytest.mark.parametrize("wrong", [b"", b"\xff\xff\xff\xff", b"\x02\x00\x00\x00\x01\x01a", b"\x01\x00\x00\x00\x00"])
def test_what_is_no_vocabulary_is_refused(compiled: ModuleType, wrong: bytes) -> None:
    """Cut or otherwise impossible tables are an error, not a read beyond their end."""
    with pytest.raises(ValueError, match="not a vocabulary"):
        compiled.TokenCounter("o200k_base", wrong, vocabulary.read_classes())
    with pytest.raises(ValueError, match="not a table of classes"):
        compiled.TokenCounter("o200k_base", vocabulary.read_vocabulary("o200k_base"), wrong)


@pytest.mark.compiled
@pytest.mark.parametrize("wrong", [None, b"bytes", 7])
def test_what_is_no_text_is_refused(compiled: ModuleType, wrong: object) -> None:
    """Anything but a text is a TypeError, in a list as well."""
    counter = _opened(compiled, "o200k_base")
    with pytest.raises(TypeError):
        counter.count(wrong)
    with pytest.raises(TypeError):
        counter.count_all(["a", wrong])


@pytest.mark.compiled
def test_threads_count_beside_each_other(compiled: ModuleType) -> None:
    """Threads that share a counter disturb neither each other's counts nor the thread that does other work."""
    counter = _opened(compiled, "o200k_base")
    texts = ["".join(f"word{number * factor} " for number in range(200_000)) for factor in (1, 7, 31)]
    expected = [counter.count(text) for text in texts]
    counted: list[tuple[int, int]] = []

    def count(place: int) -> None:
        for _ in range(3):
            counted.append((place, counter.count(texts[place])))

    threads = [threading.Thread(target=count, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    longest_s, last_s = 0.0, time.perf_counter()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.001)
        now_s = time.perf_counter()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
    assert sorted(counted) == sorted((place, expected[place]) for place in range(3) for _ in range(3))
    assert longest_s < 0.5, "the GIL was held while texts of megabytes were counted"


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize("letter", ["a", "Z", " ", "\n", "!", "1", "的", "\u0301"])
def test_time_is_linear(compiled: ModuleType, encoding: str, letter: str) -> None:
    """100 KB of one letter take 20 ms (200 pass); eight times as much takes some eight times as long."""
    counter = _opened(compiled, encoding)
    text = letter * (100_000 // len(letter.encode()))
    counter.count(text)
    once_s = min(_cpu_s(counter, text) for _ in range(3))
    assert once_s < 0.2
    assert _cpu_s(counter, text * 8) < 20 * max(once_s, 0.001)


def _cpu_s(counter: Any, text: str) -> float:
    started_s = time.thread_time()
    counter.count(text)
    return time.thread_time() - started_s


@pytest.mark.slow
@pytest.mark.compiled
def test_memory_does_not_grow_with_the_text(compiled: ModuleType) -> None:
    """20 MB as one piece are counted in the memory that a word needs."""
    counter = _opened(compiled, "o200k_base")
    text = "abcdefgh" * 2_500_000
    counter.count("warm")
    before_kib = _peak_kib(reset=True)
    counter.count(text)
    assert _peak_kib() - before_kib < 4096


def _peak_kib(*, reset: bool = False) -> int:
    """The most memory this process has had since the last reset."""
    if reset:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    with open("/proc/self/status") as file:
        (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", file.read())
    return int(peak)
