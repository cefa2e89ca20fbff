"""Tell the audit log what was done to the store, by this process or by a command beside it.

Only the gateway writes its chain, so a command leaves an event in the store, in the transaction of what it did, and the
gateway carries it over: told, waited for until it is on disk, and only then forgotten. A crash in between tells it
twice, with the same number.
"""

import logging

import trio

from securellm.accounts.store import Store
from securellm.errors import SecureLLMError
from securellm.ledger import Ledger

CONTENT_ERASED = "content_erased"
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
                log.warning("what was done to the keys is not in the audit log yet: %s", error.message)
            await trio.sleep(LOOK_S)

    async def tell(self) -> None:
        """Tell what there is. Raises StoreUnavailable and AuditUnavailable."""
        events = await trio.to_thread.run_sync(self._store.read_events, abandon_on_cancel=True)
        if not events:
            return
        receipts = [
            self._ledger.note(
                event.action, detail={_subject_of(event.action): event.subject, "event": event.id, "at_s": event.at_s}
            )
            for event in events
        ]
        for receipt in receipts:
            await receipt.durable()
        await trio.to_thread.run_sync(self._store.forget_events, events[-1].id)


def _subject_of(action: str) -> str:
    return "request_id" if action == CONTENT_ERASED else "key_id"
