"""Counting in memory that outlives a process, and adding up what several have counted."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from securellm.telemetry.tally import FILE_BYTES, Cells, Counter, Gauge, Histogram, merge, open_cells, read_others

KEY = ("securellm_x", ("a", "b"))


def test_counting() -> None:
    """Counters add, gauges are set, histograms sort by their bounds: a value on a bound belongs below it."""
    cells = open_cells(None, 1)
    Counter(cells, KEY).inc(2.5)
    Counter(cells, KEY).inc()
    gauge = Gauge(cells, ("g", ()))
    assert math.isnan(cells.read()["g", ()][0])
    gauge.set(4)
    histogram = Histogram(cells, ("h", ()), (1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert cells.read() == {KEY: [3.5], ("g", ()): [4.0], ("h", ()): [2.0, 1.0, 1.0, 12.0]}


def test_a_successor_goes_on_counting(tmp_path: Path) -> None:
    """Counts of a killed process stay, and the next in its slot adds to them; what it has not set is unknown."""
    code = (
        "import os, sys, pathlib; from securellm.telemetry.tally import *\n"
        "cells = open_cells(pathlib.Path(sys.argv[1]), 2)\n"
        "counter = Counter(cells, ('securellm_x', ('a', 'b'))); [counter.inc() for _ in range(1000)]\n"
        "Gauge(cells, ('g', ())).set(1)\n"
        "os.kill(os.getpid(), 9)"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, env={"PYTHONPATH": "src"})
        assert done.returncode == -signal.SIGKILL
    assert read_others(tmp_path, 1) == [{KEY: [2000.0], ("g", ()): [1.0]}]
    successor = open_cells(tmp_path, 2)
    Gauge(successor, ("g", ()))
    Counter(successor, KEY).inc()
    (found,) = read_others(tmp_path, 1)
    assert found[KEY] == [2001.0]
    assert math.isnan(found["g", ()][0])
    assert read_others(tmp_path, 2) == []


def test_files_are_private_and_of_one_size(tmp_path: Path) -> None:
    """Nobody else may read them; a file that is still being made is not read, nor is any other file."""
    open_cells(tmp_path, 1)
    found = os.stat(tmp_path / "metrics.w1")
    assert (found.st_mode & 0o777, found.st_size) == (0o600, FILE_BYTES)
    (tmp_path / "metrics.w2").touch()
    (tmp_path / "other").write_bytes(bytes(FILE_BYTES))
    assert read_others(tmp_path, 1) == []


def test_merging() -> None:
    """Counts are added cell by cell, gauges as asked; one that nobody has set is not shown."""
    nan = float("nan")
    parts = [
        {KEY: [1.0, 2.0], ("g", ()): [3.0], ("u", ()): [nan]},
        {KEY: [10.0, 20.0], ("g", ()): [1.0], ("v", ()): [nan]},
        {("g", ()): [nan]},
    ]
    assert merge(parts, {"g": min}) == {KEY: [11.0, 22.0], ("g", ()): [1.0]}


def test_no_room_is_an_error_and_breaks_nothing() -> None:
    """Series beyond the memory are refused; those that are there go on."""
    cells = Cells(bytearray(128))
    counter = Counter(cells, ("a", ()))
    with pytest.raises(MemoryError, match="no room for b"):
        Histogram(cells, ("b", ()), tuple(float(bound) for bound in range(20)))
    counter.inc()
    assert cells.read() == {("a", ()): [1.0]}
