"""Workers asking each other over sockets."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from securellm.errors import NotAvailable
from securellm.workers.channel import Channel, Reply
from securellm.workers.place import ALONE, Place


async def _double(arguments: dict[str, Any]) -> int:
    return 2 * int(arguments["number"])


async def _refuse(arguments: dict[str, Any]) -> None:
    raise NotAvailable("not here")


async def _break(arguments: dict[str, Any]) -> None:
    raise RuntimeError("a defect")


async def _hang(arguments: dict[str, Any]) -> None:
    await trio.sleep_forever()


async def _large(arguments: dict[str, Any]) -> str:
    return "x" * 3_000_000


@asynccontextmanager
async def _open(run_dir: Path, workers: int, serving: int) -> AsyncIterator[list[Channel]]:
    """So many channels, of which the first `serving` ones answer."""
    channels = [Channel(Place(slot, workers, run_dir)) for slot in range(1, workers + 1)]
    async with trio.open_nursery() as nursery:
        for channel in channels[:serving]:
            channel.register("double", _double)
            channel.register("refuse", _refuse)
            channel.register("break", _break)
            channel.register("hang", _hang)
            channel.register("large", _large)
            await nursery.start(channel.serve)
        yield channels
        nursery.cancel_scope.cancel()


async def test_all_are_asked(tmp_path: Path) -> None:
    """Every worker answers, the one that asks included, in the order of their slots; one alone answers itself."""
    with trio.fail_after(10):
        async with _open(tmp_path, 3, 3) as channels:
            for channel in channels:
                replies = await channel.ask_all("double", {"number": 21})
                assert replies == [Reply(slot, 42) for slot in (1, 2, 3)]
        alone = Channel(ALONE)
        alone.register("double", _double)
        await alone.serve()
        assert await alone.ask_all("double", {"number": 1}) == [Reply(1, 2)]


async def test_who_is_not_there_is_an_error_in_the_list(tmp_path: Path) -> None:
    """A worker that was never started, one that died, and one that hangs do not keep the others' answers back."""
    dead = socket.socket(socket.AF_UNIX)
    (tmp_path / "run").mkdir()
    dead.bind(str(tmp_path / "run" / "w2.sock"))
    dead.close()
    with trio.fail_after(10):
        async with _open(tmp_path / "run", 3, 1) as channels:
            replies = await channels[0].ask_all("double", {"number": 1})
            assert replies == [Reply(1, 2), Reply(2, error="not there"), Reply(3, error="not there")]


async def test_a_worker_that_hangs_is_given_up(tmp_path: Path) -> None:
    """After the deadline the answer is that there is none; the same for the worker that asks."""
    with trio.fail_after(10):
        async with _open(tmp_path, 2, 2) as channels:
            began_s = trio.current_time()
            replies = await channels[0].ask_all("hang", deadline_s=0.1)
            assert trio.current_time() - began_s < 1
            assert [reply.error for reply in replies] == ["no answer within 0.1 s"] * 2


@pytest.mark.parametrize(
    ("command", "error"), [("refuse", "not here"), ("break", "internal error"), ("dance", "no such command: dance")]
)
async def test_a_handler_that_fails_is_an_answer(tmp_path: Path, command: str, error: str) -> None:
    """Refusals are told with their message, defects without; neither ends the channel."""
    with trio.fail_after(10):
        async with _open(tmp_path, 2, 2) as channels:
            assert await channels[0].ask(2, command) == Reply(2, error=error)
            assert await channels[0].ask(2, "double", {"number": 2}) == Reply(2, 4)


async def test_large_answers_and_long_paths(tmp_path: Path) -> None:
    """An answer of megabytes arrives whole, over a socket whose path is longer than the system's structure for it."""
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    with trio.fail_after(10):
        async with _open(deep, 2, 2) as channels:
            assert len((await channels[0].ask(2, "large")).result) == 3_000_000
            assert (deep / "w2.sock").stat().st_mode & 0o777 == 0o600


async def test_garbage_does_not_end_it(tmp_path: Path) -> None:
    """Whoever sends something else is not answered, and others are."""
    with trio.fail_after(10):
        async with _open(tmp_path, 2, 2) as channels:
            for garbage in (b"GET / HTTP/1.1\n", b"", b'{"command":1}\n'):
                stream = await trio.open_unix_socket(tmp_path / "w2.sock")
                async with stream:
                    await stream.send_all(garbage)
                    await stream.send_eof()
                    assert await stream.receive_some() == b""
            assert await channels[0].ask(2, "double", {"number": 2}) == Reply(2, 4)


async def test_a_successor_takes_the_socket_over(tmp_path: Path) -> None:
    """A worker in the place of a dead one is reached under the same name."""
    with trio.fail_after(10):
        for _ in range(2):
            async with _open(tmp_path, 2, 2) as channels:
                assert (await channels[0].ask(2, "double", {"number": 3})).result == 6
            assert (tmp_path / "w2.sock").exists()
