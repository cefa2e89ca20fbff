"""One thread for all that blocks on a store: whatever is queued is done in one hop.

A hop to a thread and back costs some 200 µs, so that it is paid for by many calls at once and never by a request.
Trio's side is told once for everything that a hop has done. The thread ends when nobody has asked for a while, and is a
daemon: a disk or a server that hangs holds neither a task that is cancelled nor the end of the process.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import trio

IDLE_S = 10.0  # after which the thread ends; a store that is polled has one all the time

T = TypeVar("T")


class _Job:
    """One call, and what became of it."""

    __slots__ = ("abandoned", "act", "done", "error", "result", "token")

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act
        self.token = trio.lowlevel.current_trio_token()
        self.done = trio.Event()
        self.abandoned = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        if self.abandoned:
            return
        try:
            self.result = self.act()
        except BaseException as exc:
            self.error = exc


class StoreThread:
    """See the module."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._wake = threading.Condition()
        self._jobs: list[_Job] = []
        self._running = False

    def __repr__(self) -> str:
        return f"<StoreThread {self._name} {'running' if self._running else 'idle'}, {len(self._jobs)} queued>"

    async def run(self, act: Callable[[], T]) -> T:
        """Call it in the thread, after what was queued before. Raises what it raises.

        When cancelled, a call that has not begun never does, and one that has is left to itself.
        """
        job = _Job(act)
        with self._wake:
            self._jobs.append(job)
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
            self._wake.notify()
        try:
            await job.done.wait()
        finally:
            job.abandoned = True
        if job.error is not None:
            raise job.error
        result: T = job.result
        return result

    def _work(self) -> None:
        while jobs := self._next():
            for job in jobs:
                job.run()
            for token in {job.token for job in jobs}:
                try:
                    token.run_sync_soon(_tell, [job for job in jobs if job.token is token])
                except trio.RunFinishedError:
                    continue  # nobody is left to be told

    def _next(self) -> list[_Job]:
        with self._wake:
            if not self._jobs:
                self._wake.wait(IDLE_S)
            jobs, self._jobs = self._jobs, []
            self._running = bool(jobs)
            return jobs


def _tell(jobs: list[_Job]) -> None:
    for job in jobs:
        job.done.set()
