"""Where a task waits for its record to be on disk: places that are made once and used again and again.

`trio.lowlevel.wait_task_rescheduled` is two coroutines, a message to Trio and an outcome for each wait, and the
function that ends one has to know whose it is; two waits are in every request. Here the message belongs to the place,
which knows who waits at it, and whoever wakes a task that waits here sends it AWAKE instead of an outcome.
"""

from collections.abc import Callable, Generator
from typing import Any

import trio

AWAKE: Any = None


class Place:
    """Whoever has it sets `task` and `began` and awaits it, one task at a time; awaiting it raises Cancelled.

    `forget` is told of the task when its wait is cancelled.
    """

    __slots__ = ("_forget", "_trap", "began", "task")

    def __init__(self, forget: Callable[[trio.lowlevel.Task], object]) -> None:
        self.task: trio.lowlevel.Task | None = None
        self.began = 0  # the beat since which it waits
        self._forget = forget
        wait = trio.lowlevel.wait_task_rescheduled(self._abort)  # noqa: ASYNC105  what it yields is awaited instead
        self._trap = wait.send(None)

    def __await__(self) -> Generator[Any, Any, None]:
        outcome = yield self._trap
        if outcome is not AWAKE:  # Trio's own: the task is cancelled
            outcome.unwrap()

    def _abort(self, raise_cancel: object) -> trio.lowlevel.Abort:
        assert self.task is not None, "somebody waits here"
        self._forget(self.task)
        return trio.lowlevel.Abort.SUCCEEDED
