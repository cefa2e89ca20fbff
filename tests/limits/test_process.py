"""Limits in the process: what is kept stays bounded, and what is forgotten was full."""

from rig.limit_stores import NOW_US, demands
from securellm.limits.process import ProcessStore
from securellm.limits.quota import Denied

SECOND_US = 1_000_000


def test_full_buckets_are_forgotten() -> None:
    """A stream of new names does not grow what is kept beyond those that are not full."""
    store = ProcessStore()
    for number in range(5000):
        store.take(demands(f"key {number}", rpm=60, burst=2), 0, NOW_US + number * SECOND_US // 10)
    assert store.statistics().buckets < 30
    assert store.statistics().forgotten == 0


def test_a_bucket_that_is_not_full_is_kept() -> None:
    """However many others come and go, one that is in debt stays in debt."""
    store, asked = ProcessStore(), demands("debtor", tpm=60)
    levels = store.take(asked, 60, NOW_US)
    assert isinstance(levels, tuple)
    store.give_back(asked, levels, -600, NOW_US)
    for number in range(3000):
        store.take(demands(f"key {number}", rpm=6000, burst=2), 0, NOW_US + number * SECOND_US // 10)
    assert isinstance(store.take(asked, 1, NOW_US + 300 * SECOND_US), Denied)


def test_the_number_of_buckets_is_bounded() -> None:
    """Past the bound one bucket goes for each that comes, the one nearest to full of the oldest, and is counted."""
    store, debtor = ProcessStore(max_buckets=10), demands("debtor", tpm=60)
    assert isinstance(store.take(debtor, 60, NOW_US), tuple)
    for number in range(50):
        store.take(demands(f"key {number}", rpm=60, burst=2), 0, NOW_US)
    assert store.statistics().buckets == 10
    assert store.statistics().forgotten == 41
    assert isinstance(store.take(debtor, 1, NOW_US), Denied)


def test_ended_requests_are_forgotten() -> None:
    """A count of requests at one time that is back at nothing is not kept."""
    store, asked = ProcessStore(), demands(concurrent=5)
    for _ in range(3):
        store.take(asked, 0, NOW_US)
    for _ in range(4):
        store.give_back(asked, (0,), 0, NOW_US)
    assert store.statistics().buckets == 0
