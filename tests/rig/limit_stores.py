"""Every store of limits, by name, for the one suite that all of them pass; and bucket arithmetic by brute force."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from rig.leased_store import leased_store
from securellm._fast import gcra_py
from securellm.config.tree import Rates
from securellm.limits.process import ProcessStore
from securellm.limits.quota import Demands, Scope, Store, demands_of
from securellm.limits.shared import open_shared_store

NOW_US = 1_800_000_000_000_000


def twin_of(name: str) -> ModuleType:
    """The pure or the compiled arithmetic."""
    if name == "pure":
        return gcra_py
    from securellm._fast import gcra_c

    return gcra_c


@contextmanager
def _process(folder: Path, twin: str) -> Iterator[Store]:
    yield ProcessStore(twin=twin_of(twin))


@contextmanager
def _shared(folder: Path, twin: str) -> Iterator[Store]:
    with open_shared_store(folder / "limits.table", 1, 4, twin=twin_of(twin)) as store:
        yield store


StoreMaker = Callable[[Path], AbstractContextManager[Store]]
EXACT_STORES: dict[str, StoreMaker] = {
    "process-pure": lambda folder: _process(folder, "pure"),
    "process-compiled": lambda folder: _process(folder, "compiled"),
    "shared-pure": lambda folder: _shared(folder, "pure"),
    "shared-compiled": lambda folder: _shared(folder, "compiled"),
}
STORES: dict[str, StoreMaker] = {**EXACT_STORES, "leased": leased_store}  # that one may refuse a little early


def parameters(makers: dict[str, StoreMaker]) -> list[object]:
    """The makers as parameters of a fixture; what needs a compiled twin or a server is marked so."""
    return [pytest.param(maker, id=name, marks=_marks(name)) for name, maker in makers.items()]


def _marks(name: str) -> list[pytest.MarkDecorator]:
    if name == "leased":
        return [pytest.mark.tool("redis-server")]
    return [pytest.mark.compiled] if "compiled" in name else []


def nearly(store: Store, number: int) -> range:
    """How many of `number` a store has to grant: all, or a sixteenth less where slices are leased ahead."""
    return range(number - number // 16 if "redis" in store.statistics().kind else number, number + 1)


def demands(subject: str = "k", scope: Scope = Scope.KEY, **rates: int) -> Demands:
    """The demands of one subject with these rates."""
    return demands_of(scope, subject, Rates(**rates))


class BruteForce:
    """A bucket by its definition: in any window as much as it holds and what comes in meanwhile, and no more."""

    def __init__(self, capacity_us: int) -> None:
        self._capacity_us = capacity_us
        self._granted: list[tuple[int, int]] = []  # when, cost

    def wait_us(self, now_us: int, cost_us: int) -> int:
        """How long until so much fits, 0 when it does now: looks at every window that ends now."""
        worst_us, sum_us = cost_us - self._capacity_us, cost_us
        for at_us, granted_us in reversed(self._granted):
            sum_us += granted_us
            worst_us = max(worst_us, sum_us - self._capacity_us - (now_us - at_us))
        return max(worst_us, 0)

    def grant(self, now_us: int, cost_us: int) -> int:
        """Note a grant and return its place, by which `amend` finds it."""
        self._granted.append((now_us, cost_us))
        return len(self._granted) - 1

    def amend(self, place: int, cost_us: int) -> None:
        """What it was in truth."""
        self._granted[place] = (self._granted[place][0], cost_us)
