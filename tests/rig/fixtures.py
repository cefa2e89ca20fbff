"""The fixtures of the end-to-end suites; `tests/conftest.py` makes them known."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from rig.fake_provider import FakeProvider, open_fake_provider
from rig.gateway import RunningGateway, make_config, run_gateway
from rig.pairs import PROVIDER_KINDS
from rig.speech import MODEL

Lane = tuple[str, str]
Serving = Callable[..., Awaitable[RunningGateway]]


@pytest.fixture
def lane() -> Lane:
    """The lane that serves, and which upstream client it has; suites that run over several have a fixture over this."""
    return "reference", "httpx"


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    """One fake provider, without a script."""
    async with open_fake_provider([MODEL]) as fake:
        yield fake


@pytest.fixture
async def second_provider() -> AsyncIterator[FakeProvider]:
    """Another one, for fallbacks."""
    async with open_fake_provider([MODEL]) as fake:
        yield fake


@pytest.fixture
def serving(nursery: trio.Nursery, tmp_path: Path, lane: Lane) -> Serving:
    """Starts a gateway of the test's own settings; it ends with the test."""

    async def start(fakes: FakeProvider | Mapping[str, FakeProvider | str], /, **settings: Any) -> RunningGateway:
        names = dict.fromkeys(PROVIDER_KINDS, fakes) if isinstance(fakes, FakeProvider) else fakes
        folder = tmp_path / f"gateway{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        running: RunningGateway = await nursery.start(run_gateway, make_config(folder, names, **settings), *lane)
        return running

    return start


@pytest.fixture
async def gateway(serving: Serving, provider: FakeProvider) -> RunningGateway:
    """A gateway with every kind of provider, all of them the one fake provider."""
    return await serving(provider)
