"""Which cache the settings ask for."""

from collections.abc import Callable

from securellm.cache.memory import MemoryCache
from securellm.cache.redis import RedisCache
from securellm.cache.service import Cache
from securellm.config.tree import Cache as Settings
from securellm.redis_link.link import RedisLink


def choose_cache(settings: Settings, link: RedisLink | None, now_s: Callable[[], float]) -> Cache | None:
    """The cache of answers' store, None when it is off. `auto` is Redis where there is a link, else memory."""
    if not settings.enabled:
        return None
    if link is not None and settings.store != "memory":
        return RedisCache(link)
    return MemoryCache(settings.max_bytes, now_s)
