"""The real product in this process: its runtime and its server on port 0, in front of fake providers.

Nothing of the product is replaced: a TOML file is written and loaded, the runtime opens its store under the test's
own folder, and the server listens on loopback. `settlements` is what the ledger delivered, one for each request.
"""

import contextlib
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from rig.doors import KEY, Door
from rig.fake_provider import FakeProvider
from rig.pairs import PROVIDER_KINDS
from rig.raw_client import Response, fetch
from rig.toml import encode_toml
from securellm.chat import Settlement

if TYPE_CHECKING:
    from securellm.config import Config

PROVIDER_KEY = "sk-rig-provider-key-do-not-forward"  # what the gateway shows to the providers
# Providers that answer at once are not worth a second attempt's wait, so suites that test retries say so themselves.
_PROVIDER_DEFAULTS: dict[str, Any] = {"max_retries": 0}
_STARTED_S = 20.0  # a gateway that is not listening by then is broken


class RunningGateway:
    """One gateway that is serving."""

    def __init__(self, config: "Config", runtime: Any, port: int) -> None:
        self.config = config
        self.runtime = runtime
        self.port = port
        self.admin_port: int | None = None  # of [admin] bind
        self.key = KEY
        self.settlements: list[Settlement] = []
        self.stopped = trio.Event()
        self._stop = trio.Event()
        self._arrival = trio.Event()

    @property
    def base_url(self) -> str:
        """The origin of the gateway, without a path."""
        return f"http://127.0.0.1:{self.port}"

    async def settled(self, count: int = 1) -> Settlement:
        """Wait until that many requests are settled; returns the last of them."""
        while len(self.settlements) < count:
            await self._arrival.wait()
        return self.settlements[count - 1]

    async def only_settlement(self) -> Settlement:
        """The one settlement there is; fails when a second one follows while everything that is ready runs."""
        settlement = await self.settled()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(self.settlements) == 1, self.settlements
        return settlement

    async def ask(
        self, door: Door, body: bytes, headers: Mapping[str, str] | None = None, *, key: str = KEY
    ) -> Response:
        """One request at a door, on a connection of its own."""
        return await fetch(self.base_url, "POST", door.path, body, {**door.auth(key), **(headers or {})})

    async def get(self, target: str, headers: Mapping[str, str] | None = None) -> Response:
        """One GET with the key."""
        return await fetch(self.base_url, "GET", target, None, {"authorization": f"Bearer {KEY}", **(headers or {})})

    async def stop(self) -> None:
        """Cancel it and wait until nothing of it is left."""
        self._stop.set()
        await self.stopped.wait()

    def _record(self, settlement: Settlement) -> None:
        self.settlements.append(settlement)
        self._arrival.set()
        self._arrival = trio.Event()


async def run_gateway(
    config: "Config",
    lane: str = "reference",
    client: str | None = None,
    *,
    task_status: trio.TaskStatus[RunningGateway] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a gateway until it is stopped or cancelled; its handle is the value of `nursery.start`.

    `lane` and `client` are as in `server.open_lane`.
    """
    from securellm import runtime, server  # not at the top: the rig's own tests need neither
    from securellm.web.administration.sockets import open_admin_sockets

    with contextlib.ExitStack() as closing:
        listener = closing.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        listener.setblocking(False)
        handle: list[RunningGateway] = []
        opened_lane = server.open_lane(lane, client)

        async def body(opened: Any) -> None:
            running = RunningGateway(config, opened, listener.getsockname()[1])
            handle.append(running)
            opened.ledger.subscribe(running._record)
            async with trio.open_nursery() as nursery:
                admin = closing.enter_context(open_admin_sockets(config, first=True))
                running.admin_port = next(
                    (sock.getsockname()[1] for sock in admin if sock.family == socket.AF_INET), None
                )
                with trio.fail_after(_STARTED_S):
                    serve = partial(server.serve, opened, sockets=[listener], lane=opened_lane, admin=admin)
                    await nursery.start(serve)
                task_status.started(running)
                await running._stop.wait()
                nursery.cancel_scope.cancel()

        try:
            await runtime.run(config, body, open_client=opened_lane.open_client)
        finally:
            for running in handle:
                running.stopped.set()


def make_config(folder: Path, fakes: Mapping[str, FakeProvider | str], /, **settings: Any) -> "Config":
    """The loaded configuration of a gateway whose state is under `folder`.

    `fakes` maps the name of a provider to the fake (or base URL) that stands for it. `settings` are sections,
    laid over the rig's own; `providers={"openai": {...}}` adds to one provider's settings.
    """
    from securellm.config import load_config  # not at the top: the rig's own tests need no product

    sections: dict[str, Any] = {
        "server": {"host": "127.0.0.1"},
        "rate_limit": {"enabled": False},  # suites that test limits say so; others ask faster than the defaults allow
        "models": {f"{name}/*": {"free": True} for name in fakes},
        "providers": {
            name: {
                "enabled": True,
                "kind": PROVIDER_KINDS.get(name, "openai-compatible"),
                "base_url": fake if isinstance(fake, str) else fake.base_url,
                **({} if name == "ollama" else {"api_key": "env:RIG_PROVIDER_KEY"}),
                **_PROVIDER_DEFAULTS,
            }
            for name, fake in fakes.items()
        },
    }
    path = folder / "config.toml"
    path.write_text(encode_toml(_merged(sections, settings)), encoding="utf-8")
    environ = {
        "CONFIG_PATH": str(path),
        "RIG_PROVIDER_KEY": PROVIDER_KEY,
        "API_KEYS": KEY,
        "STATE_DIRECTORY": str(folder / "state"),
        "LOGS_DIRECTORY": str(folder / "log"),
    }
    return load_config(environ=environ)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        under = merged.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            value = _merged(under, value)
        merged[key] = value
    return merged
