"""The breaker: states, one probe at a time, and that every way of ending a request leaves it usable."""

from hypothesis import given
from hypothesis import strategies as st

from securellm.upstream.breaker import Allowed, Breaker, BreakerState, Refused


def make_breaker() -> Breaker:
    return Breaker(failure_threshold=3, success_threshold=2, timeout_s=60)


def fail(breaker: Breaker, now_s: float) -> None:
    leave = breaker.ask_leave(now_s)
    assert isinstance(leave, Allowed)
    breaker.failed(leave, now_s, "connect_failed")


def test_opens_after_failures_in_a_row():
    """The third failure in a row opens; until then every request goes through."""
    breaker = make_breaker()
    for _ in range(2):
        fail(breaker, 0)
    assert breaker.would_allow(0)
    fail(breaker, 0)
    assert breaker.ask_leave(1) == Refused(retry_after_s=59)
    assert not breaker.would_allow(1)


def test_a_success_starts_the_count_again():
    """Failures that are not in a row do not open."""
    breaker = make_breaker()
    for _ in range(5):
        fail(breaker, 0)
        leave = breaker.ask_leave(0)
        assert isinstance(leave, Allowed)
        breaker.succeeded(leave)
    assert breaker.statistics().state is BreakerState.CLOSED


def test_one_probe_at_a_time():
    """Half-open lets a single request through; the others are refused until it has ended."""
    breaker = make_breaker()
    for _ in range(3):
        fail(breaker, 0)
    probe = breaker.ask_leave(60)
    assert probe == Allowed(probe=True)
    assert isinstance(breaker.ask_leave(60), Refused)
    assert not breaker.would_allow(60)
    breaker.abandoned(probe)
    assert breaker.ask_leave(60) == Allowed(probe=True)


def test_probes_close_it_again():
    """Two probes that succeed close; one that fails opens for the whole time again."""
    breaker = make_breaker()
    for _ in range(3):
        fail(breaker, 0)
    fail(breaker, 60)
    assert isinstance(breaker.ask_leave(119), Refused)
    for _ in range(2):
        leave = breaker.ask_leave(120)
        assert leave == Allowed(probe=True)
        breaker.succeeded(leave)
    assert breaker.statistics().state is BreakerState.CLOSED
    assert breaker.ask_leave(120) == Allowed(probe=False)


def test_a_straggler_does_not_decide():
    """A request from before the breaker opened neither closes it nor opens it afresh when it ends late."""
    breaker = make_breaker()
    late = breaker.ask_leave(0)
    assert isinstance(late, Allowed)
    for _ in range(3):
        fail(breaker, 0)
    breaker.succeeded(late)
    assert breaker.statistics().state is BreakerState.OPEN
    probe = breaker.ask_leave(60)
    assert probe == Allowed(probe=True)
    breaker.failed(late, 70, "http_500")
    assert breaker.statistics().state is BreakerState.HALF_OPEN


@given(st.lists(st.tuples(st.sampled_from(["ok", "fail", "gone", "hold"]), st.floats(0, 100)), max_size=60))
def test_never_stuck(steps):
    """Whatever happened, once nobody holds a leave a request goes through after the timeout."""
    breaker, now_s, held = make_breaker(), 0.0, []
    for what, passed_s in steps:
        now_s += passed_s
        leave = breaker.ask_leave(now_s)
        if isinstance(leave, Refused):
            assert leave.retry_after_s > 0
        elif what == "ok":
            breaker.succeeded(leave)
        elif what == "fail":
            breaker.failed(leave, now_s, "http_500")
        elif what == "gone":
            breaker.abandoned(leave)
        else:
            held.append(leave)
    for leave in held:
        breaker.abandoned(leave)
    assert isinstance(breaker.ask_leave(now_s + 60), Allowed)
