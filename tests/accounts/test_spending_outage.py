"""Budgets while their server hangs, dies and comes back: refused soon, in order again without help."""

import secrets
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from rig.postgres_server import PostgresServer
from rig.spending_worker import BUDGET, config_of
from securellm.accounts.spending import SpendingDatabase
from securellm.chat import Caller, KeyId, RequestId
from securellm.errors import BudgetExceeded, BudgetsUnavailable
from securellm.limits.budgets import Budgets, Reservation

CALLER = Caller(KeyId("k1"), None)
PROMISED_S = 0.1

pytestmark = [pytest.mark.slow, pytest.mark.tool("postgres")]


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of the test's own."""
    own = PostgresServer()
    try:
        own.start()
        yield own
    finally:
        own.resume()
        own.close()


@pytest.fixture
def store(server: PostgresServer, tmp_path: Path) -> Iterator[SpendingDatabase]:
    """A store on it, opened."""
    opened = SpendingDatabase(config_of(tmp_path, server.create_database(f"t{secrets.token_hex(6)}").reveal()))
    opened.read([BUDGET], 0)
    yield opened
    opened.close()


async def _reserve(budgets: Budgets, cost_nusd: int) -> Reservation:
    return await budgets.reserve(CALLER, cost_nusd, 0, RequestId("r1"))


async def _refused_s(budgets: Budgets) -> float:
    """How long a refusal takes, at the median of nine; each of them within a second."""
    took_s = []
    for _ in range(9):
        started_s = trio.current_time()
        with pytest.raises(BudgetsUnavailable):
            await _reserve(budgets, 1000)
        took_s.append(trio.current_time() - started_s)
        assert took_s[-1] < 1
    return statistics.median(took_s)


async def _until_reserved(budgets: Budgets, cost_nusd: int) -> float:
    """How long until a reservation works again; 10 s at most."""
    started_s = trio.current_time()
    with trio.fail_after(20):
        while True:
            try:
                (await _reserve(budgets, cost_nusd)).release()
            except BudgetsUnavailable:
                await trio.sleep(0.05)
            else:
                return trio.current_time() - started_s


async def test_a_server_that_hangs_and_comes_back(
    server: PostgresServer, store: SpendingDatabase, nursery: trio.Nursery
) -> None:
    """Nothing answers: each request is refused after its short wait; answers come again, and all is counted."""
    with trio.fail_after(60):
        budgets = Budgets(store, lambda _: (BUDGET,))
        nursery.start_soon(budgets.keep)
        await _until_reserved(budgets, 1000)
        held = await _reserve(budgets, 3000)
        server.hang()
        assert await _refused_s(budgets) < PROMISED_S
        held.settle(500, 0)
        server.resume()
        await _until_reserved(budgets, 9000)
        await trio.sleep(1.2)
        (figures,) = await budgets.spent([BUDGET])
        assert (figures.spent_nusd, figures.reserved_nusd) == (500, 0)


async def test_a_server_that_dies_and_comes_back(
    server: PostgresServer, store: SpendingDatabase, nursery: trio.Nursery
) -> None:
    """Nobody takes connections: refused at once; a new server's first answers are right."""
    with trio.fail_after(60):
        budgets = Budgets(store, lambda _: (BUDGET,))
        nursery.start_soon(budgets.keep)
        await _until_reserved(budgets, 1000)
        held = await _reserve(budgets, 8000)
        server.kill()
        assert await _refused_s(budgets) < PROMISED_S
        held.settle(7000, 0)
        server.start()
        await _until_reserved(budgets, 3000)
        with pytest.raises(BudgetExceeded):
            await _reserve(budgets, 3001)
        await trio.sleep(1.2)
        (figures,) = await budgets.spent([BUDGET])
        assert (figures.spent_nusd, figures.reserved_nusd) == (7000, 0)


async def test_a_server_that_hangs_does_not_hold_the_end(server: PostgresServer, store: SpendingDatabase) -> None:
    """With an exchange under way that nobody answers, the budgets stop and the store closes, in a few seconds."""
    with trio.fail_after(30):
        async with trio.open_nursery() as tasks:
            budgets = Budgets(store, lambda _: (BUDGET,))
            tasks.start_soon(budgets.keep)
            await _until_reserved(budgets, 1000)
            server.hang()
            with pytest.raises(BudgetsUnavailable):
                await _reserve(budgets, 9000)
            stopping_s = trio.current_time()
            tasks.cancel_scope.cancel()
        store.close()
        assert trio.current_time() - stopping_s < 10
        server.resume()
