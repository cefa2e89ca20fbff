"""Several processes that spend of one budget: exactly what there is, never more, whoever is killed."""

import random
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rig.postgres_server import PostgresServer
from rig.spending_worker import BUDGET, COST_NUSD, Orders, SpendingWorker, config_of
from securellm.accounts.spending import SpendingDatabase
from securellm.limits.purse import LEASE_S

WORKERS = 4
ENOUGH_FOR = 10

Place = tuple[Path, str | None]
pytestmark = pytest.mark.slow


@pytest.fixture(params=["file", pytest.param("server", marks=pytest.mark.tool("postgres"))])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A folder, and the URL of a database where the store is on a server."""
    if request.param == "file":
        return tmp_path, None
    server: PostgresServer = request.getfixturevalue("postgres")
    return tmp_path, server.create_database(f"t{secrets.token_hex(6)}").reveal()


@pytest.fixture
def start(place: Place) -> Iterator[Callable[..., SpendingWorker]]:
    """Starts processes on the store; what is left of them at the end is killed."""
    folder, server = place
    started: list[SpendingWorker] = []

    def begin(**orders: float) -> SpendingWorker:
        settings = Orders(str(folder), server, str(folder / "reached"), **orders)  # type: ignore[arg-type]  # numbers
        started.append(SpendingWorker(settings))
        return started[-1]

    yield begin
    for worker in started:
        if worker.process.returncode is None:
            worker.kill()


@pytest.fixture
def spending(place: Place) -> Iterator[SpendingDatabase]:
    """The same store, as an operator reads it."""
    opened = SpendingDatabase(config_of(*place))
    yield opened
    opened.close()


def test_a_thousand_requests_and_a_budget_for_ten(
    start: Callable[..., SpendingWorker], spending: SpendingDatabase, place: Place
) -> None:
    """Four processes send 250 requests each at once: ten are let in, the others are told that there is not enough."""
    workers = [start() for _ in range(WORKERS)]
    for worker in workers:
        worker.wait_until_ready()
    for worker in workers:
        worker.go()
    results = [worker.result() for worker in workers]
    assert sum(result.get("let_in", 0) for result in results) == ENOUGH_FOR
    assert sum(result.get("budget_exceeded", 0) for result in results) == 1000 - ENOUGH_FOR
    assert (place[0] / "reached").stat().st_size == ENOUGH_FOR
    (figures,) = spending.read([BUDGET], int(time.time()))
    assert (figures.spent_nusd, figures.reserved_nusd) == (ENOUGH_FOR * COST_NUSD, 0)


def test_what_is_not_used_is_there_for_others(start: Callable[..., SpendingWorker], spending: SpendingDatabase) -> None:
    """Requests that use a tenth of what they reserve are let in until it is spent, however the processes take turns."""
    workers = [start(requests=8, rounds=12, hold_s=0.05, used_nusd=COST_NUSD // 10) for _ in range(WORKERS)]
    for worker in workers:
        worker.wait_until_ready()
    for worker in workers:
        worker.go()
    let_in = sum(worker.result().get("let_in", 0) for worker in workers)
    (figures,) = spending.read([BUDGET], int(time.time()))
    assert (figures.spent_nusd, figures.reserved_nusd) == (let_in * COST_NUSD // 10, 0)
    assert let_in > ENOUGH_FOR


def test_killing_processes_spends_no_more(
    start: Callable[..., SpendingWorker], spending: SpendingDatabase, place: Place
) -> None:
    """With processes killed at any moment and replaced, at most ten requests are let in, and what was reserved ends."""
    dice = random.Random(7)
    workers = []
    for _ in range(WORKERS):
        workers.append(start(requests=100, hold_s=0.5))
        workers[-1].wait_until_ready()
    for worker in workers:
        worker.go()
    for _ in range(3):
        time.sleep(dice.uniform(0.0, 0.15))
        workers.pop(dice.randrange(len(workers))).kill()
        workers.append(start(requests=100, hold_s=0.2))
        workers[-1].wait_until_ready()
        workers[-1].go()
    for worker in workers:
        worker.result()
    reached = (place[0] / "reached").stat().st_size
    assert reached <= ENOUGH_FOR  # a process that is killed with all of it in its hands leaves none
    now_s = int(time.time())
    (figures,) = spending.read([BUDGET], now_s)
    assert reached * COST_NUSD <= figures.spent_nusd + figures.reserved_nusd <= ENOUGH_FOR * COST_NUSD
    (later,) = spending.read([BUDGET], now_s + LEASE_S + 1)
    assert later.reserved_nusd == 0
    assert reached * COST_NUSD <= later.spent_nusd <= ENOUGH_FOR * COST_NUSD
