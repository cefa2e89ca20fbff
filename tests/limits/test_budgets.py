"""Budgets in one process: what is reserved, waited for, refused and given back."""

from collections.abc import Callable

import pytest
import trio

from rig.spending import MemorySpending
from securellm.accounts.bounds import Budget
from securellm.accounts.leases import Spending
from securellm.chat import Caller, KeyId, RequestId
from securellm.errors import BudgetExceeded, BudgetsUnavailable
from securellm.limits.budgets import Budgets, Reservation
from securellm.limits.purse import LEASE_S, LOOK_EVERY_S

CALLER = Caller(KeyId("abcd1234"), "u1", team_id="t1")
NOON_S = 1_795_176_000  # 2026-11-20, 12:00 UTC
DAY_S = 86_400


def make_budget(
    limit_nusd: int | None = 100, limit_tokens: int | None = None, *, kind: str = "key", window: str = "day"
) -> Budget:
    """A budget of CALLER's."""
    return Budget(f"{kind}:x:{window}", kind, "x", limit_nusd, limit_tokens, window, 30 * DAY_S)


class Process:
    """One process's budgets on a store, with a clock that the test turns."""

    def __init__(
        self, store: MemorySpending, *budgets: Budget, patience_s: float = 1.0, stale_after_s: float = 100.0
    ) -> None:
        self.store = store
        self.budgets_of = list(budgets)
        self.skew_s = 0.0
        self._zero_s = trio.current_time()
        self.budgets = Budgets(
            store,
            lambda caller: tuple(self.budgets_of),
            stale_after_s=stale_after_s,
            patience_s=patience_s,
            now_s=self.now_s,
        )

    def now_s(self) -> float:
        """Unix seconds."""
        return NOON_S + trio.current_time() - self._zero_s + self.skew_s

    async def reserve(self, cost_nusd: int, tokens: int = 0, caller: Caller = CALLER) -> Reservation:
        """Reserve for one request."""
        return await self.budgets.reserve(caller, cost_nusd, tokens, RequestId("r1"))

    async def spending(self) -> Spending:
        """The figures of the first budget, after all that is settled was told."""
        await trio.sleep(2 * LOOK_EVERY_S + 0.2)
        return (await self.budgets.spent(self.budgets_of))[0]


Start = Callable[..., Process]


@pytest.fixture
def start(nursery: trio.Nursery) -> Start:
    """Makes processes on one store, each with its task."""
    store = MemorySpending()

    def begin(*budgets: Budget, **settings: float) -> Process:
        process = Process(store, *(budgets or (make_budget(),)), **settings)
        nursery.start_soon(process.budgets.keep)
        return process

    return begin


async def test_a_reservation_is_settled_to_what_was_used(start: Start) -> None:
    """What was used is spent, the rest is there again."""
    with trio.fail_after(10):
        process = start(make_budget(100))
        reservation = await process.reserve(80)
        assert reservation.settle(30, 0) == 0
        figures = await process.spending()
        assert (figures.spent_nusd, figures.reserved_nusd, figures.left_nusd) == (30, 0, 70)
        await process.reserve(70)


async def test_what_does_not_fit_is_refused(start: Start) -> None:
    """A request that may cost more than is left is refused, and names whose budget it is."""
    with trio.fail_after(10):
        process = start(make_budget(100, kind="team"))
        held = await process.reserve(60)
        with pytest.raises(BudgetExceeded) as refused:
            await process.reserve(41)
        assert refused.value.param == "team"
        held.release()
        await process.reserve(100)


async def test_all_budgets_or_none(start: Start) -> None:
    """A request that one budget refuses takes nothing from the others."""
    with trio.fail_after(10):
        process = start(make_budget(100), make_budget(1000, 50, kind="user"), make_budget(30, kind="team"))
        with pytest.raises(BudgetExceeded) as refused:
            await process.reserve(31, 10)
        assert refused.value.param == "team"
        with pytest.raises(BudgetExceeded) as refused:
            await process.reserve(1, 51)
        assert refused.value.param == "user"
        await process.reserve(30, 50)
        figures = await process.budgets.spent(process.budgets_of)
        assert [each.reserved_nusd for each in figures] == [30, 30, 30]


async def test_an_overrun_is_charged_told_and_blocks(start: Start) -> None:
    """More than was reserved is charged in full, returned, and leaves no room for the next request."""
    with trio.fail_after(10):
        process = start(make_budget(100))
        assert (await process.reserve(50)).settle(130, 0) == 80
        with pytest.raises(BudgetExceeded):
            await process.reserve(1)
        figures = await process.spending()
        assert (figures.spent_nusd, figures.left_nusd) == (130, 0)
        assert process.budgets.statistics().overrun_nusd == 80
        process.skew_s = DAY_S
        await process.reserve(100)


async def test_free_models_go_on(start: Start) -> None:
    """An exhausted budget in USD refuses nothing that costs nothing; tokens count for free models, too."""
    with trio.fail_after(10):
        process = start(make_budget(10), make_budget(None, 100, kind="user"))
        (await process.reserve(10, 40)).settle(10, 40)
        with pytest.raises(BudgetExceeded):
            await process.reserve(1, 1)
        await process.reserve(0, 60)
        with pytest.raises(BudgetExceeded) as refused:
            await process.reserve(0, 1)
        assert refused.value.param == "user"


async def test_without_budgets_nothing_is_asked(start: Start) -> None:
    """A caller without a budget reserves without a word to the store."""
    with trio.fail_after(10):
        process = start()
        process.budgets_of = []
        (await process.reserve(10**12, 10**9)).settle(5, 5)
        await trio.sleep(1)
        assert process.store.exchanges == 0


async def test_a_second_settlement_changes_nothing(start: Start) -> None:
    """A reservation ends once."""
    with trio.fail_after(10):
        process = start()
        reservation = await process.reserve(50)
        reservation.settle(20, 0)
        assert reservation.settle(900, 0) == 0
        reservation.release()
        assert (await process.spending()).spent_nusd == 20


async def test_exactly_as_many_as_fit(start: Start) -> None:
    """A thousand requests at once over four processes, and a budget for ten: ten are let in."""
    with trio.fail_after(30):
        processes = [start(make_budget(100), patience_s=20) for _ in range(4)]
        let_in: list[Reservation] = []

        async def one(process: Process) -> None:
            try:
                let_in.append(await process.reserve(10))
            except BudgetExceeded:
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as requests:
            for number in range(1000):
                requests.start_soon(one, processes[number % 4])
        assert len(let_in) == 10


async def test_a_busy_process_does_not_wait(start: Start) -> None:
    """With plenty left the lease is ahead of need: hardly an exchange for thousands of requests."""
    with trio.fail_after(30):
        process = start(make_budget(10**9))
        for _ in range(500):
            (await process.reserve(10)).settle(5, 0)
            await trio.sleep(0.001)
        assert process.store.exchanges < 50
        figures = await process.spending()
        assert (figures.spent_nusd, figures.reserved_nusd) == (2_500, 0)


async def test_what_is_leased_ahead_is_a_small_part_of_what_is_left(start: Start) -> None:
    """However busy, a process never holds more than a 64th of what is left beyond what its requests have reserved."""
    with trio.fail_after(30):
        process = start(make_budget(100_000))
        for _ in range(500):
            (await process.reserve(100)).settle(100, 0)
            await trio.sleep(0.002)
            figures = (await process.budgets.spent(process.budgets_of))[0]
            assert figures.reserved_nusd <= 100_000 / 64 + 100


async def test_a_store_that_hangs_is_waited_for_briefly(start: Start) -> None:
    """Nothing leased and no answer: refused after the wait, as unavailable; when it answers all is well."""
    with trio.fail_after(20):
        process = start(patience_s=0.05)
        process.store.answering.clear()
        started_s = trio.current_time()
        with pytest.raises(BudgetsUnavailable):
            await process.reserve(1)
        assert trio.current_time() - started_s < 1
        process.store.answering.set()
        await trio.sleep(0.3)
        await process.reserve(100)


async def test_a_store_that_is_down_refuses_and_recovers(start: Start) -> None:
    """An outage refuses at once, keeps what was settled, and ends by itself."""
    with trio.fail_after(20):
        process = start()
        reservation = await process.reserve(60)
        process.store.down = True
        reservation.settle(10, 0)
        with pytest.raises(BudgetsUnavailable):
            await process.reserve(100)
        await trio.sleep(1)
        process.store.down = False
        assert (await process.spending()).spent_nusd == 10
        await process.reserve(90)


@pytest.mark.slow
async def test_an_exchange_whose_outcome_is_unknown_is_put_right(start: Start) -> None:
    """The store did it and could not say so: nothing is counted twice, and what nobody knows of comes back."""
    with trio.fail_after(20):
        process = start(make_budget(100))
        held = await process.reserve(20)
        process.store.deaf = True
        with pytest.raises(BudgetsUnavailable):
            await process.reserve(80)
        held.settle(15, 0)
        await trio.sleep(1)
        process.store.deaf = False
        figures = await process.spending()
        assert (figures.spent_nusd, figures.reserved_nusd) == (15, 0)


@pytest.mark.slow
async def test_a_process_that_died_is_charged(start: Start) -> None:
    """What it had leased is spent once its lease has expired; until then it is reserved."""
    with trio.fail_after(20):
        survivor = start(make_budget(100))
        with trio.CancelScope() as life:
            dead = Process(survivor.store, make_budget(100))
            async with trio.open_nursery() as tasks:
                tasks.start_soon(dead.budgets.keep)
                await dead.reserve(30)
                dead.store.down = True  # so that its farewell is not heard
                life.cancel()
        survivor.store.down = False
        with pytest.raises(BudgetExceeded):
            await survivor.reserve(71)
        survivor.skew_s = LEASE_S + 1
        assert (await survivor.spending()).spent_nusd == 30
        await survivor.reserve(70)
        assert (await survivor.spending()).spent_nusd == 30


async def test_a_lease_that_was_ended_is_replaced(start: Start) -> None:
    """A process that was held up finds its lease charged: no refund of it, an overrun still counts, and it goes on."""
    with trio.fail_after(20):
        slow, other = start(make_budget(100)), start(make_budget(100))
        first, second = await slow.reserve(30), await slow.reserve(10)
        other.skew_s = LEASE_S + 1
        await other.reserve(1)
        slow.skew_s = LEASE_S + 1
        first.settle(5, 0)
        second.settle(25, 0)
        await slow.reserve(20)
        figures = await slow.spending()
        assert figures.spent_nusd == 40  # the 15 more than was reserved are within the 25 that came back
        assert figures.reserved_nusd == 21


@pytest.mark.slow
async def test_a_reservation_that_nobody_settles_is_charged(start: Start) -> None:
    """After the time for a whole request and a margin a reservation is spent as estimated."""
    with trio.fail_after(20):
        process = start(make_budget(100))
        forgotten = await process.reserve(40)
        process.skew_s = 101
        figures = await process.spending()
        assert (figures.spent_nusd, figures.reserved_nusd) == (40, 0)
        assert process.budgets.statistics().stale == 1
        assert forgotten.settle(1, 0) == 0
        assert (await process.spending()).spent_nusd == 40


@pytest.mark.slow
async def test_a_request_is_charged_to_the_window_it_began_in(start: Start) -> None:
    """What was reserved yesterday is settled to yesterday, and today's budget is whole."""
    with trio.fail_after(20):
        process = start(make_budget(100), stale_after_s=2 * DAY_S)
        yesterday = await process.reserve(100)
        process.skew_s = DAY_S / 2
        today = await process.reserve(100)
        yesterday.settle(70, 0)
        today.settle(30, 0)
        assert (await process.spending()).spent_nusd == 30
        process.skew_s = 0
        assert (await process.spending()).spent_nusd == 70


async def test_a_cancelled_wait_keeps_nothing(start: Start) -> None:
    """A caller that goes away while it waits leaves nothing reserved, whenever the answer comes."""
    with trio.fail_after(20):
        process = start(make_budget(100))
        process.store.answering.clear()
        with trio.move_on_after(0.02):
            await process.reserve(100)
        process.store.answering.set()
        assert (await process.spending()).reserved_nusd == 0
        assert process.budgets.statistics().reservations == 0


async def test_stopping_gives_everything_back() -> None:
    """At the end what is settled is told and nothing stays leased."""
    with trio.fail_after(20):
        process = Process(MemorySpending(), make_budget(10**9))
        async with trio.open_nursery() as tasks:
            tasks.start_soon(process.budgets.keep)
            for _ in range(400):
                (await process.reserve(100)).settle(100, 0)
                await trio.sleep(0.002)
            assert process.store.leases
            tasks.cancel_scope.cancel()
        assert process.store.leases == {}
        assert sum(nusd for nusd, _ in process.store.spent.values()) == 40_000


async def test_new_limits_count_at_once(start: Start) -> None:
    """A higher limit has more room; a unit that was not limited and now is counts what is reserved already."""
    with trio.fail_after(20):
        process = start(make_budget(100, None))
        await process.reserve(100, 40)
        process.budgets_of = [make_budget(150, 60)]
        with pytest.raises(BudgetExceeded):
            await process.reserve(10, 21)
        await process.reserve(50, 20)


async def test_nonsense_stays_within_the_stores_integers(start: Start) -> None:
    """A bound of 10^30 tokens, or as much reported, is cut to what the store can keep; nothing breaks."""
    with trio.fail_after(20):
        process = start(make_budget(100))
        reservation = await process.reserve(5, 10**30)
        assert reservation.tokens < 2**41
        assert reservation.settle(10**30, 10**30) > 2**49
        figures = await process.spending()
        assert figures.spent_nusd < 2**51
        assert figures.spent_tokens < 2**41
