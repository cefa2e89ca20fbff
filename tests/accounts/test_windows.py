"""The windows of time in which budgets are spent."""

import datetime

from hypothesis import given
from hypothesis import strategies as st

from securellm.accounts.bounds import Budget
from securellm.accounts.windows import BUCKETS, DAY_S, FOREVER_S, Window, bucket_of, counts, window_of

moments_s = st.integers(0, 2**32)


def _budget(window: str, rolling_s: int = 1000) -> Budget:
    return Budget(f"key:k:{window}", "key", "k", 1, None, window, rolling_s)


@given(now_s=moments_s)
def test_months_are_those_of_the_calendar_in_utc(now_s: int) -> None:
    """A month goes from its first second to that of the next one."""
    now = datetime.datetime.fromtimestamp(now_s, datetime.UTC)
    start = now.replace(day=1, hour=0, minute=0, second=0)
    end = (start + datetime.timedelta(days=32)).replace(day=1)
    assert window_of(_budget("month"), now_s) == Window(int(start.timestamp()), int(end.timestamp()))


@given(now_s=moments_s)
def test_days_are_those_of_utc(now_s: int) -> None:
    """A day is 86,400 seconds from midnight, and what is spent in it is kept under it."""
    window = window_of(_budget("day"), now_s)
    assert window.start_s <= now_s < window.end_s == window.start_s + DAY_S
    assert window.start_s % DAY_S == 0
    assert bucket_of(_budget("day"), window, now_s) == window


@given(spent_s=moments_s, rolling_s=st.integers(60, 400 * DAY_S), later_s=st.integers(0, 500 * DAY_S))
def test_a_rolling_window_counts_never_too_short_and_a_bucket_too_long_at_most(
    spent_s: int, rolling_s: int, later_s: int
) -> None:
    """What was spent counts for the length of the window, and no longer than a hundredth of it (or a second) more."""
    budget = _budget("rolling", rolling_s)
    window = window_of(budget, spent_s)
    assert window == Window(0, FOREVER_S)
    counted = counts(budget, window, bucket_of(budget, window, spent_s), spent_s + later_s)
    if later_s <= rolling_s:
        assert counted
    if later_s >= rolling_s + rolling_s / BUCKETS + 1:
        assert not counted
