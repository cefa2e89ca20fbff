"""The side door: takes the settlement of every request and does the bookkeeping. Never waits, never fails a request.

Bookkeepers subscribe; each is called once for each settlement, in the order of subscription. One that raises is
logged and the others go on. This version keeps metrics and an operational log line; it writes no audit record.
"""

import logging
from collections.abc import Callable

import msgspec

from securellm.chat import Receipt, Settlement

log = logging.getLogger(__name__)


class LedgerStatistics(msgspec.Struct, frozen=True):
    """How many settlements were taken, and how often a bookkeeper failed."""

    settled: int
    failures: int


class Kept:
    """A receipt for bookkeeping that is done when `settle` returns."""

    async def durable(self) -> None:
        """There is nothing to wait for."""


KEPT = Kept()


class Ledger:
    """Hands settlements to whoever keeps books."""

    def __init__(self) -> None:
        self._bookkeepers: list[Callable[[Settlement], None]] = []
        self._settled = 0
        self._failures = 0

    def subscribe(self, bookkeeper: Callable[[Settlement], None]) -> None:
        """Call `bookkeeper` for every settlement from now on; it must not block."""
        self._bookkeepers.append(bookkeeper)

    def settle(self, settlement: Settlement) -> Receipt:
        """Take a settlement. Called exactly once for each request that the gateway knows of."""
        self._settled += 1
        for bookkeeper in self._bookkeepers:
            try:
                bookkeeper(settlement)
            except Exception:
                self._failures += 1
                log.exception("a bookkeeper failed", extra={"request_id": settlement.request_id})
        return KEPT

    def statistics(self) -> LedgerStatistics:
        """The figures now."""
        return LedgerStatistics(self._settled, self._failures)
