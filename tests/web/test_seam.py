"""What the edge asks of the gateway is what the gateway has, and what the tests' own gateway has."""

import inspect
from typing import Any

import pytest

from rig import edge
from rig.edge import EdgeGateway, EdgeRuntime, edge_config
from securellm.gateway import Gateway
from securellm.permit import Permit
from securellm.runtime import Runtime
from securellm.upstream.stream import Pulled, Upstream
from securellm.web import seam


def _members(protocol: type) -> list[str]:
    return [name for name in vars(protocol) if not name.startswith("_") or name in {"__aenter__", "__aexit__"}]


def _parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def _named_in_init(kind: type, name: str) -> bool:
    return any(mark in inspect.getsource(kind.__init__) for mark in (f"self.{name} =", f"self.{name}:"))  # type: ignore[misc]  # read, not called


@pytest.mark.parametrize(
    ("protocol", "kind"),
    [
        (seam.Gateway, Gateway),
        (seam.Gateway, EdgeGateway),
        (seam.Permit, Permit),
        (seam.Permit, edge.Permit),
        (seam.Upstream, Upstream),
        (seam.Upstream, edge.Upstream),
        (seam.Pulled, Pulled),
        (seam.Pulled, edge.Pulled),
        (seam.Runtime, Runtime),
        (seam.Runtime, EdgeRuntime),
    ],
)
def test_both_have_every_member(protocol: type, kind: type) -> None:
    """Every name of the seam is there, on the real thing and on the fake, and methods take the same parameters."""
    for name in _members(protocol):
        wanted, found = inspect.getattr_static(protocol, name), inspect.getattr_static(kind, name, None)
        assert found is not None or _named_in_init(kind, name), f"{kind.__name__} has no {name}"
        if inspect.isfunction(wanted) and inspect.isfunction(found) and not name.startswith("__"):
            assert _parameters(found) == _parameters(wanted), f"{kind.__name__}.{name}"
            assert inspect.iscoroutinefunction(found) == inspect.iscoroutinefunction(wanted), f"{kind.__name__}.{name}"


def test_the_fake_runtime_is_complete() -> None:
    """An instance of the fake has everything, too."""
    runtime = EdgeRuntime(edge_config())
    assert [name for name in _members(seam.Runtime) if not hasattr(runtime, name)] == []
