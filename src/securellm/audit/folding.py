"""Security events that come in floods, folded: one line a second and address, with a count. Pure.

The addresses are bounded, too: when there are too many of them, the one that was quiet for longest gives its count to
a line without an address, so that a flood from everywhere cannot fill the disk either. No count is ever lost.
"""

import msgspec

from securellm.audit.record import Record

MAX_ADDRESSES = 64  # lines a second at most, and one more: 1.5 GB a day in the worst flood

Key = tuple[str | None, str | None]  # action, address


class Folding:
    """What was noted since it was last taken."""

    def __init__(self, max_addresses: int = MAX_ADDRESSES) -> None:
        self._max_addresses = max_addresses
        self._noted: dict[Key, tuple[Record, int]] = {}  # the quietest first
        self._others: dict[str | None, tuple[Record, int]] = {}  # by action

    def __bool__(self) -> bool:
        return bool(self._noted or self._others)

    def note(self, record: Record) -> None:
        """Count an event for its address; the line has the fields and the time of the first."""
        key = (record.action, record.client_ip)
        first, count = self._noted.pop(key, (record, 0))
        self._noted[key] = (first, count + (record.count or 1))
        if len(self._noted) > self._max_addresses:
            self._give_up(next(iter(self._noted)))

    def take(self) -> list[Record]:
        """The lines to be written now, in the order of their times; then it is empty."""
        lines = [msgspec.structs.replace(first, count=count) for first, count in self._noted.values()]
        lines += [msgspec.structs.replace(first, count=count) for first, count in self._others.values()]
        self._noted.clear()
        self._others.clear()
        return sorted(lines, key=lambda line: line.timestamp)

    def _give_up(self, key: Key) -> None:
        first, count = self._noted.pop(key)
        anybody = msgspec.structs.replace(first, client_ip=None, detail=None)
        told, before = self._others.get(first.action, (anybody, 0))
        self._others[first.action] = (told, before + count)
