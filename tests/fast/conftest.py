"""Both twins by name: a test module says which with TWIN = "sse". A compiled one that is missing fails, never skips."""

import importlib
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def pure(request: pytest.FixtureRequest) -> ModuleType:
    """The definition."""
    return importlib.import_module(f"securellm._fast.{request.module.TWIN}_py")


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> ModuleType:
    """The compiled twin; tests that ask for it are marked `compiled`."""
    return importlib.import_module(f"securellm._fast.{request.module.TWIN}_c")


@pytest.fixture(scope="module", params=["pure", pytest.param("compiled", marks=pytest.mark.compiled)])
def twin(request: pytest.FixtureRequest) -> ModuleType:
    """Each of the two in turn."""
    chosen = request.getfixturevalue(request.param)
    assert isinstance(chosen, ModuleType)
    return chosen
