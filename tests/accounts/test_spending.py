"""Spending and leases on real stores: the same decisions in a file, on a server and in memory."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from rig.spending import MemorySpending
from securellm.accounts.bounds import Budget
from securellm.accounts.leases import ANEW, GRANTED, Answer, Batch, Charge, Order, Want
from securellm.accounts.spending import SpendingDatabase
from securellm.accounts.windows import FOREVER_S, Window, window_of
from securellm.config.secrets import Secret
from securellm.config.tree import Config, Database, Security
from securellm.errors import StoreUnavailable
from securellm.limits.budgets import SpendingStore

NOON_S = 1_795_176_000  # 2026-11-20, 12:00 UTC
DAY_S = 86_400
BUDGET = Budget("key:k1:day", "key", "k1", 100, None, "day", 30 * DAY_S)
ROLLING = Budget("key:k1:rolling", "key", "k1", 100, 1000, "rolling", 1000)


def config_of(folder: Path, server: Secret | None = None) -> Config:
    """A configuration with its store in a folder, or on a server."""
    database = Database(path=folder / "models.db", server=server)
    return Config(state_dir=folder, database=database, security=Security(pepper=Secret("p" * 32)))


@pytest.fixture(params=["memory", "file", pytest.param("server", marks=pytest.mark.tool("postgres"))])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SpendingStore]:
    """Each store in turn, empty."""
    if request.param == "memory":
        yield MemorySpending()
        return
    server = None
    if request.param == "server":
        server = request.getfixturevalue("postgres").create_database(f"t{secrets.token_hex(6)}")
    opened = SpendingDatabase(config_of(tmp_path, server))
    try:
        yield opened
    finally:
        opened.close()


def _order(number: int, held: int = 0, settled: int = 0, budget: Budget = BUDGET, **more: int) -> Order:
    known = bool(more.pop("known", number > 1))
    return Order(budget, window_of(budget, NOON_S), number, known, settled, 0, held, 0, **more)


def _exchange(
    store: SpendingStore, *orders: Order, owner: str = "a", wants: tuple[int, ...] = (), now_s: int = NOON_S
) -> Answer:
    """An exchange in which each want is so many nano-USD of the first order."""
    batch = Batch(owner, now_s + 60, orders, [Want(((0, nusd, 0),)) for nusd in wants])
    return store.exchange(batch, now_s)


def _figures(store: SpendingStore, budget: Budget = BUDGET, now_s: int = NOON_S) -> tuple[int, int]:
    (figures,) = store.read([budget], now_s)
    return figures.spent_nusd, figures.reserved_nusd


def test_wants_are_granted_in_order_while_there_is_enough(store: SpendingStore) -> None:
    """Each want in turn gets all of what it needs or nothing, and a smaller one behind a refused one is let in."""
    assert _exchange(store, _order(1), wants=(60, 50, 30, 20, 10)).wants == [GRANTED, 0, GRANTED, 0, GRANTED]
    assert _figures(store) == (0, 100)
    assert _exchange(store, _order(1), owner="b", wants=(1,)).wants == [0]


def test_what_is_settled_is_spent_once(store: SpendingStore) -> None:
    """The running total of what is settled is added once, however often and in whatever state it is told."""
    _exchange(store, _order(1), wants=(60,))
    for number in (2, 3, 4):
        _exchange(store, _order(number, held=10, settled=45))
    assert _figures(store) == (45, 10)
    _exchange(store, _order(5, held=0, settled=50))
    assert _figures(store) == (50, 0)
    assert _exchange(store, _order(1), owner="b", wants=(50,)).wants == [GRANTED]


def test_an_exchange_that_comes_late_changes_nothing(store: SpendingStore) -> None:
    """After a newer one has been heard an older one is ignored, grants included."""
    _exchange(store, _order(1), wants=(20,))
    _exchange(store, _order(7, held=5, settled=15))
    assert _exchange(store, _order(6, held=20, settled=0), wants=(9,)).wants == [ANEW]
    assert _figures(store) == (15, 5)


def test_a_lease_that_expired_is_charged_by_whoever_comes(store: SpendingStore) -> None:
    """Nobody renewed it, so all of it is spent; its owner is told that it is gone, and cannot bring it back."""
    _exchange(store, _order(1), wants=(40,))
    later_s = NOON_S + 61
    assert _figures(store, now_s=later_s) == (40, 0)
    assert _exchange(store, _order(1), owner="b", wants=(61, 60), now_s=later_s).wants == [0, GRANTED]
    answer = _exchange(store, _order(2, held=40, settled=3), wants=(1,), now_s=later_s)
    assert (answer.leases[0].there, answer.wants) == (False, [ANEW])
    assert _figures(store, now_s=later_s) == (40, 60)


def test_an_owner_renews_its_own_expired_lease(store: SpendingStore) -> None:
    """As long as nobody has ended it, a lease that is renewed late goes on."""
    _exchange(store, _order(1), wants=(40,))
    assert _exchange(store, _order(2, held=40), now_s=NOON_S + 100).leases[0].there
    assert _figures(store, now_s=NOON_S + 100) == (0, 40)


def test_charges_are_spent_beyond_the_limit(store: SpendingStore) -> None:
    """What no lease covers is spent all the same, and then nothing is left."""
    batch = Batch("a", NOON_S + 60, [], charges=[Charge(BUDGET, window_of(BUDGET, NOON_S), 130, 7)])
    store.exchange(batch, NOON_S)
    assert _figures(store) == (130, 0)
    assert _exchange(store, _order(1), wants=(1,)).wants == [0]
    assert _exchange(store, _order(1), owner="b", wants=(0,)).wants == [GRANTED]


def test_leases_ahead_are_a_small_part_of_plenty(store: SpendingStore) -> None:
    """A 64th of what is left at most, and nothing where fewer than 64 of the largest needs are left."""
    rich = msgspec.structs.replace(BUDGET, limit_nusd=64_000)
    (leased,) = _exchange(store, _order(1, budget=rich, ahead_nusd=5000, largest_nusd=1000)).leases
    assert (leased.ahead_nusd, leased.most_nusd) == (1000, 1000)
    (leased,) = _exchange(store, _order(2, held=1000, budget=rich, ahead_nusd=5000, largest_nusd=1000)).leases
    assert (leased.ahead_nusd, leased.most_nusd) == (0, 0)


def test_a_rolling_window_forgets_late_never_early(store: SpendingStore) -> None:
    """What was spent counts for the whole length of the window, and for a bucket longer at most."""
    start_s = NOON_S - NOON_S % 10 + 9  # the last second of a bucket of ten
    first = Order(ROLLING, Window(0, FOREVER_S), 1, False, 0, 0, 0, 0)
    store.exchange(Batch("a", start_s + 60, [first], [Want(((0, 80, 5),))]), start_s)
    store.exchange(Batch("a", start_s + 60, [Order(ROLLING, first.window, 2, True, 80, 5, 0, 0)]), start_s)
    for passed_s, spent in ((0, 80), (999, 80), (1000, 80), (1010, 0)):
        assert _figures(store, ROLLING, start_s + passed_s)[0] == spent
    late = Order(ROLLING, first.window, 3, False, 0, 0, 0, 0)
    assert store.exchange(Batch("b", 0, [late], [Want(((0, 21, 0),))]), start_s + 1000).wants == [0]


def test_budgets_without_rows_have_all_of_it(store: SpendingStore) -> None:
    """A budget that nobody has used is whole; several are read at once, in order."""
    first, second = store.read([ROLLING, BUDGET], NOON_S)
    assert (first.left_nusd, first.left_tokens) == (100, 1000)
    assert (second.left_nusd, second.left_tokens) == (100, None)
    assert first.window == Window(NOON_S - 1000, NOON_S)


def test_a_store_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    """A file that was taken away is an outage, and not an empty store in which everything may be spent again."""
    opened = SpendingDatabase(config_of(tmp_path))
    _exchange(opened, _order(1), wants=(100,))
    kept = (tmp_path / "models.db").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable):
        _exchange(opened, _order(1), owner="b", wants=(100,))
    kept.rename(tmp_path / "models.db")
    assert _exchange(opened, _order(1), owner="b", wants=(1,)).wants == [0]
    opened.close()
