"""Rates as quotas: what they are rounded to, and what makes no bucket at all."""

import pytest

from securellm.config.tree import Rates
from securellm.limits.quota import LONGEST_US, MINUTE_US, Measure, Quota, Scope, demand_of, demands_of


def _quotas(rates: Rates) -> dict[Measure, Quota]:
    return {demand.measure: demand.quota for demand in demands_of(Scope.KEY, "k", rates)}


@pytest.mark.parametrize("rates", [Rates(), Rates(0, None, 0, 0), Rates(burst=5)])
def test_no_rate_is_no_demand(rates: Rates) -> None:
    """None and 0 bound nothing, nor does a burst without a rate."""
    assert demands_of(Scope.KEY, "k", rates) == ()


@pytest.mark.parametrize("rpm", [1, 7, 50, 60, 3500, 9999, 10_000, 1_000_000])
def test_an_interval_is_whole_microseconds(rpm: int) -> None:
    """A request costs the same always, never less than its share of a minute and less than a microsecond more."""
    quota = _quotas(Rates(rpm, 10))[Measure.REQUESTS]
    assert quota.cost_us(10) == 10 * quota.cost_us(1) == quota.capacity_us
    assert 0 <= quota.cost_us(1) * rpm - MINUTE_US < rpm


@pytest.mark.parametrize(("rpm", "burst"), [(1, 1), (60, 1), (61, 2), (3500, 59)])
def test_the_burst_is_a_second_s_worth(rpm: int, burst: int) -> None:
    """Without a burst so many are granted at once as a second brings, and one at least."""
    assert _quotas(Rates(rpm))[Measure.REQUESTS].burst == burst


def test_tokens_have_a_minute_at_once() -> None:
    """A long prompt fits into a rate by the minute, whatever the burst of requests is."""
    assert _quotas(Rates(60, 2, 90_001))[Measure.TOKENS] == Quota(90_001, MINUTE_US, 90_001)


@pytest.mark.parametrize("tokens", [1, 7, 100, 99_999])
def test_tokens_round_against_the_caller_by_less_than_a_microsecond(tokens: int) -> None:
    """Taking rounds up, giving back down, so that no sequence of both makes tokens."""
    quota = _quotas(Rates(tpm=7_000_000))[Measure.TOKENS]
    assert 0 <= quota.cost_us(tokens) - quota.returned_us(tokens) <= 1
    assert quota.cost_us(tokens) * 7_000_000 >= tokens * MINUTE_US >= quota.returned_us(tokens) * 7_000_000


def test_a_huge_burst_stays_in_range() -> None:
    """A burst that would take longer than 71 years to come back is cut to that."""
    quota = _quotas(Rates(1, 10**15))[Measure.REQUESTS]
    assert LONGEST_US - MINUTE_US < quota.capacity_us <= LONGEST_US


def test_what_is_left() -> None:
    """`remaining` is what would be granted, `reset_us` the time until the bucket is full; neither is ever negative."""
    quota = _quotas(Rates(60, 10))[Measure.REQUESTS]
    now_us = 10**15
    assert [quota.remaining(now_us + ahead_us, now_us) for ahead_us in (-5, 0, 1, 1_000_000, 10**7, 10**9)] == [
        10, 10, 9, 9, 0, 0,
    ]  # fmt: skip
    assert [quota.reset_us(now_us + ahead_us, now_us) for ahead_us in (-5, 0, 7)] == [0, 0, 7]
    at_once = _quotas(Rates(concurrent=3))[Measure.CONCURRENT]
    assert [at_once.remaining(level, now_us) for level in (0, 2, 3, 9)] == [3, 1, 0, 0]
    assert at_once.reset_us(2, now_us) == 0


def test_names_of_buckets_do_not_meet() -> None:
    """Subjects with separators in them, odd characters, and the same name in another scope have other buckets."""
    quota = Quota(1, MINUTE_US, 1)
    made = [
        demand_of(scope, subject, measure, quota).bucket
        for scope in Scope
        for measure in Measure
        for subject in ("a", "a\0", "0\0a", "\0", "", "é", "\ud800")
    ]
    assert len(set(made)) == len(made)
    assert {len(bucket) for bucket in made} == {16}
