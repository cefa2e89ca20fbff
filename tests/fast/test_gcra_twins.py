"""The compiled buckets against their definition: the same integers at and beyond every border, the same memory."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rig.limit_stores import NOW_US, demands
from securellm._fast import gcra_py

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = max(50, int(300 * float(os.environ.get("SECURELLM_TEST_SCALE", "1"))))
BORDERS = [
    2**power + offset for power in (0, 31, 32, 51, 52, 53, 54, 62, 63, 64, 65, 70) for offset in (-2, -1, 0, 1, 2)
]

integers = (
    st.sampled_from([*BORDERS, *(-border for border in BORDERS)])
    | st.integers(-(2**70), 2**70)
    | st.integers(NOW_US - 10**9, NOW_US + 10**9)
    | st.integers(0, 10**8)
)


@pytest.fixture(scope="module")
def gcra_c() -> ModuleType:
    """The compiled twin, by name: where it is missing this fails, it does not skip."""
    from securellm._fast import gcra_c

    return gcra_c


@pytest.mark.compiled
@settings(max_examples=EXAMPLES * 4, deadline=None)
@given(tat=integers, now=integers, cost=integers, last=integers)
def test_twins_reckon_alike(gcra_c: ModuleType, tat: int, now: int, cost: int, last: int) -> None:
    """For any four integers both twins take, charge, give back and price the same, and stay in the stated range."""
    assert gcra_c.take(tat, now, cost, last) == gcra_py.take(tat, now, cost, last)
    assert gcra_c.charge(tat, now, cost) == gcra_py.charge(tat, now, cost)
    assert gcra_c.give_back(tat, now, cost, last) == gcra_py.give_back(tat, now, cost, last)
    assert gcra_c.cost_of(tat, now, cost) == gcra_py.cost_of(tat, now, cost)
    assert gcra_c.returned_of(tat, now, cost) == gcra_py.returned_of(tat, now, cost)
    assert -gcra_py.MAX_US <= gcra_c.take(tat, now, cost, last) <= gcra_py.MAX_US
    assert 0 <= gcra_c.charge(tat, now, cost) <= gcra_py.MAX_US
    assert 0 <= gcra_c.give_back(tat, now, cost, last) <= gcra_py.MAX_US


@settings(max_examples=EXAMPLES * 4, deadline=None)
@given(tat=integers, now=integers, cost=integers, last=integers)
def test_doubles_reckon_alike(tat: int, now: int, cost: int, last: int) -> None:
    """The formula in doubles, as Redis's Lua has nothing else, gives the same integers to the last one."""
    tat_us, now_us, cost_us, last_us = (min(max(value, 0), gcra_py.MAX_US) for value in (tat, now, cost, last))
    base, top = float(max(tat_us, now_us)), float(gcra_py.MAX_US)
    room = float(last_us) - (base - float(now_us))
    if float(cost_us) > room:
        taken = -min(float(cost_us) - room, top)
    else:
        taken = -top if float(cost_us) > top - base else base + float(cost_us)
    assert int(taken) == gcra_py.take(tat, now, cost, last)
    assert int(min(base + float(cost_us), top)) == gcra_py.charge(tat, now, cost)
    back = min(float(cost_us), max(float(last_us) - float(now_us), 0.0))
    assert int(max(float(tat_us) - back, 0.0)) == gcra_py.give_back(tat, now, cost, last)


ASKED = [
    demands("a", rpm=60, burst=3),
    demands("a", rpm=60, burst=3, tpm=1000, concurrent=2),
    demands("b", rpm=3500, tpm=77_777),
    demands("c", concurrent=1) + demands("a", tpm=1000),
    (),
]
steps = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "take", "give_back", "undo", "forget"]),
        st.integers(0, len(ASKED) - 1),
        st.sampled_from([0, 1, 20, 900, 1000, 1001, 2**40, 2**64, -5, -(2**40), -(2**64)]),
        st.sampled_from([0, 1, 17_143, 1_000_000, 40_000_000, -1_000_000]),
    ),
    max_size=40,
)


@pytest.mark.compiled
@settings(max_examples=EXAMPLES, deadline=None)
@given(trace=steps)
def test_twins_keep_the_same_dicts(gcra_c: ModuleType, trace: list[tuple[str, int, int, int]]) -> None:
    """Whatever is taken from the buckets of a process and given back is granted alike and leaves the same behind."""
    ours: tuple[dict[bytes, int], dict[bytes, int]] = ({}, {})
    theirs: tuple[dict[bytes, int], dict[bytes, int]] = ({}, {})
    now_us = NOW_US
    for act, which, tokens, gap_us in trace:
        now_us += gap_us
        if act in ("give_back", "undo"):
            back = ASKED[which], _levels(ASKED[which], now_us), tokens, now_us, act == "undo"
            gcra_py.give_back_all(*ours, *back)
            gcra_c.give_back_all(*theirs, *back)
        else:
            expected = gcra_py.take_all(*ours, ASKED[which], tokens, now_us)
            assert gcra_c.take_all(*theirs, ASKED[which], tokens, now_us) == expected
        assert theirs == ours
        assert [list(kept) for kept in theirs] == [list(kept) for kept in ours]


@pytest.mark.compiled
@settings(max_examples=EXAMPLES, deadline=None)
@given(trace=steps)
def test_twins_keep_the_same_memory(gcra_c: ModuleType, trace: list[tuple[str, int, int, int]]) -> None:
    """Any use of a table answers alike and leaves the same bytes; with one group of rows it also overflows alike."""
    size_bytes = gcra_py.table_bytes(16, 16, 3)
    memories = [bytearray(size_bytes), bytearray(size_bytes)]
    tables = [
        [
            twin.Table(memory, 16, 16, 3, worker, lambda: None, lambda: None, lambda other: True)
            for twin, memory in zip((gcra_py, gcra_c), memories, strict=True)
        ]
        for worker in (1, 3)
    ]
    now_us = NOW_US
    for place, (act, which, tokens, gap_us) in enumerate(trace):
        now_us += gap_us
        more = demands(f"n{place}", rpm=1, burst=1, concurrent=1)  # a new bucket at every step fills the group
        answers = [_act(table, act, ASKED[which] + more, tokens, now_us) for table in tables[place % 2]]
        assert answers[0] == answers[1]
        assert memories[0] == memories[1]
        assert tables[0][0].used(now_us) == tables[0][1].used(now_us)
        assert tables[0][0].forgotten == tables[0][1].forgotten
    for pair in tables:
        for table in pair:
            table.close()


def _act(table: gcra_py.Table, act: str, asked: tuple[gcra_py.Cell, ...], tokens: int, now_us: int) -> object:
    if act == "take":
        return table.take(asked, tokens, now_us), table.levels(asked)
    if act in ("give_back", "undo"):
        return table.give_back(asked, _levels(asked, now_us), tokens, now_us, act == "undo")
    return table.forget_worker(3)


def _levels(asked: tuple[gcra_py.Cell, ...], now_us: int) -> tuple[int, ...]:
    """What a taking may have left the buckets at: some of it has come back by itself, or all of it."""
    return tuple(now_us + (place - 1) * 20_000_000 for place, _ in enumerate(asked))


@pytest.mark.compiled
def test_what_is_no_bucket_is_refused(gcra_c: ModuleType) -> None:
    """Wrong types and sizes are exceptions, never reads past the end of something."""
    memory = bytearray(gcra_py.table_bytes(16, 16, 2))
    callables = (lambda: None, lambda: None, lambda other: True)
    for wrong in [(32, 16, 2, 1), (16, 16, 3, 1), (16, 16, 2, 0), (16, 16, 2, 3), (0, 16, 2, 1)]:
        with pytest.raises(ValueError, match="does not hold"):
            gcra_c.Table(memory, *wrong, *callables)
    table = gcra_c.Table(memory, 16, 16, 2, 1, *callables)
    for wrong_cells in [(None,), ((0, b"x"),), ("123456",)]:
        with pytest.raises(TypeError):
            table.take(wrong_cells, 0, NOW_US)
    with pytest.raises(ValueError, match="16 bytes"):
        table.give_back(((gcra_py.TOKENS, b"short", 1, 0, 60, 60_000_000),), (0,), -1, NOW_US, False)
    for back in (table.give_back, lambda *given: gcra_c.give_back_all({}, {}, *given)):
        with pytest.raises(ValueError, match="a level for each cell"):
            back(demands(tpm=60), (), 1, NOW_US, False)
    with pytest.raises(ValueError, match="no such worker"):
        table.forget_worker(3)
    with pytest.raises(TypeError):
        gcra_c.take("1", 2, 3, 4)
    table.close()
    with pytest.raises(ValueError, match="closed"):
        table.levels(())


@pytest.mark.compiled
def test_the_compiled_twin_serves() -> None:
    """Where the extensions are built, the limits use them; SECURELLM_NO_EXTENSIONS=1 makes them use the definition."""
    program = "from securellm.limits.process import gcra; print(gcra.__name__, gcra.IMPLEMENTATION)"
    for settings_, expected in [({}, "gcra_c compiled"), ({"SECURELLM_NO_EXTENSIONS": "1"}, "gcra_py pure")]:
        environment = {name: value for name, value in os.environ.items() if name != "SECURELLM_NO_EXTENSIONS"}
        environment |= {"PYTHONPATH": str(ROOT / "src"), **settings_}
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment
        )
        assert result.stdout.strip() == f"securellm._fast.{expected}", result.stderr
