"""`x-ratelimit-*`: how far a caller is from its limits, in OpenAI's names and formats. Pure.

Source: platform.openai.com, guides/rate-limits, "Rate limits in headers" (2026-11). `limit` is the rate in a minute as
it is configured, `remaining` what would be granted at this moment, which the burst bounds, and `reset` the time until
the bucket is full, written as Go writes a duration: `17ms`, `1s`, `6m0s`.
"""

from collections.abc import Iterable
from typing import NamedTuple

from securellm.chat import Headers
from securellm.limits.quota import Demand, Denied, Measure

_REQUESTS, _TOKENS = Measure.REQUESTS, Measure.TOKENS  # an enum's members are slow to look up


class Shown(NamedTuple):
    """How a bucket stands."""

    measure: Measure
    remaining: int
    limit: int
    reset_us: int

    @classmethod
    def after(cls, demand: Demand, level: int, now_us: int) -> "Shown":
        """The bucket of which something was taken."""
        quota = demand.quota
        return cls(demand.measure, quota.remaining(level, now_us), quota.limit, quota.reset_us(level, now_us))

    @classmethod
    def refusing(cls, refusal: Denied) -> "Shown":
        """The bucket that refused."""
        demand = refusal.demand
        return cls(demand.measure, refusal.remaining, demand.quota.limit, refusal.reset_us)


def limit_headers(buckets: Iterable[Shown]) -> Headers:
    """The headers of the buckets with the least left; what is counted at one time has none."""
    requests: Shown | None = None
    tokens: Shown | None = None
    for shown in buckets:
        if shown.measure is _REQUESTS:
            if requests is None or shown < requests:
                requests = shown
        elif shown.measure is _TOKENS and (tokens is None or shown < tokens):
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
