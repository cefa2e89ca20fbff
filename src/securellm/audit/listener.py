"""Whom the audit writer works for: what is submitted to it, and who is told of its commits."""

from typing import Protocol, TypeVar

from securellm._fast.lines_py import Placeable
from securellm.audit.record import Record


class Queued(Placeable, Protocol):
    """What is submitted: the body of a line, made where it is still in the processor's cache, or else a record."""

    @property
    def record(self) -> Record | None:
        """The record to be written; None when its body is there."""


Entry = TypeVar("Entry", bound=Queued)


class Listener(Protocol[Entry]):
    """Who is told of it, in the writer's thread; nothing here may wait."""

    def recovered(self) -> None:
        """The slot has been taken over; commits begin."""

    def under_way(self) -> int:
        """How many requests have records to come, or not yet on disk; asked after every commit."""

    def durable(self, entries: list[Entry]) -> None:
        """These are on disk."""

    def failed(self) -> None:
        """The disk refused; `Writer.failure` says why. Called for every attempt."""

    def due(self, now_us: int) -> list[Record]:
        """Records of the log's own that are to be written now; asked every tick while the disk takes records."""

    def stopped(self) -> None:
        """The thread ends; nothing more will be written."""
