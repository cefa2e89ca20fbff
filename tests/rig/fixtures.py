"""The fixtures of the end-to-end suites; `tests/conftest.py` makes them known."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from rig.fake_provider import FakeProvider, open_fake_provider
from rig.gateway import RunningGateway, make_config, run_gateway
from rig.pairs import PROVIDER_KINDS
from rig.speech import MODEL
from rig.tls import certificate, open_tls_caller, open_tls_front, trusting

Lane = tuple[str, str, bool]  # the lane that serves, its upstream client, and whether TLS is spoken on both sides
Serving = Callable[..., Awaitable[RunningGateway]]


@pytest.fixture
def lane() -> Lane:
    """What serves; suites that run over several combinations have a fixture over this one."""
    return "reference", "httpx", False


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
def serving(nursery: trio.Nursery, tmp_path: Path, lane: Lane) -> Iterator[Serving]:
    """Starts a gateway of the test's own settings; it ends with the test."""
    name, client, tls = lane

    async def start(fakes: FakeProvider | Mapping[str, FakeProvider | str], /, **settings: Any) -> RunningGateway:
        names = dict.fromkeys(PROVIDER_KINDS, fakes) if isinstance(fakes, FakeProvider) else fakes
        folder = tmp_path / f"gateway{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        if tls:
            names = {name: await _behind_tls(nursery, fake) for name, fake in names.items()}
            cert_path, key_path = map(str, certificate())
            security = settings.get("security", {})
            settings["security"] = {**security, "tls": {"cert_path": cert_path, "key_path": key_path}}
        config = make_config(folder, names, **settings)
        running: RunningGateway = await nursery.start(run_gateway, config, name, client)
        if tls:
            running.port = await open_tls_caller(nursery, running.port)
        return running

    with trusting() if tls else contextlib.nullcontext():
        yield start


async def _behind_tls(nursery: trio.Nursery, fake: FakeProvider | str) -> str:
    if isinstance(fake, str):
        return fake
    return f"https://localhost:{await open_tls_front(nursery, fake.port)}"


@pytest.fixture
async def gateway(serving: Serving, provider: FakeProvider) -> RunningGateway:
    """A gateway with every kind of provider, all of them the one fake provider."""
    return await serving(provider)
