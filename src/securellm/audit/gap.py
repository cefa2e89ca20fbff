"""What was lost since the chain last said so: how many records, and between which moments."""

import threading

from securellm.audit.record import Record, timestamp


class Gap:
    """Counts in Trio's thread, is told of in the writer's."""

    def __init__(self) -> None:
        self.total = 0
        """since the start"""
        self._lock = threading.Lock()
        self._records = 0
        self._events = 0
        self._first = self._last = ""

    def add(self, record: Record) -> None:
        """Count a record that will not be written."""
        with self._lock:
            self.total += 1
            if record.event_type == "security_event":
                self._events += 1
            else:
                self._records += 1
            self._first = min(self._first or record.timestamp, record.timestamp)
            self._last = max(self._last, record.timestamp)

    def take(self, now_us: int) -> list[Record]:
        """The record of it, if anything was lost."""
        with self._lock:
            count = self._records + self._events
            if not count:
                return []
            detail: dict[str, str | int] = {
                "from": self._first,
                "until": self._last,
                "requests": self._records,
                "events": self._events,
            }
            self._records = self._events = 0
            self._first = self._last = ""
        return [Record(timestamp(now_us), "security_event", action="gap", count=count, detail=detail)]
