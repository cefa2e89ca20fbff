"""A cache in the memory of one process: bounded in bytes, the entry used longest ago goes first."""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from securellm.cache.service import CacheStatistics

ENTRY_BYTES = 256  # what an entry costs beside its key and value: two bytes objects, a tuple, a place in the dict


class _Entry(NamedTuple):
    value: bytes
    until_s: float


class MemoryCache:
    """`now_s` is any clock that does not go back."""

    def __init__(self, max_bytes: int, now_s: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._now_s = now_s
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()  # the one used longest ago is the first
        self._bytes = 0
        self._hits = 0
        self._misses = 0
        self._evicted = 0

    async def get(self, key: bytes) -> bytes | None:
        """See Cache. Never waits."""
        entry = self._entries.get(key)
        if entry is not None and entry.until_s <= self._now_s():
            self._forget(key)
            entry = None
        if entry is None:
            self._misses += 1
            return None
        self._entries.move_to_end(key)
        self._hits += 1
        return entry.value

    async def set(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """See Cache. Never waits; a value larger than the whole cache is not kept."""
        self.set_nowait(key, value, ttl_s)

    def set_nowait(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """See Cache."""
        self._forget(key)
        size_bytes = _size_bytes(key, value)
        if ttl_s <= 0 or size_bytes > self._max_bytes:
            return
        while self._bytes + size_bytes > self._max_bytes:
            self._forget(next(iter(self._entries)))
            self._evicted += 1
        self._entries[key] = _Entry(value, self._now_s() + ttl_s)
        self._bytes += size_bytes

    async def delete(self, key: bytes) -> bool:
        """See Cache. Never waits."""
        self._forget(key)
        return True

    def statistics(self) -> CacheStatistics:
        """The figures now."""
        return CacheStatistics("memory", self._hits, self._misses, 0, len(self._entries), self._bytes, self._evicted)

    def __repr__(self) -> str:
        return f"<MemoryCache entries={len(self._entries)} bytes={self._bytes}/{self._max_bytes}>"

    def _forget(self, key: bytes) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self._bytes -= _size_bytes(key, entry.value)


def _size_bytes(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_BYTES
