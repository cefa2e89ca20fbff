"""The express lane as `server` opens it: one reactor, connections and upstream clients on it."""

from typing import Any

from securellm._fast.reactor_c import Reactor
from securellm.express.client import NativeClient
from securellm.express.door import ExpressConnection, Surroundings
from securellm.providers.base import Provider
from securellm.upstream.client import Client
from securellm.web.caller_address import parse_networks
from securellm.web.connection import Connection
from securellm.web.seam import Runtime


class ExpressLane:
    """Made within a Trio run; `run` is its one long-lived task, whose failure must end the process."""

    def __init__(self) -> None:
        self._reactor = Reactor()
        self._around: Surroundings | None = None

    def __repr__(self) -> str:
        return f"<ExpressLane {self._reactor!r}>"

    def open_client(self, provider: Provider) -> Client:
        """A native client for a provider that is reached over the network."""
        return NativeClient(provider, self._reactor)

    def make_connection(self, runtime: Runtime, *of_reference: Any) -> Connection:
        """A connection that has been accepted."""
        if self._around is None or self._around.config is not runtime.config:  # reloaded: for those that begin now
            self._around = self._surroundings(runtime)
        return ExpressConnection(self._around, *of_reference)

    async def run(self) -> None:
        """Serve until cancelled. Raises what goes wrong in the reactor."""
        await self._reactor.run()

    def _surroundings(self, runtime: Runtime) -> Surroundings:
        server = runtime.config.server
        return Surroundings(
            runtime=runtime,
            config=runtime.config,
            reactor=self._reactor,
            trusted_proxies=parse_networks(server.trusted_proxies),
            allowed_origins=runtime.config.security.allowed_origins,
            max_head_bytes=server.max_head_bytes,
        )
