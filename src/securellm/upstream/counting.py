"""Counting the tokens of a request, without holding up everybody else.

What is small is counted at once. The rest goes to a thread, THREADS at a time, since counting and decoding 20 MB takes
longer than a loop may pause; what waits for its turn is charged to the bytes in flight like every body. Who hangs up
stops waiting, not the thread, which keeps its place until it is done.
"""

from functools import partial

import trio

from securellm.routing import Target
from securellm.tokens import Counted, count_request_tokens, encoding_of, is_loaded

AT_ONCE_BYTES = 16 * 1024  # at the slowest, 2 ms; a hop to a thread costs 0.2 ms
THREADS = 2

_threads = trio.CapacityLimiter(THREADS)


async def count_request(target: Target, body: bytes) -> Counted:
    """The input tokens of a Messages body that has been checked, for the model of this target."""
    encoding = encoding_of(target.provider.kind, target.model)
    count = partial(count_request_tokens, body, encoding)
    if len(body) <= AT_ONCE_BYTES and (encoding is None or is_loaded(encoding)):
        return count()
    return await trio.to_thread.run_sync(count, abandon_on_cancel=True, limiter=_threads)
