"""Tell the audit log what was done to the accounts, by this process or by a command beside it.

Only the gateway writes its chain, so a command leaves an event in the store, in the transaction of what it did, and the
gateway carries it over: taken, told, waited for until it is on disk, and only then forgotten. What one process has
taken no other tells, unless it took too long; a crash in between tells it twice, with the same number.
"""

import logging

import trio

from securellm.accounts.records import StoreEvent
from securellm.accounts.store import Store
from securellm.errors import AuditUnavailable, SecureLLMError
from securellm.ledger import Ledger

LOOK_S = 1.0  # between two looks; as often as the keys themselves are looked at

log = logging.getLogger("securellm.audit")


class Announcer:
    """Carries events from the store to the chain."""

    def __init__(self, store: Store, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger

    async def keep_telling(self) -> None:
        """Tell until cancelled. A store or a log that is down only delays it."""
        while True:
            try:
                await self.tell()
            except SecureLLMError as error:
                log.warning("what was done to the accounts is not in the audit log yet: %s", error.message)
            await trio.sleep(LOOK_S)

    async def tell(self) -> None:
        """Tell what there is. Raises StoreUnavailable and AuditUnavailable."""
        events = await self._store.in_thread(self._store.read_events)
        if not events:
            return
        ids = [event.id for event in events]
        try:
            receipts = [self._ledger.note(event.action, detail=_detail_of(event)) for event in events]
            for receipt in receipts:
                await receipt.durable()
        except AuditUnavailable:
            await self._store.in_thread(self._store.give_back_events, ids)
            raise
        await self._store.in_thread(self._store.forget_events, ids)


def _detail_of(event: StoreEvent) -> dict[str, str | int]:
    sort = event.action.partition("_")[0]
    subject = _SUBJECTS.get(sort, sort)
    told: dict[str, str | int] = {subject: event.subject, "event": event.id, "at_s": event.at_s, "actor": event.actor}
    if event.changed:
        told["changed"] = event.changed
    return told


# What an action is done to, by its first word.
_SUBJECTS = {"key": "key_id", "user": "user_id", "team": "team_id", "budget": "budget_id", "content": "request_id"}
