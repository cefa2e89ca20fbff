"""What a decision of the limits costs in each store, with both twins; interleaved, in one process."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any

from securellm._fast import gcra_py
from securellm.chat import Caller, KeyId
from securellm.config.tree import RateLimit, Rates
from securellm.limits.limiter import Limiter
from securellm.limits.process import ProcessStore
from securellm.limits.quota import Demands, Scope, Store, demands_of
from securellm.limits.shared import open_shared_store

NOW_US = 1_800_000_000_000_000
ROUNDS = 9
OWN_KEYS = 1000  # callers, in turn: a single one would be served from the processor's nearest cache


class _OwnRates:
    key = user = team = None


OWN = _OwnRates()


def _of_callers(rates: Rates) -> list[Demands]:
    return [demands_of(Scope.KEY, f"key {number}", rates) for number in range(OWN_KEYS)]


def _decide(store: Store, asked: list[Demands], count: int) -> float:
    """CPU seconds for so many decisions, all granted."""
    take, now_us = store.take, NOW_US
    started = time.process_time()
    for number in range(count):
        now_us += 1000
        if not isinstance(take(asked[number % OWN_KEYS], 100, now_us), tuple):
            raise AssertionError("a decision that has room was refused")
    return time.process_time() - started


def _refuse(store: Store, asked: list[Demands], count: int) -> float:
    """CPU seconds for so many refusals."""
    take = store.take
    if not isinstance(take(asked[0], 100, NOW_US), tuple):
        raise AssertionError("the first of a burst was refused")
    started = time.process_time()
    for _ in range(count):
        if isinstance(take(asked[0], 100, NOW_US), tuple):
            raise AssertionError("an empty bucket granted")
    return time.process_time() - started


def _whole(store: Store, rates: Rates, count: int) -> float:
    """CPU seconds for so many requests through the limiter: admitted, and trued up at the end."""
    now = [NOW_US]
    settings = RateLimit(providers={}, per_key=rates)
    limiter = Limiter(settings, store, lambda caller: OWN, lambda: now[0])
    callers = [Caller(KeyId(f"key {number}"), None) for number in range(OWN_KEYS)]

    async def serve(number: int) -> None:
        now[0] += 1000
        hold = await limiter.admit(callers[number % OWN_KEYS], "openai/gpt-5", 100)
        hold.settle(90)

    for number in range(min(OWN_KEYS, count)):
        _run(serve(number))
    started = time.process_time()
    for number in range(count):
        _run(serve(number))
    return time.process_time() - started


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Nothing here ever waits, so no event loop is needed."""
    with contextlib.suppress(StopIteration):
        work.send(None)


# Slow enough that no bucket is full again when its caller's next request comes, so that all are really counted.
REQUESTS = Rates(rpm=6, burst=1_000_000)
BOTH = Rates(rpm=6, burst=1_000_000, tpm=3000)
ALL = Rates(rpm=6, burst=1_000_000, tpm=3000, concurrent=10)
CASES: dict[str, Callable[[Store, int], float]] = {
    "requests": lambda store, count: _decide(store, _of_callers(REQUESTS), count),
    "requests, tokens": lambda store, count: _decide(store, _of_callers(BOTH), count),
    "requests, tokens, refused": lambda store, count: _refuse(store, _of_callers(Rates(1, 1, 100)), count),
    "limiter, nothing limited": lambda store, count: _whole(store, Rates(), count),
    "limiter, requests, tokens, at one time": lambda store, count: _whole(store, ALL, count),
}


def run(short: bool) -> list[dict[str, Any]]:
    """One row a store and case; `short` checks that the twins decide alike and measures nothing worth quoting."""
    from securellm._fast import gcra_c

    count = 500 if short else 20_000
    rows = []
    for kind in ("process", "shared"):
        for name, case in CASES.items():
            best: dict[ModuleType, float] = {gcra_py: float("inf"), gcra_c: float("inf")}
            for _ in range(1 if short else ROUNDS):
                for twin in best:
                    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
                        store: Store = ProcessStore(twin=twin)
                        if kind == "shared":
                            path = Path(folder) / "limits"
                            store = stack.enter_context(open_shared_store(path, 1, 4, twin=twin))
                        best[twin] = min(best[twin], case(store, count))
            rows.append(
                {
                    "case": f"{kind}: {name}",
                    "pure_ns": round(best[gcra_py] / count * 1e9),
                    "compiled_ns": round(best[gcra_c] / count * 1e9),
                    "ratio": round(best[gcra_py] / best[gcra_c], 1),
                }
            )
    return rows
