"""Orders to stop."""

import signal

import trio

from securellm.workers.stops import Stops


async def test_the_first_order_counts() -> None:
    """A second order to drain changes nothing; only an order to stop at once ends the patience."""
    with trio.fail_after(5):
        stops = Stops()
        stops.drain(signal.SIGTERM)
        stops.drain(signal.SIGINT)
        await stops.told()
        assert stops.order is signal.SIGTERM
        with trio.move_on_after(0) as patience:
            await stops.told_at_once()
        assert patience.cancelled_caught
        stops.at_once()
        await stops.told_at_once()


async def test_at_once_needs_no_order_before_it() -> None:
    """Whoever waits for an order is told by the impatient one alone, which is no drain."""
    with trio.fail_after(5):
        stops = Stops()
        stops.at_once()
        await stops.told()
        assert stops.order is None
