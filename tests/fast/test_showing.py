"""The headers of the limits: the compiled twin writes what the definition does, of any buckets."""

from types import ModuleType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from securellm._fast.showing_py import encode_duration
from securellm.config.tree import Rates
from securellm.limits.quota import Demand, Measure, Quota, Scope, demand_of, demands_of

TWIN = "showing"
NOW_US = 1_763_800_000_000_000
Taken = list[tuple[tuple[Demand, ...], tuple[int, ...], int, int]]

rates = st.integers(0, 3000) | st.sampled_from([60, 600, 10**6, 10**12, 2**51, 2**63, 10**30])
near = st.integers(-(10**6), 10**8) | st.integers(-(2**53), 2**53) | st.sampled_from([0, 1, 999, 1000, 10**70])


@st.composite
def takings(draw: st.DrawFn) -> Taken:
    """What a request may have taken: of its own buckets, then of its provider's."""
    taken: Taken = []
    for scope in (Scope.KEY, Scope.PROVIDER):
        made = Rates(rpm=draw(rates), burst=draw(st.integers(0, 100)), tpm=draw(rates), concurrent=draw(rates))
        demands = demands_of(scope, "x", made) + demands_of(Scope.MODEL, "m", Rates(rpm=draw(rates)))
        levels = tuple(NOW_US + draw(near) for _ in demands)
        taken.append((demands, levels, draw(st.integers(0, 9)), NOW_US + draw(st.sampled_from([0, 0, 0, 7, -NOW_US]))))
    return taken


@pytest.mark.compiled
@given(taken=takings())
@example(taken=[])
def test_both_show_the_same(pure: ModuleType, compiled: ModuleType, taken: Taken) -> None:
    """The same headers in the same order, of buckets that are full, empty, in debt, and beyond any number."""
    assert compiled.headers_after(taken) == pure.headers_after(taken)


@pytest.mark.compiled
@given(reset_us=st.integers(0, 10**10) | st.integers(0, 2**53))
@example(reset_us=0)
@example(reset_us=999_001)
@example(reset_us=1_200_000)
@example(reset_us=59_999_001)
@example(reset_us=3_600_000_000)
@example(reset_us=90_061_050_000)
def test_both_write_durations_alike(compiled: ModuleType, reset_us: int) -> None:
    """Milliseconds rounded up, as Go writes them."""
    demand = demand_of(Scope.KEY, "x", Measure.REQUESTS, Quota(60, 60_000_000, 5))
    shown = dict(compiled.headers_after([((demand,), (NOW_US + reset_us,), 0, NOW_US)]))
    assert shown[b"x-ratelimit-reset-requests"] == encode_duration(reset_us)


def test_what_no_rate_makes(twin: ModuleType) -> None:
    """A bucket without a period is a count, and as many levels as demands are needed."""
    demand = demand_of(Scope.KEY, "x", Measure.REQUESTS, Quota(60, 0, 5))
    assert dict(twin.headers_after([((demand,), (2,), 0, NOW_US)]))[b"x-ratelimit-remaining-requests"] == b"3"
    with pytest.raises(ValueError, match="zip"):
        twin.headers_after([((demand,), (), 0, NOW_US)])
