"""The cache service: bytes under a key for a while. Whatever is wrong with it is a miss, never an error. Pure."""

from typing import Protocol

import msgspec


class CacheStatistics(msgspec.Struct, frozen=True):
    """`entries` and `bytes` are of what is in this process; `unavailable` counts what the store could not be asked."""

    kind: str
    hits: int
    misses: int
    unavailable: int = 0
    entries: int = 0
    bytes: int = 0
    evicted: int = 0


class Cache(Protocol):
    """Memory of one process, or Redis for all. Nothing here raises or waits longer than 50 ms."""

    async def get(self, key: bytes) -> bytes | None:
        """What was set under the key and has neither run out nor been pushed out; None when it is not known."""

    async def set(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """Keep the value for so long, in place of an older one; it may be gone before."""

    def set_nowait(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """As `set`, for whoever settles and so may not wait."""

    async def delete(self, key: bytes) -> bool:
        """Forget the key; False when that could not be done, and then its time to live decides."""

    def statistics(self) -> CacheStatistics:
        """The figures now."""
