"""Windows of time in which a budget is spent: UTC days and months, and rolling ones in buckets. Pure.

A rolling window has no edges of its own. What is spent goes into buckets of a hundredth of its length, and a bucket
counts until its last second is out of the window: never too short, too long by at most one bucket.
"""

import calendar
from typing import NamedTuple

from securellm.accounts.bounds import Budget

DAY_S = 86_400
BUCKETS = 100  # of a rolling window; the bound on how much longer than the window something may count
FOREVER_S = 2**40  # when a rolling window ends


class Window(NamedTuple):
    """From a Unix second to one that is not in it any more."""

    start_s: int
    end_s: int


def window_of(budget: Budget, now_s: int) -> Window:
    """The window that a budget is in; a rolling one is for ever the same."""
    if budget.window == "rolling":
        return Window(0, FOREVER_S)
    if budget.window == "day":
        start_s = now_s - now_s % DAY_S
        return Window(start_s, start_s + DAY_S)
    months = now_s // (31 * DAY_S)  # since 1970, at least
    while _month_start_s(months + 1) <= now_s:
        months += 1
    return Window(_month_start_s(months), _month_start_s(months + 1))


def bucket_of(budget: Budget, window: Window, now_s: int) -> Window:
    """Where spending at a moment is kept: the window itself, or a bucket of the rolling one."""
    if budget.window != "rolling":
        return window
    width_s = -(-budget.rolling_s // BUCKETS)
    start_s = now_s - now_s % width_s
    return Window(start_s, start_s + width_s)


def counts(budget: Budget, window: Window, bucket: Window, now_s: int) -> bool:
    """Whether what lies in a bucket counts against the budget in that window."""
    if budget.window == "rolling":
        return bucket.end_s > now_s - budget.rolling_s
    return bucket == window


def _month_start_s(months: int) -> int:
    """The first second of the month that is so many months after January 1970."""
    return calendar.timegm((1970 + months // 12, months % 12 + 1, 1, 0, 0, 0))
