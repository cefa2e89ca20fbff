"""What counting tokens costs: both twins and tiktoken over the same texts, and what the tables cost to load.

`first` is a counter that has seen nothing, `again` one that has seen the text: its cache of pieces is warm. Every
count is compared with tiktoken's. Figures of one row are of one text in one process, the best of some rounds.
"""

import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from securellm._fast import tokens_py, vocabulary

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))
from rig.token_oracles import tiktoken_count  # noqa: E402  # the tests know how it is given a vocabulary

SIZE_BYTES = 100_000
ROUNDS = 7
CHINESE = (
    "我们今天去学校学习新的知识、老师说这个问题很重要。如果你有时间、可以看看这本书、"
    "它讲述了一个城市的历史和人们的生活。"
)

LOAD = """
import resource, sys, time
from securellm._fast import {twin} as twin, vocabulary
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024
before, started = resident(), time.perf_counter()
counter = twin.TokenCounter("{encoding}", vocabulary.read_vocabulary("{encoding}"), vocabulary.read_classes())
counter.count("Hello")
print((time.perf_counter() - started) * 1000, resident() - before)
"""


def _texts(size_bytes: int) -> dict[str, str]:
    """Name -> a text of about that size."""
    english = "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
    english = re.sub(r"[|`*#]", "", english)
    code = "".join(path.read_text() for path in sorted((ROOT / "src" / "securellm" / "wire").glob("*.py")))
    dice = random.Random(1)
    clauses = re.findall(r"[^、。]+[、。]", CHINESE)
    chinese = "".join(
        "".join(dice.sample(clause, len(clause))) if dice.random() < 0.3 else clause
        for clause in dice.choices(clauses, k=size_bytes // 20)
    )
    texts = {
        "English": english,
        "code": code,
        "Chinese": chinese,
        "random letters": "".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=size_bytes)),
        "one letter": "a" * size_bytes,
        "spaces": " " * size_bytes,
    }
    return {name: text.encode()[:size_bytes].decode(errors="ignore") for name, text in texts.items()}


def _open(twin: ModuleType, encoding: str) -> Any:
    return twin.TokenCounter(encoding, vocabulary.read_vocabulary(encoding), vocabulary.read_classes())


def _best_s(count: Callable[[str], int], text: str, rounds: int, expected: int) -> float:
    best_s = float("inf")
    for _ in range(rounds):
        started_s = time.process_time()
        counted = count(text)
        best_s = min(best_s, time.process_time() - started_s)
        if counted != expected:
            raise AssertionError(f"{count}: {counted} tokens, tiktoken has {expected}")
    return best_s


def _load(twin: str, encoding: str) -> tuple[float, int]:
    """Milliseconds and KiB that a fresh process spends on the tables."""
    program = LOAD.format(twin=twin, encoding=encoding)
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    took_ms, kib = result.stdout.split()
    return float(took_ms), int(kib)


def _row(case: str, unit: str, **figures: object) -> dict[str, Any]:
    columns = ("pure", "compiled_first", "compiled_again", "tiktoken", "pure_ratio", "tiktoken_ratio")
    return {"case": case, "unit": unit, **{column: figures.get(column, "-") for column in columns}}


def _measure(encoding: str, directory: Path, size_bytes: int, rounds: int) -> list[dict[str, Any]]:
    from securellm._fast import tokens_c

    tiktoken = tiktoken_count(encoding, directory)
    pure = _open(tokens_py, encoding)
    rows = []
    for name, text in _texts(size_bytes).items():
        expected, size_mb = tiktoken(text), len(text.encode()) / 1e6
        compiled = _open(tokens_c, encoding)
        first_s = _best_s(compiled.count, text, 1, expected)
        again_s = _best_s(compiled.count, text, rounds, expected)
        pure_s = _best_s(pure.count, text, min(rounds, 3), expected)
        tiktoken_s = _best_s(tiktoken, text, min(rounds, 3), expected)
        rows.append(
            _row(
                f"{encoding}: {name}",
                "MB/s",
                pure=round(size_mb / pure_s, 2),
                compiled_first=round(size_mb / first_s, 1),
                compiled_again=round(size_mb / again_s, 1),
                tiktoken=round(size_mb / tiktoken_s, 1),
                pure_ratio=round(pure_s / again_s, 1),
                tiktoken_ratio=round(tiktoken_s / again_s, 1),
            )
        )
    loads = {twin: [_load(twin, encoding) for _ in range(min(rounds, 3))] for twin in ("tokens_py", "tokens_c")}
    for unit, place in (("ms", 0), ("KiB", 1)):
        figures = {twin: round(min(load[place] for load in loads[twin]), 1) for twin in loads}
        what = "tables loaded" if unit == "ms" else "tables in memory"
        rows.append(_row(f"{encoding}: {what}", unit, pure=figures["tokens_py"], compiled_first=figures["tokens_c"]))
    return rows


def run(short: bool) -> list[dict[str, Any]]:
    """One row a text and encoding; `short` checks that all counts agree and measures nothing worth quoting."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for encoding in vocabulary.ENCODINGS:
            rows += _measure(encoding, Path(directory), 4000 if short else SIZE_BYTES, 1 if short else ROUNDS)
    return rows
