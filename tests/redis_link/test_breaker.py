"""The breaker of Redis: what opens it, when it is tried again, what closes it."""

import pytest

from securellm.redis_link.breaker import LATE_AT_MOST, Breaker, BreakerState


def test_a_lost_connection_opens_it_and_is_tried_again_at_once() -> None:
    """One failure is enough, and the first probe has no delay."""
    breaker = Breaker()
    assert breaker.failed(5.0, "no connection")
    assert not breaker.closed
    assert breaker.retry_s == 5.0
    assert breaker.statistics().error == "no connection"


def test_probes_come_rarer_and_at_least_every_second() -> None:
    """0.1 s after the first failed probe, doubling, never over a second: recovery takes less than five."""
    breaker = Breaker()
    breaker.failed(0.0, "no connection")
    delays = []
    for _ in range(6):
        breaker.probing()
        breaker.failed(10.0, "no connection")
        delays.append(breaker.retry_s - 10.0)
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    assert breaker.statistics().opened == 1


def test_a_probe_in_time_closes_it() -> None:
    """Then there is no error left, and the delay begins anew."""
    breaker = Breaker()
    breaker.failed(0.0, "no connection")
    breaker.probing()
    assert breaker.statistics().state is BreakerState.HALF_OPEN
    breaker.recovered()
    assert breaker.closed
    assert breaker.statistics().error is None
    breaker.failed(7.0, "no connection")
    assert breaker.retry_s == 7.0


def test_silence_opens_it_at_once() -> None:
    """Who waits in vain while nothing comes at all is the last one who waits."""
    breaker = Breaker()
    assert breaker.late(1.0, "no answer", silent=True)
    assert not breaker.closed


def test_slowness_opens_it_after_some() -> None:
    """Late answers in a row open it; one in time between them begins the count anew."""
    breaker = Breaker()
    for _ in range(LATE_AT_MOST - 1):
        assert not breaker.late(1.0, "no answer", silent=False)
    breaker.answered()
    for _ in range(LATE_AT_MOST - 1):
        assert not breaker.late(1.0, "no answer", silent=False)
    assert breaker.late(1.0, "no answer", silent=False)
    assert breaker.statistics().failures == 2 * LATE_AT_MOST - 1


def test_who_comes_late_to_an_open_one_changes_nothing() -> None:
    """Many wait at the time it opens; it has opened once."""
    breaker = Breaker()
    breaker.late(1.0, "no answer", silent=True)
    assert not breaker.late(1.0, "no answer", silent=True)
    assert breaker.statistics().opened == 1
