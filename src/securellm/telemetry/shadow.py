"""What limits in shadow mode would have refused, told in the log: one line a second at most, with how many there were.

Every one is counted in `securellm_rate_limited_total`; the line is for whoever tries limits out first.
"""

import logging
import time
from collections.abc import Callable

EVERY_S = 1.0
_SHOWN_CHARS = 100  # of a subject: callers choose models' names

_log = logging.getLogger("securellm.limits")


class ShadowLog:
    """Folds what would have been refused into lines. `now_s` only moves forward."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._told_s = -EVERY_S
        self._count = 0

    def tell(self, scope: str, subject: str, measure: str) -> None:
        """One request that a limit would have refused."""
        self._count += 1
        now_s = self._now_s()
        if now_s - self._told_s < EVERY_S:
            return
        _log.warning(
            "shadow: limits would have refused %d since the last such line, now %s of %s %r",
            self._count,
            measure,
            scope,
            subject[:_SHOWN_CHARS],
        )
        self._told_s, self._count = now_s, 0
