"""How all workers come to take one configuration, or none: what was said, and what follows from it. Pure.

First all prepare; who cannot says why, and then nobody takes it. Once all can it is decided: who does not
take it in time is to be replaced, by a process that starts with it.
"""

from collections.abc import Mapping
from typing import NamedTuple

from securellm.config import Config
from securellm.workers.link import Message, Word

PREPARE_S = 30.0  # loading and checking a configuration, and asking nobody
COMMIT_S = 5.0  # taking it is swapping references

Pids = Mapping[int, int | None]  # slot -> the process in it now


class Refuse(NamedTuple):
    """Nobody takes it."""

    why: str


class Commit(NamedTuple):
    """All can: tell them to take it."""


class Done(NamedTuple):
    """All that live have taken it, but for these slots, which are to be replaced."""

    late: tuple[int, ...]


class Agreement:
    """One attempt, from the moment that all are asked to prepare."""

    def __init__(self, config: Config, pids: Pids, now_s: float) -> None:
        self.config = config
        self.ends_s = now_s + PREPARE_S
        self._pids = dict(pids)  # a worker that is replaced meanwhile has another one
        self._prepared: dict[int, str] = {}  # and why not, or nothing
        self._committing = False
        self._committed: set[int] = set()

    def __repr__(self) -> str:
        stage = f"committed {sorted(self._committed)}" if self._committing else f"prepared {sorted(self._prepared)}"
        return f"<Agreement on {self.config.epoch}: {stage} of {sorted(self._pids)}>"

    def hear(self, slot: int, message: Message) -> None:
        """What a worker says of it."""
        if message.word is Word.PREPARED:
            self._prepared[slot] = message.why
        elif message.word is Word.COMMITTED:
            self._committed.add(slot)

    def decide(self, pids: Pids, now_s: float) -> Refuse | Commit | Done | None:
        """What is to be done now; None: wait, until `ends_s` at most. Refuse and Done end it; Commit comes once."""
        gone = sorted(slot for slot, pid in self._pids.items() if pids[slot] != pid)
        if self._committing:
            late = sorted(set(self._pids) - self._committed - set(gone))
            return Done(tuple(late)) if not late or now_s >= self.ends_s else None
        refusals = sorted(slot for slot, why in self._prepared.items() if why)
        if refusals:
            return Refuse(self._prepared[refusals[0]])
        if gone:
            return Refuse(f"worker {gone[0]} ended meanwhile")
        missing = sorted(set(self._pids) - set(self._prepared))
        if missing:
            return Refuse(f"worker {missing[0]} took longer than {PREPARE_S:g} s") if now_s >= self.ends_s else None
        self._committing = True
        self.ends_s = now_s + COMMIT_S
        return Commit()
