"""`x-ratelimit-*` of the buckets that a request has taken from: the definition. Pure.

Source: platform.openai.com, guides/rate-limits, "Rate limits in headers" (2026-11). `limit` is the rate in a minute as
it is configured, `remaining` what would be granted at this moment, which the burst bounds, and `reset` the time until
the bucket is full, written as Go writes a duration: `17ms`, `1s`, `6m0s`.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from securellm.chat import Headers

REQUESTS, TOKENS, CONCURRENT = range(3)  # the measures, as `gcra_py.py` numbers them


class Quota(Protocol):
    """What a bucket grants, and how it stands."""

    @property
    def burst(self) -> int:
        """The most at once; the compiled twin reads it."""

    def remaining(self, level: int, now_us: int) -> int:
        """How many would be granted now of a bucket at `level`."""

    def reset_us(self, level: int, now_us: int) -> int:
        """How long until a bucket at `level` is full."""


class Bucket(Protocol):
    """What is taken from. The compiled twin reads it as a tuple, in the order of `limits.quota.Demand`."""

    @property
    def measure(self) -> int:
        """What is counted."""

    @property
    def capacity(self) -> int:
        """Of the full bucket in microseconds."""

    @property
    def limit(self) -> int:
        """So many are granted in a period."""

    @property
    def period_us(self) -> int:
        """See `limit`."""

    @property
    def quota(self) -> Quota:
        """The seventh."""


class Shown(NamedTuple):
    """How a bucket stands."""

    measure: int
    remaining: int
    limit: int
    reset_us: int


def headers_after(taken: Sequence[tuple[Sequence[Bucket], Sequence[int], int, int]]) -> Headers:
    """The headers of the buckets with the least left, of (buckets, what they are at, tokens, when) that were taken."""
    return limit_headers(
        Shown(bucket.measure, bucket.quota.remaining(level, now_us), bucket.limit, bucket.quota.reset_us(level, now_us))
        for buckets, levels, _, now_us in taken
        for bucket, level in zip(buckets, levels, strict=True)
        if bucket.measure != CONCURRENT
    )


def limit_headers(buckets: Iterable[Shown]) -> Headers:
    """The headers of the buckets with the least left; what is counted at one time has none."""
    requests: Shown | None = None
    tokens: Shown | None = None
    for shown in buckets:
        if shown.measure == REQUESTS:
            if requests is None or shown < requests:
                requests = shown
        elif shown.measure == TOKENS and (tokens is None or shown < tokens):
            tokens = shown
    headers: Headers = []
    if requests is not None:
        headers += (
            (b"x-ratelimit-limit-requests", b"%d" % requests.limit),
            (b"x-ratelimit-remaining-requests", b"%d" % requests.remaining),
            (b"x-ratelimit-reset-requests", encode_duration(requests.reset_us)),
        )
    if tokens is not None:
        headers += (
            (b"x-ratelimit-limit-tokens", b"%d" % tokens.limit),
            (b"x-ratelimit-remaining-tokens", b"%d" % tokens.remaining),
            (b"x-ratelimit-reset-tokens", encode_duration(tokens.reset_us)),
        )
    return headers


def encode_duration(duration_us: int) -> bytes:
    """A duration as Go prints it, in milliseconds, rounded up."""
    duration_ms = -(-duration_us // 1000)
    if duration_ms == 0:
        return b"0s"
    if duration_ms < 1000:
        return b"%dms" % duration_ms
    seconds, milliseconds = divmod(duration_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = (b".%03d" % milliseconds).rstrip(b"0") if milliseconds else b""
    text = b"%d%ss" % (seconds, fraction)
    if hours:
        return b"%dh%dm%s" % (hours, minutes, text)
    return b"%dm%s" % (minutes, text) if minutes else text
