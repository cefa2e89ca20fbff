"""`x-ratelimit-*` in OpenAI's formats."""

import pytest

from securellm._fast.showing_py import Shown, encode_duration, limit_headers
from securellm.limits.quota import Measure


@pytest.mark.parametrize(
    ("duration_us", "text"),
    [
        (0, b"0s"),
        (1, b"1ms"),
        (17_000, b"17ms"),
        (999_001, b"1s"),
        (1_000_000, b"1s"),
        (1_200_000, b"1.2s"),
        (59_963_000, b"59.963s"),
        (60_000_000, b"1m0s"),
        (360_000_000, b"6m0s"),
        (3_600_000_000, b"1h0m0s"),
        (90_061_500_000, b"25h1m1.5s"),
    ],
)
def test_durations_are_written_as_go_does(duration_us: int, text: bytes) -> None:
    """Milliseconds, rounded up, in the words that OpenAI's clients parse."""
    assert encode_duration(duration_us) == text


def test_the_tightest_is_shown() -> None:
    """The least left wins; of equals the lower limit, then the longer way to full does not matter."""
    shown = [
        Shown(Measure.TOKENS, 10, 100, 5),
        Shown(Measure.REQUESTS, 3, 60, 1000),
        Shown(Measure.REQUESTS, 2, 600, 2000),
        Shown(Measure.CONCURRENT, 0, 1, 0),
    ]
    assert limit_headers(shown) == [
        (b"x-ratelimit-limit-requests", b"600"),
        (b"x-ratelimit-remaining-requests", b"2"),
        (b"x-ratelimit-reset-requests", b"2ms"),
        (b"x-ratelimit-limit-tokens", b"100"),
        (b"x-ratelimit-remaining-tokens", b"10"),
        (b"x-ratelimit-reset-tokens", b"1ms"),
    ]
    assert limit_headers([]) == []
