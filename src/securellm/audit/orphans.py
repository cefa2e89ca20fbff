"""Slots that no worker writes any more, because there are fewer workers than there were: closed at a start.

What a crash left open in them would otherwise be open for ever, and their old days would never be deleted.
"""

import logging

import trio

from securellm.audit.files import reason_of
from securellm.audit.keeping import Keeper
from securellm.audit.keys import load_signing_key
from securellm.audit.opening import unix_us
from securellm.audit.reading import list_slots
from securellm.config import Config
from securellm.errors import ConfigError

log = logging.getLogger(__name__)


async def close_orphans(config: Config, workers: int) -> None:
    """Close every slot above `workers` and delete its old days, in a thread. Never raises; what fails is logged."""
    await trio.to_thread.run_sync(_close_orphans, config, workers)


def _close_orphans(config: Config, workers: int) -> None:
    try:
        orphans = [slot for slot in list_slots(config.log_dir) if slot > workers]
        if not orphans:
            return
        key = load_signing_key(config.state_dir, config.audit.signing_key, create=False)
        keeper = Keeper(config.log_dir, key, now_us=unix_us, longest_request_s=config.timeouts.total_s)
        for slot in orphans:
            _close(keeper, slot, config.audit.retention_days)
    except OSError as exc:
        log.warning("slots of the audit log that no worker writes are not closed: %s", reason_of(exc))
    except ConfigError as exc:
        log.warning("slots of the audit log that no worker writes are not closed: %s", exc.message)


def _close(keeper: Keeper, slot: int, retention_days: int) -> None:
    sealed = keeper.seal(slot)
    if sealed.added:
        log.info("slot %d of the audit log is closed: no worker writes it any more", slot)
    if retention_days:
        keeper.prune(slot, retention_days)
