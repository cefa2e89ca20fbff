"""Which twins serve: all the compiled ones or all the pure ones, chosen once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FAST = ROOT / "src" / "securellm" / "_fast"
TWINS = sorted(path.name.removesuffix("_py.py") for path in FAST.glob("*_py.py"))
OF_THE_LANE = {"reactor", "request_body"}  # whose reference is the other lane

# Every twin that `_fast` exports, and the module in which what it gives was made.
SHOW = """
import sys
from securellm import _fast
names = [name for name in _fast.__all__ if name != "IMPLEMENTATION"]
print(_fast.IMPLEMENTATION, *sorted(getattr(_fast, name).__name__.rpartition(".")[2] for name in names))
"""


def test_every_twin_is_exported() -> None:
    """Each definition has a compiled twin beside it, and `_fast` offers it under its name."""
    from securellm import _fast

    found = sorted(path.name.removesuffix("_c.pyx") for path in FAST.glob("*_c.pyx"))
    assert [name for name in found if name not in OF_THE_LANE] == TWINS
    assert sorted(_fast.__all__) == ["IMPLEMENTATION", *TWINS]


@pytest.mark.compiled
def test_the_compiled_twins_serve() -> None:
    """Where the extensions are built, the product uses them."""
    assert _chosen(SHOW) == ["compiled", *(f"{name}_c" for name in TWINS)]


def test_the_pure_twins_can_be_asked_for() -> None:
    """SECURELLM_NO_EXTENSIONS=1 makes the product use the pure twins, built or not."""
    assert _chosen(SHOW, SECURELLM_NO_EXTENSIONS="1") == ["pure", *(f"{name}_py" for name in TWINS)]


@pytest.mark.compiled
@pytest.mark.parametrize("missing", TWINS)
def test_one_that_is_missing_means_pure_for_all(missing: str) -> None:
    """No mixture: where one extension was not built, every twin is the pure one."""
    without = f"import sys; sys.modules['securellm._fast.{missing}_c'] = None\n"
    assert _chosen(without + SHOW) == ["pure", *(f"{name}_py" for name in TWINS)]


def _chosen(program: str, **settings: str) -> list[str]:
    """What a fresh process with these settings takes."""
    environment = {name: value for name, value in os.environ.items() if name != "SECURELLM_NO_EXTENSIONS"}
    environment |= {"PYTHONPATH": str(ROOT / "src"), **settings}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()
