"""The side door: takes what happens to each request and does the bookkeeping. Never fails a request that was let in.

A request has a page from its admission to its settlement. What is written there goes to the audit log, whose receipts
say when it is on disk; settling itself waits for nothing and cannot be lost to cancellation, because the page's room in
the log was reserved at admission. Bookkeepers (metrics, the operational log) subscribe: each is called once for each
settlement, in the order of subscription; one that raises is logged and the others go on.
"""

import logging
from collections.abc import Callable, Sequence

import msgspec

from securellm._fast import lines
from securellm.audit.entries import (
    MAX_TEXT_CHARS,
    NO_HASHES,
    Cost,
    Hashes,
    attempt_costs,
    attempt_record,
    closing_record,
    event_record,
    intent_record,
)
from securellm.audit.log import AuditLog, AuditStatistics, Reservation
from securellm.chat import Attempt, Call, Caller, Receipt, Settlement, Status, Usage
from securellm.routing import Target

log = logging.getLogger(__name__)


class Tariff(msgspec.Struct, frozen=True):
    """What is written beside a request and what it is charged by: the epoch of its configuration, and its prices."""

    epoch: str
    price_table: str  # SHA-256
    cost: Cost


class Priced(msgspec.Struct, frozen=True, gc=False):
    """What a request cost at a moment, by attempt and in all; None where nothing was used."""

    costs_nusd: tuple[int | None, ...]
    cost_nusd: int | None
    at_us: int


class LedgerStatistics(msgspec.Struct, frozen=True):
    """How many settlements were taken, how often a bookkeeper failed, and the audit log's figures (None: it is off)."""

    settled: int
    failures: int
    audit: AuditStatistics | None


class Kept:
    """A receipt for what needs no waiting."""

    async def durable(self) -> None:
        """There is nothing to wait for."""

    def let_go(self) -> None:
        """Nobody waits."""


KEPT = Kept()
_SUCCESS = Status.SUCCESS  # an enum's members are slow to look up

_Intent = tuple[Call, Caller, str | None, bool, str | None, str | None, str, int]  # what `intent_record` is given


class Page(msgspec.Struct, eq=False):
    """The place of one request in the books, from `Ledger.open_page` to its settlement."""

    _reservation: Reservation | None
    tariff: Tariff
    _now_us: Callable[[], int]
    _intent: _Intent | None = None  # once it is written
    _receipt: Receipt = KEPT

    def intend(self, call: Call, caller: Caller, model: str | None, *, stream: bool, target: Target | None) -> Receipt:
        """Write the request's intent, once; `target` is who will be asked first, None when nobody will be."""
        reservation = self._reservation
        if reservation is None or self._intent is not None:
            return self._receipt
        provider, asked = (target.provider.name, target.model) if target is not None else (None, None)
        intent = self._intent = (call, caller, model, stream, provider, asked, self.tariff.epoch, self._now_us())
        body = lines.intent_body(intent_record, *intent) if not reservation.lost else None
        if body is not None:
            self._receipt = reservation.append_line("request_received", call.request_id, body)
        else:
            self._receipt = reservation.append(intent_record(*intent))
        return self._receipt

    def asking(self, target: Target, number: int) -> Receipt:
        """A provider is about to be asked, as attempt `number`; it may be, when the receipt is durable."""
        if self._reservation is None or self._intent is None:
            return KEPT
        intended = self._intent[4:6] == (target.provider.name, target.model) and len(target.model) <= MAX_TEXT_CHARS
        if number > 1 or not intended:
            record = attempt_record(
                intent_record(*self._intent),
                number=number,
                provider=target.provider.name,
                model=target.model,
                now_us=self._now_us(),
            )
            self._receipt = self._reservation.append(record)
        return self._receipt

    def close(self, settlement: Settlement, priced: Priced, hashes: Hashes) -> Receipt:
        """Write the closing record; nothing follows it."""
        reservation = self._reservation
        if reservation is None:
            return KEPT
        facts = settlement, priced.costs_nusd, self.tariff.price_table, hashes, priced.at_us
        body = lines.closing_body(closing_record, *facts) if not reservation.lost else None
        if body is not None:
            sent = settlement.outcome.status is _SUCCESS
            kind = "response_sent" if sent else "request_failed"
            receipt = reservation.append_line(kind, settlement.request_id, body)
        else:
            receipt = reservation.append(closing_record(*facts))
        reservation.close()
        return receipt


class Ledger:
    """Keeps the books of all requests of the process."""

    def __init__(self, audit: AuditLog | None, *, tariff: Tariff, now_us: Callable[[], int]) -> None:
        self.tariff = tariff  # of what is no request's; a reload sets another
        self._audit = audit
        self._now_us = now_us
        self._bookkeepers: list[Callable[[Settlement], None]] = []
        self._settled = 0
        self._failures = 0

    def subscribe(self, bookkeeper: Callable[[Settlement], None]) -> None:
        """Call `bookkeeper` for every settlement from now on; it must not block."""
        self._bookkeepers.append(bookkeeper)

    def open_page(self, tariff: Tariff | None = None) -> Page:
        """A request's place in the books. Raises AuditUnavailable when the log takes no more records."""
        return Page(self._audit.reserve() if self._audit is not None else None, tariff or self.tariff, self._now_us)

    def price(self, page: Page, attempts: Sequence[Attempt], usage: Usage | None) -> Priced:
        """What a request costs now, by the prices under which it began; `usage` is the answer's."""
        at_us = self._now_us()
        costs_nusd = attempt_costs(attempts, usage, page.tariff.cost, at_us)
        if len(costs_nusd) == 1:
            return Priced(costs_nusd, costs_nusd[0], at_us)
        cost_nusd: int | None = None
        for spent_nusd in costs_nusd:
            if spent_nusd is not None:
                cost_nusd = spent_nusd + (cost_nusd or 0)
        return Priced(costs_nusd, cost_nusd, at_us)

    def settle(self, page: Page, settlement: Settlement, priced: Priced, hashes: Hashes = NO_HASHES) -> Receipt:
        """Take a settlement. Called exactly once for each page."""
        receipt = page.close(settlement, priced, hashes)
        self.tell(settlement)
        return receipt

    def tell(self, settlement: Settlement) -> None:
        """Tell the bookkeepers, without a record: for requests whose refusal is an event or nothing."""
        self._settled += 1
        for bookkeeper in self._bookkeepers:
            try:
                bookkeeper(settlement)
            except Exception:
                self._failures += 1
                log.exception("a bookkeeper failed", extra={"request_id": settlement.request_id})

    def event(self, action: str, *, client_ip: str | None = None, detail: dict[str, str | int] | None = None) -> None:
        """Note a security event; never waited for."""
        if self._audit is not None:
            self._audit.event(
                event_record(action, epoch=self.tariff.epoch, now_us=self._now_us(), client_ip=client_ip, detail=detail)
            )

    def note(self, action: str, *, detail: dict[str, str | int]) -> Receipt:
        """Note a security event that must not be lost. Raises AuditUnavailable."""
        if self._audit is None:
            return KEPT
        reservation = self._audit.reserve()
        receipt = reservation.append(
            event_record(action, epoch=self.tariff.epoch, now_us=self._now_us(), detail=detail)
        )
        reservation.close()
        return receipt

    def statistics(self) -> LedgerStatistics:
        """The figures now."""
        audit = self._audit.statistics() if self._audit is not None else None
        return LedgerStatistics(self._settled, self._failures, audit)
