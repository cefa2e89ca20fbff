"""Everything long-lived, opened in order and closed in the reverse order, around whatever serves.

The runtime wraps the server and not the other way round: a long-lived task that crashes ends the process with its
error, and the books are closed after the last connection. This is the one nursery for long-lived work.
"""

import time
from collections.abc import Awaitable, Callable

import msgspec
import trio

from securellm import __version__
from securellm.accounts.snapshot import Accounts
from securellm.accounts.store import open_store
from securellm.announcer import Announcer
from securellm.audit.bodies import BodyRecorder
from securellm.audit.content import open_content_store
from securellm.audit.index import AuditIndex
from securellm.audit.opening import open_audit, unix_us
from securellm.config import Config
from securellm.discovery import Discovery, SyncResult
from securellm.errors import ConfigError
from securellm.gateway import Gateway, GatewayStatistics
from securellm.ledger import Ledger
from securellm.pricing.kept import keep_table, load_table
from securellm.pricing.table import PriceTable
from securellm.providers.base import Provider
from securellm.providers.registry import describe_providers
from securellm.providers.shipped import load_shipped
from securellm.routing import Catalogue
from securellm.telemetry.metrics import Metrics
from securellm.telemetry.requests import log_settled
from securellm.upstream.ask import Asker
from securellm.upstream.client import ClientStatistics
from securellm.upstream.clients import OpenClient, UpstreamClients, open_httpx
from securellm.upstream.origins import Origins, OriginStatistics


class RuntimeStatistics(msgspec.Struct, frozen=True):
    """What the whole process holds."""

    gateway: GatewayStatistics
    clients: list[ClientStatistics]
    origins: list[OriginStatistics]


class Runtime:
    """What a server needs. Made by `run`, valid inside its body."""

    def __init__(
        self,
        config: Config,
        gateway: Gateway,
        accounts: Accounts,
        providers: dict[str, Provider],
        catalogue: Catalogue,
        ledger: Ledger,
        metrics: Metrics,
        clients: UpstreamClients,
        origins: Origins,
        discovery: Discovery,
    ) -> None:
        self.config = config
        self.gateway = gateway
        self.accounts = accounts
        self.providers = providers  # the enabled ones, by name
        self.catalogue = catalogue
        self.ledger = ledger
        self.metrics = metrics
        self.origins = origins
        self.started_s = time.monotonic()
        self._clients = clients
        self._discovery = discovery

    async def sync_models(self) -> list[SyncResult]:
        """Ask every provider for its models, now; one result for each."""
        return await self._discovery.sync()

    def statistics(self) -> RuntimeStatistics:
        """The figures now."""
        return RuntimeStatistics(self.gateway.statistics(), self._clients.statistics(), self.origins.statistics())


async def run(
    config: Config, body: Callable[[Runtime], Awaitable[None]], *, open_client: OpenClient = open_httpx
) -> None:
    """Open everything, run `body`, close everything. Raises what a long-lived task raised."""
    providers = describe_providers(config)
    catalogue = Catalogue(config, providers, load_shipped())
    clients = UpstreamClients(providers, open_client)
    origins = Origins()
    metrics = Metrics()
    prices = await trio.to_thread.run_sync(_bring_into_force, config)
    async with open_store(config) as store, open_audit(config) as audit:
        ledger = Ledger(audit, epoch=config.epoch, cost=prices.cost_nusd, price_table=prices.sha256, now_us=unix_us)
        ledger.subscribe(metrics.settled)
        ledger.subscribe(log_settled)
        ledger.event("config_loaded", detail={"source": str(config.source or "defaults"), "version": __version__})
        accounts = Accounts(config, store)
        await accounts.refresh()
        asker = Asker(clients, origins, config.timeouts, config.heartbeat, catalogue.max_output)
        bodies = BodyRecorder(config.audit, open_content_store(config))
        gateway = Gateway(config, accounts, catalogue, prices, origins, asker, ledger, bodies)
        announcer = Announcer(store, ledger)
        discovery = Discovery(providers, catalogue, clients, store, connect_s=config.timeouts.connect_s)
        await discovery.recall()
        runtime = Runtime(config, gateway, accounts, providers, catalogue, ledger, metrics, clients, origins, discovery)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accounts.keep_fresh)
                nursery.start_soon(announcer.keep_telling)
                if audit is not None:
                    nursery.start_soon(AuditIndex(config.log_dir, config.database.path).keep_filled)
                await body(runtime)
                nursery.cancel_scope.cancel()
        finally:
            await clients.aclose()  # under a shield of its own, in bounded time


def _bring_into_force(config: Config) -> PriceTable:
    """The table of prices, kept under its name before any record says it."""
    prices = load_table(config)
    try:
        keep_table(config.state_dir, prices)
    except OSError as exc:
        raise ConfigError(f"the table of prices cannot be kept in {config.state_dir}: {exc.strerror}") from exc
    return prices
