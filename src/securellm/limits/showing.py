"""`x-ratelimit-*`: how far a caller is from its limits, in OpenAI's names and formats. Pure.

Source: platform.openai.com, guides/rate-limits, "Rate limits in headers" (2026-11). `limit` is the rate in a minute as
it is configured, `remaining` what would be granted at this moment, which the burst bounds, and `reset` the time until
the bucket is full, written as Go writes a duration: `17ms`, `1s`, `6m0s`.
"""

from collections.abc import Iterable
from typing import NamedTuple

from securellm.chat import Headers
from securellm.limits.quota import Demand, Denied, Measure

_NAMES = {
    Measure.REQUESTS: (
        b"x-ratelimit-limit-requests",
        b"x-ratelimit-remaining-requests",
        b"x-ratelimit-reset-requests",
    ),
    Measure.TOKENS: (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens"),
}


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
    tightest: dict[Measure, Shown] = {}
    for shown in buckets:
        if shown.measure in _NAMES and (shown.measure not in tightest or shown < tightest[shown.measure]):
            tightest[shown.measure] = shown
    headers: Headers = []
    for measure, shown in sorted(tightest.items()):
        limit_name, remaining_name, reset_name = _NAMES[measure]
        headers += [
            (limit_name, b"%d" % shown.limit),
            (remaining_name, b"%d" % shown.remaining),
            (reset_name, encode_duration(shown.reset_us)),
        ]
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
