"""What one process holds of the places that machines share: nothing is used that may be another's already."""

from securellm.limits.places import KEPT_US, Places
from securellm.limits.quota import Measure, Quota, Scope, demand_of

CAPACITY = 4
NOW_US = 1_000_000


def places() -> Places:
    """Of a limit of four requests at one time; none is held."""
    return Places(demand_of(Scope.KEY, "k", Measure.CONCURRENT, Quota(CAPACITY, 0, CAPACITY)))


def test_what_is_on_its_way_back_is_not_used():
    """A free place that Redis is told of as free is not used between the telling and the answer."""
    held = places()
    held.answered(CAPACITY, CAPACITY, 0, NOW_US)
    held.used = 1
    assert held.has_room()
    assert held.ask(NOW_US + KEPT_US + 1) == (1, 1)
    assert not held.has_room()


def test_a_free_place_is_kept_for_a_moment():
    """Whoever asks again soon needs no Redis."""
    held = places()
    held.answered(CAPACITY, CAPACITY, 0, NOW_US)
    assert held.ask(NOW_US + KEPT_US // 2) == (0, CAPACITY)
    assert held.has_room()
