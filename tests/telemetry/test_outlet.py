"""Log lines whose reader hangs."""

import io
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import IO

import pytest

from securellm.telemetry.logs import dropped_lines, open_logs, open_outlet
from securellm.telemetry.outlet import Hasty, Outlet

Pipe = tuple[int, IO[str]]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe that holds a page: the end to read from, and a stream to write to."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        yield reader, stream
    os.close(reader)


def _fill(pipe: Pipe) -> int:
    """Leave no room in it; how many bytes that took."""
    handle = pipe[1].fileno()
    os.set_blocking(handle, False)
    written = 0
    while True:
        try:
            written += os.write(handle, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(handle, True)
            return written


def _read(reader: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(reader, size - len(data))
    return data


def test_lines_arrive_in_order() -> None:
    """What was queued is written when it is closed, in order and whole, however long."""
    stream = io.StringIO()
    outlet = Outlet(stream)
    lines = [f"{number} {'y' * number}\n" for number in range(0, 20_000, 500)]
    for line in lines:
        outlet.write(line)
    outlet.close()
    assert stream.getvalue() == "".join(lines)
    assert outlet.dropped == 0


def test_nobody_waits_for_a_reader_that_hangs(pipe: Pipe) -> None:
    """With a full pipe writing returns at once; the oldest lines are dropped and counted, the newest arrive later."""
    filled = _fill(pipe)
    outlet = Outlet(pipe[1], lines_at_most=10)
    outlet.write("first\n")
    while outlet._lines:  # until the thread has it, and hangs
        time.sleep(0.001)
    began_s = time.monotonic()
    for number in range(100):
        outlet.write(f"{number}\n")
    assert time.monotonic() - began_s < 1
    assert outlet.dropped == 90
    outlet.close(within_s=0.05)  # nor does the end
    _read(pipe[0], filled)
    expected = b"first\n" + b"".join(b"%d\n" % number for number in range(90, 100))
    assert _read(pipe[0], len(expected)) == expected


def test_a_reader_that_has_gone_is_no_error() -> None:
    """Lines that cannot be written are counted."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        outlet = Outlet(stream)
        outlet.write("x\n")
        outlet.close()
        assert outlet.dropped == 1


def test_without_a_thread_a_line_is_dropped(pipe: Pipe) -> None:
    """The hasty stream writes what fits at once and drops the rest, without waiting."""
    hasty = Hasty(pipe[1])
    hasty.write("hello\n")
    assert _read(pipe[0], 6) == b"hello\n"
    _fill(pipe)
    hasty.write("lost\n")
    assert hasty.dropped == 1


def test_the_log_goes_by_the_outlet_while_it_is_open(pipe: Pipe) -> None:
    """Logging does not wait for a full pipe while the outlet is open, and is told to the metrics what was dropped."""
    before, threads = dropped_lines(), threading.active_count()
    with open_logs("info", (), pipe[1]):
        with open_outlet(pipe[1]) as outlet:
            logging.getLogger("x").info("one")
        logging.getLogger("x").info("two")
        assert threading.active_count() == threads
        lines = os.read(pipe[0], 65536).splitlines()
        assert [json.loads(line)["message"] for line in lines] == ["one", "two"]
        filled = _fill(pipe)
        with open_outlet(pipe[1]) as outlet:
            outlet._lines_at_most = 1
            for number in range(50):
                logging.getLogger("x").info("%d", number)
            assert dropped_lines() > before
            _read(pipe[0], filled)
