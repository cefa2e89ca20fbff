"""The wish to stop, from whoever has it: it begins a drain once, and may become impatient."""

import signal

import trio


class Stops:
    """The first order to stop says how long open requests may take; a later one only whether to stop at once."""

    def __init__(self) -> None:
        self.order: signal.Signals | None = None  # SIGTERM or SIGINT, once told
        self._told = trio.Event()
        self._at_once = trio.Event()

    def __repr__(self) -> str:
        told = self.order.name if self.order is not None else "none"
        return f"<Stops order={told} at_once={self._at_once.is_set()}>"

    def drain(self, order: signal.Signals) -> None:
        """Stop as this signal says, unless a stop has begun."""
        if self.order is None:
            self.order = order
            self._told.set()

    def at_once(self) -> None:
        """Stop without waiting for anybody."""
        self._told.set()
        self._at_once.set()

    async def told(self) -> None:
        """Return when the stop is to begin."""
        await self._told.wait()

    async def told_at_once(self) -> None:
        """Return when there is no more patience."""
        await self._at_once.wait()
