"""A cache on Redis, shared by every worker and machine that has its URL."""

from securellm.cache.service import CacheStatistics
from securellm.redis_link.commands import RedisUnavailable
from securellm.redis_link.link import RedisLink

_PREFIX = b"securellm:cache:"


class RedisCache:
    """Redis bounds it itself (`maxmemory` with `allkeys-lru`, or the time to live of each entry)."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._hits = 0
        self._misses = 0
        self._unavailable = 0

    async def get(self, key: bytes) -> bytes | None:
        """See Cache."""
        try:
            value = await self._link.call("GET", _name(key))
        except RedisUnavailable:
            self._unavailable += 1
            value = None
        if not isinstance(value, bytes):
            self._misses += 1
            return None
        self._hits += 1
        return value

    async def set(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """See Cache. Never waits: whoever asks after it on this link comes behind it."""
        self.set_nowait(key, value, ttl_s)

    def set_nowait(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """See Cache."""
        if ttl_s <= 0:
            sent = self._link.send_nowait("DEL", _name(key))
        else:
            sent = self._link.send_nowait("SET", _name(key), value, "PX", max(int(ttl_s * 1000), 1))
        if not sent:
            self._unavailable += 1

    async def delete(self, key: bytes) -> bool:
        """See Cache."""
        try:
            await self._link.call("DEL", _name(key))
        except RedisUnavailable:
            self._unavailable += 1
            return False
        return True

    def statistics(self) -> CacheStatistics:
        """The figures now, of this process."""
        return CacheStatistics("redis", self._hits, self._misses, self._unavailable)

    def __repr__(self) -> str:
        return f"<RedisCache {self._link!r}>"


def _name(key: bytes) -> bytes:
    return _PREFIX + key.hex().encode()
