"""What one configuration makes of the gateway, whole: a reload makes another, and a request keeps its own.

Nothing here changes once it is made, but for what providers say of their models and how they are doing, and for what is
kept so that it need not be found twice. It is retired when another is in force and its last request is settled; then
its connections to providers are closed.
"""

from typing import NamedTuple

import trio

from securellm.audit.bodies import BodyRecorder
from securellm.audit.content import open_content_store
from securellm.config import Config
from securellm.ledger import Tariff
from securellm.limits.limiter import Limiter
from securellm.pricing.bound import Ceiling
from securellm.pricing.table import PriceTable
from securellm.providers.base import Provider
from securellm.providers.registry import describe_providers
from securellm.providers.shipped import load_shipped
from securellm.routing import Catalogue
from securellm.upstream.ask import Asker
from securellm.upstream.clients import OpenClient, UpstreamClients, open_httpx
from securellm.upstream.origins import Origins


class KnownCeiling(NamedTuple):
    """What bounds requests to one target, found when the catalogue was of that generation."""

    generation: int
    ceiling: Ceiling


class Serving:
    """See the module. Whoever makes it calls `retire` once another is in force, or at the end."""

    def __init__(
        self,
        config: Config,
        providers: dict[str, Provider],
        catalogue: Catalogue,
        prices: PriceTable,
        origins: Origins,
        clients: UpstreamClients,
        bodies: BodyRecorder,
        limiter: Limiter,
    ) -> None:
        self.config = config
        self.providers = providers
        self.catalogue = catalogue
        self.prices = prices
        self.origins = origins
        self.clients = clients
        self.bodies = bodies
        self.limiter = limiter
        self.asker = Asker(
            clients,
            origins,
            config.timeouts,
            config.heartbeat,
            catalogue.max_output,
            commit_timeout_s=config.audit.commit_timeout_s,
        )
        self.tariff = Tariff(config.epoch, prices.sha256, prices.cost_nusd)
        self.ceilings: dict[tuple[str, str], KnownCeiling] = {}  # by provider and model; see `candidates.py`
        self._open_requests = 0
        self._left: trio.Event | None = None  # set when the last request has left, once somebody waits for it

    def __repr__(self) -> str:
        return f"<Serving epoch={self.config.epoch} open_requests={self._open_requests}>"

    def enter(self) -> None:
        """A request begins under this configuration; it calls `leave` once."""
        self._open_requests += 1

    def leave(self) -> None:
        """A request that began here is settled."""
        self._open_requests -= 1
        if self._left is not None and not self._open_requests:
            self._left.set()

    async def retire(self) -> None:
        """Wait for the last request, then close the connections to providers; also when cancelled."""
        try:
            if self._open_requests:
                self._left = trio.Event()
                await self._left.wait()
        finally:
            await self.clients.aclose()  # under a shield of its own, in bounded time


def make_serving(
    config: Config,
    prices: PriceTable,
    limiter: Limiter,
    open_client: OpenClient = open_httpx,
    *,
    before: Serving | None = None,
) -> Serving:
    """What a configuration makes; providers that are described as before keep what is known of how they are doing."""
    providers = describe_providers(config)
    origins = before.origins.kept_for(providers.values()) if before is not None else Origins()
    return Serving(
        config,
        providers,
        Catalogue(config, providers, load_shipped()),
        prices,
        origins,
        UpstreamClients(providers, open_client),
        BodyRecorder(config.audit, open_content_store(config)),
        limiter,
    )
