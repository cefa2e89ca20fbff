"""Taking a new configuration while serving: prepared in full, then taken in one step, or refused without a trace.

The two halves are told by the supervisor, so that all workers take it or none; a process that serves alone does both.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol

import trio

from securellm.config import Config
from securellm.config.changes import fixed_changes
from securellm.errors import SecureLLMError

RELOADED = "config_reloaded"
REFUSED = "config_reload_refused"
DETAIL_CHARACTERS = 500  # of a list of mistakes in the audit log; the whole is in the log

_log = logging.getLogger("securellm.workers")


class Books(Protocol):
    """Where security events are noted."""

    def event(self, action: str, *, client_ip: str | None = None, detail: dict[str, str | int] | None = None) -> None:
        """Note one; never waited for."""


class Reloadable(Protocol):
    """What takes a configuration: the runtime."""

    @property
    def config(self) -> Config:
        """The one in force."""

    @property
    def ledger(self) -> Any:
        """Books."""

    async def prepare(self, config: Config) -> Any:
        """Make everything that the configuration needs, beside what is in force. Raises SecureLLMError."""

    async def give_up(self, prepared: Any) -> None:
        """Close what was prepared and is not wanted."""

    def commit(self, prepared: Any) -> None:
        """Put what was prepared into force for all requests that come from now on."""


class Reloader:
    """Reloads one process. `load` reads the configuration and checks it; it blocks, and raises SecureLLMError."""

    def __init__(self, runtime: Reloadable, load: Callable[[], Config]) -> None:
        self._runtime = runtime
        self._load = load
        self._prepared: Any = None

    async def prepare(self, epoch: str = "") -> str:
        """Load and prepare; why it cannot be done, or nothing. With an `epoch` the configuration must have it."""
        await self._give_up()
        try:
            config = await trio.to_thread.run_sync(self._load)
            if epoch and config.epoch != epoch:
                return "the file was changed while it was read; send SIGHUP again"
            changes = fixed_changes(self._runtime.config, config)
            if changes:
                return f"a restart is needed to change {', '.join(changes)}"
            self._prepared = await self._runtime.prepare(config)
        except SecureLLMError as error:
            return error.message
        except Exception:
            _log.exception("preparing the new configuration failed")
            return "preparing it failed; the log says how"
        return ""

    def commit(self) -> None:
        """Take what was prepared."""
        before = self._runtime.config.epoch
        prepared, self._prepared = self._prepared, None
        self._runtime.commit(prepared)
        books: Books = self._runtime.ledger
        books.event(RELOADED, detail={"epoch": self._runtime.config.epoch, "before": before})

    async def abort(self, why: str = "") -> None:
        """Forget what was prepared; with a reason, note it."""
        await self._give_up()
        if why:
            books: Books = self._runtime.ledger
            books.event(REFUSED, detail={"reason": why[:DETAIL_CHARACTERS]})

    async def reload(self) -> None:
        """Both halves, for a process that serves alone."""
        _log.info("SIGHUP: reading the configuration again")
        why = await self.prepare()
        if why:
            _log.error("the configuration is not reloaded, the old one stays in force: %s", why)
            await self.abort(why)
            return
        self.commit()
        _log.info("the configuration with epoch %s is in force", self._runtime.config.epoch)

    async def _give_up(self) -> None:
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            await self._runtime.give_up(prepared)
