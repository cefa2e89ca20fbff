"""Wait for what has no event: a figure of the product's own statistics."""

from collections.abc import Callable

import trio


async def until_true(condition: Callable[[], bool], *, look_every_s: float = 0.001) -> None:
    """Return when the condition holds; whoever calls sets the deadline."""
    while not condition():  # noqa: ASYNC110 - the figures come from the product, which announces nothing
        await trio.sleep(look_every_s)
