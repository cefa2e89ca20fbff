"""Waiting before a retry, and the bucket that bounds retries to an origin."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securellm.upstream.retry import BUCKET_TOKENS, MAX_WAIT_S, RetryBudget, wait_before_retry_s


@pytest.mark.parametrize(("retry", "low_s", "high_s"), [(1, 0.25, 0.5), (2, 0.5, 1), (3, 1, 2), (9, 4, 8)])
def test_waits_double_and_are_spread(retry, low_s, high_s):
    """Each wait lies in the upper half of a doubling interval, 8 s at most."""
    assert wait_before_retry_s(retry, spread=0.0, retry_after_s=None) == low_s
    assert wait_before_retry_s(retry, spread=0.999999, retry_after_s=None) == pytest.approx(high_s, rel=1e-3)


@given(st.integers(1, 20), st.floats(0, 1, exclude_max=True), st.floats(0, 60))
def test_retry_after_is_a_lower_bound(retry, spread, retry_after_s):
    """A provider that names a time is not asked before it."""
    wait_s = wait_before_retry_s(retry, spread=spread, retry_after_s=retry_after_s)
    assert wait_s is not None
    assert retry_after_s <= wait_s <= max(MAX_WAIT_S, retry_after_s)


def test_a_long_retry_after_is_left_to_the_caller():
    """More than a minute is not waited for."""
    assert wait_before_retry_s(1, spread=0.5, retry_after_s=61) is None


def test_the_bucket_runs_dry_and_fills_with_successes():
    """Ten retries without a success, then one for every ten successes."""
    budget = RetryBudget()
    assert [budget.take() for _ in range(12)] == [True] * int(BUCKET_TOKENS) + [False] * 2
    assert budget.statistics().withheld == 2
    for _ in range(11):
        budget.succeeded()
    assert [budget.take(), budget.take()] == [True, False]
