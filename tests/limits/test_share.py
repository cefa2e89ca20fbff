"""What one process lets through alone: its part, beginning from what is known, and owed afterwards."""

from rig.limit_stores import NOW_US, demands
from securellm.limits.share import LocalShare

SECOND_US = 1_000_000


def _granted(share: LocalShare, parts: int, *, burst: int = 20, level_us: int = 0, now_us: int = NOW_US) -> int:
    (demand,) = demands(rpm=60, burst=burst)
    count = 0
    while share.missing_us(demand, demand.cost_us, parts, level_us, now_us) == 0 and count < 100:
        share.spend(demand, demand.cost_us, parts, level_us, now_us)
        count += 1
    return count


def test_parts_add_up_to_the_limit() -> None:
    """Of four processes each lets a quarter of the burst through, and later a quarter of the rate."""
    share = LocalShare()
    assert _granted(share, 4) == 5
    assert _granted(share, 4, now_us=NOW_US + 8 * SECOND_US) == 2


def test_one_request_always_fits() -> None:
    """However many parts there are, an untouched bucket lets one through."""
    share = LocalShare()
    (demand,) = demands(rpm=60, burst=1)
    assert share.missing_us(demand, demand.cost_us, 100, 0, NOW_US) == 0
    share.spend(demand, demand.cost_us, 100, 0, NOW_US)
    assert share.missing_us(demand, demand.cost_us, 100, 0, NOW_US) == 100 * SECOND_US


def test_it_begins_from_what_is_known() -> None:
    """An outage of a moment is no second burst: of a shared bucket with 4 left, half of that."""
    (demand,) = demands(rpm=60, burst=20)
    assert _granted(LocalShare(), 2, level_us=NOW_US + demand.capacity - 4 * SECOND_US) == 2


def test_what_was_let_through_is_owed_once() -> None:
    """Redis is told what time has not given back meanwhile."""
    share = LocalShare()
    (demand,) = demands(rpm=60, burst=20)
    assert _granted(share, 2) == 10
    assert share.pay(demand, NOW_US + 3 * SECOND_US) == 7 * SECOND_US
    assert share.pay(demand, NOW_US + 3 * SECOND_US) == 0


def test_what_was_not_used_comes_back() -> None:
    """A true-up gives back to the part what it had taken of it, and takes what was used beyond."""
    share = LocalShare()
    (demand,) = demands(rpm=60, burst=20)
    assert _granted(share, 2) == 10
    share.adjust(demand, 2 * SECOND_US, 2, NOW_US)
    assert _granted(share, 2) == 2
    share.adjust(demand, -5 * SECOND_US, 2, NOW_US)
    assert share.missing_us(demand, demand.cost_us, 2, 0, NOW_US) == 12 * SECOND_US
    assert share.pay(demand, NOW_US) == 15 * SECOND_US
