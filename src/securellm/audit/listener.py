"""Whom the audit writer works for: what is submitted to it, and who is told of its commits."""

from typing import Protocol, TypeVar

from securellm.audit.record import Record


class Queued(Protocol):
    """What is submitted."""

    @property
    def record(self) -> Record:
        """The record to be written."""

    @property
    def body(self) -> bytes | None:
        """It as `encode_ahead` made it: where it was made it is still in the processor's cache."""


Entry = TypeVar("Entry", bound=Queued)


class Listener(Protocol[Entry]):
    """Who is told of it, in the writer's thread; nothing here may wait."""

    def recovered(self) -> None:
        """The slot has been taken over; commits begin."""

    def durable(self, entries: list[Entry]) -> None:
        """These are on disk."""

    def failed(self) -> None:
        """The disk refused; `Writer.failure` says why. Called for every attempt."""

    def due(self, now_us: int) -> list[Record]:
        """Records of the log's own that are to be written now; asked every tick while the disk takes records."""

    def stopped(self) -> None:
        """The thread ends; nothing more will be written."""
