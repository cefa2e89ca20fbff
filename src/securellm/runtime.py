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
from securellm.accounts.store import Store, open_store
from securellm.announcer import Announcer
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
from securellm.routing import Catalogue
from securellm.serving import Serving, make_serving
from securellm.telemetry.metrics import Metrics
from securellm.telemetry.requests import log_settled
from securellm.upstream.client import ClientStatistics
from securellm.upstream.origins import Origins, OriginStatistics


class RuntimeStatistics(msgspec.Struct, frozen=True):
    """What the whole process holds."""

    gateway: GatewayStatistics
    clients: list[ClientStatistics]
    origins: list[OriginStatistics]


class Prepared(msgspec.Struct, frozen=True):
    """Another configuration, ready to be put in force by `Runtime.commit`, or to be given up."""

    serving: Serving
    discovery: Discovery


class Runtime:
    """What a server needs. Made by `run`, valid inside its body."""

    def __init__(
        self,
        serving: Serving,
        gateway: Gateway,
        accounts: Accounts,
        ledger: Ledger,
        metrics: Metrics,
        discovery: Discovery,
        store: Store,
        nursery: trio.Nursery,
    ) -> None:
        self.gateway = gateway
        self.accounts = accounts
        self.ledger = ledger
        self.metrics = metrics
        self.started_s = time.monotonic()
        self._serving = serving
        self._discovery = discovery
        self._store = store
        self._nursery = nursery

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._serving.config

    @property
    def providers(self) -> dict[str, Provider]:
        """The enabled ones, by name."""
        return self._serving.providers

    @property
    def catalogue(self) -> Catalogue:
        """What can be asked for."""
        return self._serving.catalogue

    @property
    def origins(self) -> Origins:
        """How the providers are doing."""
        return self._serving.origins

    async def sync_models(self) -> list[SyncResult]:
        """Ask every provider for its models, now; one result for each."""
        return await self._discovery.sync()

    async def prepare(self, config: Config) -> Prepared:
        """Make everything that another configuration needs, and put nothing in force. Raises ConfigError."""
        prices = await trio.to_thread.run_sync(_bring_into_force, config)
        serving = make_serving(config, prices, before=self._serving)
        discovery = Discovery(serving, self._store)
        await discovery.recall()
        return Prepared(serving, discovery)

    async def give_up(self, prepared: Prepared) -> None:
        """Close what was prepared and is not wanted."""
        await prepared.serving.retire()

    def commit(self, prepared: Prepared) -> None:
        """Put it in force, at once and for every request that begins from now on. Waits for nothing."""
        before, self._serving = self._serving, prepared.serving
        self._discovery = prepared.discovery
        self.accounts.configure(prepared.serving.config)
        self.gateway.take(prepared.serving)
        self._nursery.start_soon(before.retire)

    async def aclose(self) -> None:
        """Close the connections to providers, under a shield of its own, in bounded time; part of `run`."""
        await self._serving.clients.aclose()

    def statistics(self) -> RuntimeStatistics:
        """The figures now."""
        return RuntimeStatistics(
            self.gateway.statistics(), self._serving.clients.statistics(), self.origins.statistics()
        )


async def run(config: Config, body: Callable[[Runtime], Awaitable[None]]) -> None:
    """Open everything, run `body`, close everything. Raises what a long-lived task raised."""
    metrics = Metrics()
    prices = await trio.to_thread.run_sync(_bring_into_force, config)
    serving = make_serving(config, prices)
    async with open_store(config) as store, open_audit(config) as audit:
        ledger = Ledger(audit, tariff=serving.tariff, now_us=unix_us)
        ledger.subscribe(metrics.settled)
        ledger.subscribe(log_settled)
        ledger.event("config_loaded", detail={"source": str(config.source or "defaults"), "version": __version__})
        accounts = Accounts(config, store)
        await accounts.refresh()
        gateway = Gateway(serving, accounts, ledger)
        announcer = Announcer(store, ledger)
        discovery = Discovery(serving, store)
        await discovery.recall()
        async with trio.open_nursery() as nursery:
            runtime = Runtime(serving, gateway, accounts, ledger, metrics, discovery, store, nursery)
            nursery.start_soon(accounts.keep_fresh)
            nursery.start_soon(announcer.keep_telling)
            if audit is not None:
                nursery.start_soon(AuditIndex(config.log_dir, config.database.path).keep_filled)
            try:
                await body(runtime)
            finally:
                await runtime.aclose()
            nursery.cancel_scope.cancel()


def _bring_into_force(config: Config) -> PriceTable:
    """The table of prices, kept under its name before any record says it."""
    prices = load_table(config)
    try:
        keep_table(config.state_dir, prices)
    except OSError as exc:
        raise ConfigError(f"the table of prices cannot be kept in {config.state_dir}: {exc.strerror}") from exc
    return prices
