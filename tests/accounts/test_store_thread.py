"""The store's one thread: in order, in one hop for what is queued, and nobody is held by a call that hangs."""

import gc
import threading
import time

import pytest
import trio

from securellm.accounts.store_thread import StoreThread


async def test_calls_are_done_in_order_in_one_thread() -> None:
    """Each gets its own result or error, and all run in the same thread, which is not Trio's."""
    thread = StoreThread("t")
    done: list[tuple[int, int]] = []
    results: dict[int, int] = {}

    async def ask(number: int) -> None:
        def act() -> int:
            done.append((number, threading.get_ident()))
            return 10 * number

        results[number] = await thread.run(act)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(ask, number)
                await trio.lowlevel.checkpoint()
        with pytest.raises(ZeroDivisionError):
            await thread.run(lambda: 1 // 0)
    assert results == {number: 10 * number for number in range(50)}
    assert sorted(number for number, _ in done) == list(range(50))
    assert len({ident for _, ident in done}) == 1
    assert done[0][1] != threading.get_ident()


async def test_what_is_queued_is_one_hop() -> None:
    """While one call takes long, others gather, and are told of together."""
    thread = StoreThread("t")
    wait = threading.Event()
    told: list[float] = []

    async def ask() -> None:
        await thread.run(lambda: None)
        told.append(trio.current_time())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.run, wait.wait)
            await trio.sleep(0.05)
            for _ in range(100):
                nursery.start_soon(ask)
            await trio.sleep(0.05)
            assert told == []
            assert "100 queued" in repr(thread)
            wait.set()
    assert len(told) == 100
    assert max(told) - min(told) < 0.1


async def test_nobody_is_held_by_a_call_that_hangs() -> None:
    """A task that is cancelled goes at once; its call is left alone, and one that has not begun never does."""
    thread = StoreThread("t")
    wait = threading.Event()
    began: list[int] = []
    with trio.fail_after(10):
        with trio.move_on_after(0.05) as first:
            await thread.run(wait.wait)
        with trio.move_on_after(0.05) as second:
            await thread.run(lambda: began.append(1))
        assert first.cancelled_caught
        assert second.cancelled_caught
        wait.set()
        await thread.run(lambda: began.append(2))
    assert began == [2]


def test_a_run_that_ended_is_nobody_to_tell() -> None:
    """A call that outlives Trio's run neither fails nor ends the thread for the next run."""
    thread = StoreThread("t")
    wait = threading.Event()

    async def leave() -> None:
        with trio.move_on_after(0.05):
            await thread.run(wait.wait)

    async def ask() -> int:
        with trio.fail_after(10):
            return await thread.run(lambda: 7)

    trio.run(leave)
    wait.set()
    time.sleep(0.05)
    gc.collect()
    assert trio.run(ask) == 7
