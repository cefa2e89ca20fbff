"""Leaving out what libraries import for others: gone while they are imported, and there for everybody else."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from securellm.loading import StandIn, leave_out

LIBRARY = """
from left_part import Base, convert, quick
from left_part.below import Deep
import left_part

class Derived(Base, dict):
    pass

def use(value):
    return convert(value)

def expect():
    try:
        raise KeyError("x")
    except left_part.OddError:
        return "odd"
    except KeyError:
        return "key"
"""
PART = """
class Base:
    pass

class OddError(Exception):
    pass

def convert(value):
    return value * 2

def quick():
    return "slow"
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A library, and what it imports; both are forgotten at the end."""
    (tmp_path / "left_library.py").write_text(LIBRARY)
    (tmp_path / "left_part").mkdir()
    (tmp_path / "left_part" / "__init__.py").write_text(PART)
    (tmp_path / "left_part" / "below.py").write_text("class Deep:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("left_")]:
        del sys.modules[name]


def load(given: dict[str, Any] | None = None) -> Any:
    with leave_out({"left_part": given or {}}):
        return importlib.import_module("left_library")


@pytest.mark.usefixtures("packages")
def test_a_library_is_imported_without_its_part() -> None:
    """The part is not run, and neither it nor what is below it stays among the modules."""
    library = load()
    assert isinstance(library.left_part, StandIn)
    assert not any(name.startswith("left_part") for name in sys.modules)


@pytest.mark.usefixtures("packages")
def test_others_import_the_real_one() -> None:
    """Whoever imports the part afterwards, or one below it, gets the real thing."""
    load()
    assert importlib.import_module("left_part").quick() == "slow"
    assert not isinstance(importlib.import_module("left_part.below"), StandIn)


@pytest.mark.usefixtures("packages")
def test_what_is_called_after_all_is_imported_then() -> None:
    """A function of the part does what it always did, though it was left out."""
    library = load()
    assert library.use(21) == 42
    assert type(library.Deep()).__module__ == "left_part.below"


@pytest.mark.usefixtures("packages")
def test_what_is_given_is_taken() -> None:
    """What the table gives for a part is what the library finds there."""
    assert load({"quick": lambda: "given"}).quick() == "given"


@pytest.mark.usefixtures("packages")
def test_a_class_derived_from_a_stand_in_says_so() -> None:
    """It cannot be made any more, and the error names what was left out."""
    with pytest.raises(RuntimeError, match=r"left_library\.Derived needs left_part:Base, which was left out"):
        load().Derived()


@pytest.mark.usefixtures("packages")
def test_an_except_goes_past_a_stand_in() -> None:
    """An exception that can never be raised does not break the handler of another."""
    assert load().expect() == "key"


@pytest.mark.usefixtures("packages")
def test_what_is_there_already_stays() -> None:
    """A part that was imported before is used as it is."""
    part = importlib.import_module("left_part")
    library = load()
    assert library.left_part is part
    assert sys.modules["left_part"] is part


@pytest.mark.usefixtures("packages")
def test_an_import_that_fails_leaves_no_stand_ins(tmp_path: Path) -> None:
    """Also then the real part can be imported afterwards."""
    before = list(sys.meta_path)
    (tmp_path / "left_library.py").write_text(LIBRARY + "import left_nothing\n")
    with pytest.raises(ModuleNotFoundError):
        load()
    assert sys.meta_path == before
    assert importlib.import_module("left_part").quick() == "slow"
