"""Do we know the answer: a cache service in memory or on Redis, and the cache of answers on it."""
