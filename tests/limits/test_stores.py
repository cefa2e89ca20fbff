"""The contract of every store of limits; and the exact ones against buckets that are counted by brute force."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rig.limit_stores import EXACT_STORES, NOW_US, STORES, BruteForce, StoreMaker, demands, nearly, parameters
from securellm.limits.quota import Demands, Denied, Measure, Never, Scope, Store

SECOND_US = 1_000_000
EXAMPLES = max(20, int(60 * float(os.environ.get("SECURELLM_TEST_SCALE", "1"))))


@pytest.fixture(params=parameters(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """One of the stores."""
    maker: StoreMaker = request.param
    with maker(tmp_path) as made:
        yield made


@pytest.fixture(params=parameters(EXACT_STORES))
def exact(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """One of the stores that grant to the last microsecond."""
    maker: StoreMaker = request.param
    with maker(tmp_path) as made:
        yield made


def _granted(store: Store, asked: Demands, times: int, tokens: int = 0, now_us: int = NOW_US) -> int:
    return sum(isinstance(store.take(asked, tokens, now_us), tuple) for _ in range(times))


@pytest.mark.parametrize(("rpm", "burst"), [(60, 10), (3500, 100), (50, 5), (10_000, 1000), (7, 3), (1, 1)])
def test_a_burst_is_granted_to_the_last_one(store: Store, rpm: int, burst: int) -> None:
    """After a quiet time exactly the burst is granted, whatever the rate's interval is rounded to."""
    assert _granted(store, demands(rpm=rpm, burst=burst), 2 * burst) in nearly(store, burst)


@pytest.mark.parametrize(("rpm", "burst"), [(60, 10), (3500, 100), (50, 5), (7, 3)])
def test_whoever_waits_retry_after_is_granted(exact: Store, rpm: int, burst: int) -> None:
    """A sole caller who waits as long as it is told is granted, and one microsecond earlier it is not."""
    asked, now_us = demands(rpm=rpm, burst=burst), NOW_US
    for _ in range(burst + 5):
        answer = exact.take(asked, 0, now_us)
        if isinstance(answer, tuple):
            continue
        assert isinstance(answer, Denied)
        assert isinstance(exact.would_allow(asked, 0, now_us + answer.retry_after_us - 1), Denied)
        now_us += answer.retry_after_us
        assert isinstance(exact.take(asked, 0, now_us), tuple)


def test_all_demands_or_none(store: Store) -> None:
    """A request that one bucket refuses takes nothing from the others."""
    wide, narrow = demands(rpm=600, burst=100), demands("u", Scope.USER, rpm=60, burst=2)
    assert _granted(store, wide + narrow, 50) == 2
    assert _granted(store, wide, 200) in nearly(store, 98)


def test_the_longest_wait_is_told(exact: Store) -> None:
    """Where several buckets refuse, the one to wait longest for is named, and waiting for it is enough."""
    short, long = demands(rpm=60, burst=1), demands("u", Scope.USER, rpm=6, burst=1)
    assert isinstance(exact.take(short + long, 0, NOW_US), tuple)
    answer = exact.take(short + long, 0, NOW_US)
    assert isinstance(answer, Denied)
    assert (answer.demand.scope, answer.retry_after_us) == (Scope.USER, 10 * SECOND_US)
    assert isinstance(exact.take(short + long, 0, NOW_US + answer.retry_after_us), tuple)


def test_what_never_fits_is_told_apart(store: Store) -> None:
    """More tokens than the bucket ever holds are Never, before and after it was used; what fits is granted."""
    asked = demands(tpm=1000)
    assert isinstance(store.take(asked, 1001, NOW_US), Never)
    assert isinstance(store.take(asked, 1000, NOW_US), tuple)
    assert isinstance(store.take(asked, 1001, NOW_US), Never)
    assert isinstance(store.take(asked, 1, NOW_US), Denied)


def test_what_never_fits_wins_over_waiting(store: Store) -> None:
    """Waiting for one bucket is not advised when another could never grant the request."""
    asked = demands(rpm=1, burst=1, tpm=10)
    assert isinstance(store.take(asked, 1, NOW_US), tuple)
    assert isinstance(store.take(asked, 11, NOW_US), Never)


def test_would_allow_changes_nothing(store: Store) -> None:
    """Asking whether it would be granted takes nothing, and answers as taking then does."""
    asked = demands(rpm=60, burst=1, concurrent=1)
    for _ in range(10):
        assert store.would_allow(asked, 0, NOW_US) is None
    assert _granted(store, asked, 3) == 1
    assert isinstance(store.would_allow(asked, 0, NOW_US), Denied)


def test_unused_tokens_come_back(store: Store) -> None:
    """Tokens that were reserved and not used can be used at once by another."""
    asked = demands(tpm=1000)
    levels = store.take(asked, 1000, NOW_US)
    assert isinstance(levels, tuple)
    assert isinstance(store.take(asked, 1, NOW_US), Denied)
    store.give_back(asked, levels, 900, NOW_US)
    assert isinstance(store.take(asked, 900, NOW_US), tuple)
    assert isinstance(store.take(asked, 1, NOW_US), Denied)


def test_tokens_over_the_reservation_are_a_debt(exact: Store) -> None:
    """Tokens that were used and not reserved are taken all the same, and waited for by who comes next."""
    asked = demands(tpm=60_000)
    levels = exact.take(asked, 60_000, NOW_US)
    assert isinstance(levels, tuple)
    exact.give_back(asked, levels, -30_000, NOW_US)
    answer = exact.take(asked, 1000, NOW_US)
    assert isinstance(answer, Denied)
    assert answer.retry_after_us == 31 * SECOND_US


def test_time_and_the_caller_give_back_once(exact: Store) -> None:
    """What was reserved long ago has come back by itself: returning it makes no room for a second burst."""
    asked = demands(tpm=60_000)
    first = exact.take(asked, 60_000, NOW_US)
    assert isinstance(first, tuple)
    later_us = NOW_US + 60 * SECOND_US
    assert isinstance(exact.take(asked, 60_000, later_us), tuple)
    exact.give_back(asked, first, 60_000, later_us)
    assert isinstance(exact.take(asked, 1, later_us), Denied)


def test_requests_at_one_time(store: Store) -> None:
    """Of many at once exactly the limit is granted, and each that ends makes room for one."""
    asked = demands(concurrent=7)
    assert _granted(store, asked, 70) == 7
    answer = store.take(asked, 0, NOW_US)
    assert isinstance(answer, Denied)
    assert (answer.demand.measure, answer.remaining) == (Measure.CONCURRENT, 0)
    for _ in range(3):
        store.give_back(asked, (0,), 0, NOW_US)
    assert _granted(store, asked, 70) == 3


def test_buckets_are_apart(store: Store) -> None:
    """Two subjects, and the same name in two scopes, have buckets of their own."""
    for subject, scope in [("a", Scope.KEY), ("b", Scope.KEY), ("a", Scope.USER)]:
        assert _granted(store, demands(subject, scope, rpm=60, burst=3, concurrent=3), 5) == 3


def test_full_buckets_are_not_counted(store: Store) -> None:
    """The statistics count the buckets that are not full, and requests being served."""
    asked = demands(rpm=60, burst=3, concurrent=3)
    store.take(asked, 0, NOW_US)
    assert store.statistics().buckets == 2
    assert store.statistics().kind in repr(store).lower()
    assert store.statistics().forgotten == 0


def test_a_clock_that_steps_back_grants_no_second_burst(store: Store) -> None:
    """Time that goes back gives nothing back."""
    asked = demands(rpm=60, burst=5)
    assert _granted(store, asked, 10) == 5
    assert _granted(store, asked, 10, now_us=NOW_US - 3600 * SECOND_US) == 0


gaps = st.lists(
    st.tuples(st.sampled_from([0, 1, 999, 17_143, 100_000, 3 * SECOND_US]), st.integers(0, 40)), max_size=60
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    trace=gaps, tpm=st.sampled_from([40, 600, 7_000, 100_003]), rpm=st.sampled_from([60, 3500]), number=st.integers()
)
def test_grants_are_those_of_brute_force(
    exact: Store, trace: list[tuple[int, int]], tpm: int, rpm: int, number: int
) -> None:
    """Any arrivals are granted and refused as a bucket that looks at every window would, with its very waits."""
    asked = demands(f"{number}-{tpm}-{rpm}-{len(trace)}", rpm=rpm, burst=4, tpm=tpm)
    oracles = [BruteForce(demand.capacity) for demand in asked]
    now_us = _fresh_us(exact)
    for gap_us, tokens in trace:
        now_us += gap_us
        costs_us = [demand.cost_us or demand.quota.cost_us(tokens) for demand in asked]
        wait_us = max(oracle.wait_us(now_us, cost_us) for oracle, cost_us in zip(oracles, costs_us, strict=True))
        answer = exact.take(asked, tokens, now_us)
        if wait_us:
            assert isinstance(answer, Denied)
            assert answer.retry_after_us == wait_us
        else:
            assert isinstance(answer, tuple)
            for oracle, cost_us in zip(oracles, costs_us, strict=True):
                oracle.grant(now_us, cost_us)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    trace=st.lists(
        st.tuples(
            st.sampled_from([0, 50_000, SECOND_US, 20 * SECOND_US, 70 * SECOND_US]),
            st.integers(1, 600),  # reserved
            st.integers(0, 600),  # used, at most what was reserved
            st.integers(0, 4),  # how many arrivals it takes until it is settled
        ),
        max_size=40,
    ),
)
def test_what_is_given_back_never_makes_room_for_too_much(exact: Store, trace: list[tuple[int, int, int, int]]) -> None:
    """With reservations that are trued up at any later time no window ever holds more than a bucket may grant."""
    now_us = _fresh_us(exact)
    asked = demands(str(now_us), tpm=600)
    oracle = BruteForce(asked[0].capacity)
    open_holds: list[tuple[int, int, int, int, int]] = []  # settled at, its place, reserved, used, level
    for arrival, (gap_us, reserved, used, stays) in enumerate(trace):
        now_us += gap_us
        used = min(used, reserved)
        for hold in [hold for hold in open_holds if hold[0] <= arrival]:
            open_holds.remove(hold)
            _, place, held, spent, level = hold
            exact.give_back(asked, (level,), held - spent, now_us)
            oracle.amend(place, asked[0].quota.cost_us(spent))
        answer = exact.take(asked, reserved, now_us)
        if isinstance(answer, tuple):
            cost_us = asked[0].quota.cost_us(reserved)
            assert oracle.wait_us(now_us, cost_us) == 0
            open_holds.append((arrival + 1 + stays, oracle.grant(now_us, cost_us), reserved, used, answer[0]))


_fresh = iter(range(1, 1_000_000_000))


def _fresh_us(store: Store) -> int:
    """A time so much later that whatever earlier examples took is forgotten."""
    return NOW_US + next(_fresh) * 100_000 * SECOND_US
