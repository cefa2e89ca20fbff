"""Redis, asynchronous and never in the way: one thread ships, one breaker guards, nobody waits over 50 ms."""
