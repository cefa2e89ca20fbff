"""The bytes of request bodies that are being served at once, bounded over all requests. Pure.

Bodies are the one thing whose size callers choose, so their sum is what can exhaust the memory of the process.
A body is charged as its announced length before it is read, or piece by piece when it is chunked.
"""

import msgspec

from securellm.errors import BytesInFlight

RETRY_AFTER_S = 1.0  # bodies in flight change by the second; there is nothing to compute a better figure from


class InFlightStatistics(msgspec.Struct, frozen=True):
    """Bytes charged now, their bound and the highest sum seen."""

    charged_bytes: int
    max_bytes: int
    peak_bytes: int
    refused: int


class InFlightBytes:
    """A budget of `max_bytes` shared by all requests of the process."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._charged_bytes = 0
        self._peak_bytes = 0
        self._refused = 0

    def resize(self, max_bytes: int) -> None:
        """Another bound from now on; what is charged already stays."""
        self._max_bytes = max_bytes

    def open_charge(self) -> "Charge":
        """A charge of zero bytes; whoever opens it calls `release` once."""
        return Charge(self)

    def statistics(self) -> InFlightStatistics:
        """The figures now."""
        return InFlightStatistics(self._charged_bytes, self._max_bytes, self._peak_bytes, self._refused)

    def _take(self, size_bytes: int) -> None:
        if self._charged_bytes + size_bytes > self._max_bytes:
            self._refused += 1
            raise BytesInFlight(
                f"the request bodies being served would pass {self._max_bytes} bytes (server.max_in_flight_bytes)",
                retry_after_s=RETRY_AFTER_S,
            )
        self._charged_bytes += size_bytes
        if self._charged_bytes > self._peak_bytes:
            self._peak_bytes = self._charged_bytes


class Charge(msgspec.Struct, eq=False):
    """What one request has charged to the budget."""

    _budget: InFlightBytes
    _size_bytes: int = 0

    def grow_to(self, size_bytes: int) -> None:
        """Charge up to a total of `size_bytes`. Raises BytesInFlight, and charges nothing, when there is no room."""
        more_bytes = size_bytes - self._size_bytes
        if more_bytes > 0:
            self._budget._take(more_bytes)
            self._size_bytes = size_bytes

    def release(self) -> None:
        """Give everything back; calling it again does nothing."""
        self._budget._charged_bytes -= self._size_bytes
        self._size_bytes = 0
