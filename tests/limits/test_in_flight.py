"""The budget of bytes in flight (guarantee 47)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securellm.errors import BytesInFlight
from securellm.limits.in_flight import InFlightBytes


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 400), st.booleans()), max_size=60))
def test_the_sum_is_bounded_and_comes_back(steps):
    """Whatever grows and ends, the sum never passes the bound, and is zero when all have ended."""
    budget = InFlightBytes(1000)
    charges = [budget.open_charge() for _ in range(6)]
    sizes = [0] * 6
    for index, size_bytes, end in steps:
        if end:
            charges[index].release()
            sizes[index] = 0
        else:
            fits = sum(sizes) - sizes[index] + max(size_bytes, sizes[index]) <= 1000
            if fits:
                charges[index].grow_to(size_bytes)
                sizes[index] = max(size_bytes, sizes[index])
            else:
                with pytest.raises(BytesInFlight) as refused:
                    charges[index].grow_to(size_bytes)
                assert refused.value.retry_after_s == 1.0
        assert budget.statistics().charged_bytes == sum(sizes) <= 1000
    for charge in charges:
        charge.release()
        charge.release()
    assert budget.statistics().charged_bytes == 0


def test_a_refused_charge_takes_nothing():
    """What did not fit is not charged in part."""
    budget = InFlightBytes(10)
    charge = budget.open_charge()
    charge.grow_to(8)
    with pytest.raises(BytesInFlight):
        charge.grow_to(11)
    assert budget.statistics().charged_bytes == 8
