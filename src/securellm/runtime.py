"""Everything long-lived, opened in order and closed in the reverse order, around whatever serves.

The runtime wraps the server and not the other way round: a long-lived task that crashes ends the process with its
error, and the books are closed after the last connection. This is the one nursery for long-lived work.
"""

import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from securellm import __version__
from securellm.accounts.snapshot import Accounts
from securellm.accounts.store import Store, open_store
from securellm.announcer import Announcer
from securellm.audit.index import open_index
from securellm.audit.opening import open_audit, unix_us
from securellm.commons import Commons, open_commons
from securellm.config import Config
from securellm.discovery import Discovery, SyncResult
from securellm.errors import ConfigError, StoreUnavailable
from securellm.gateway import Gateway, GatewayStatistics
from securellm.ledger import Ledger
from securellm.limits.budgets import Budgets
from securellm.limits.limiter import Limiter
from securellm.pricing.kept import keep_table, load_table
from securellm.pricing.table import PriceTable
from securellm.providers.base import Provider
from securellm.redis_link.link import RedisStatistics
from securellm.routing import Catalogue
from securellm.serving import Serving, make_serving
from securellm.telemetry.logs import dropped_lines
from securellm.telemetry.metrics import Metrics
from securellm.telemetry.requests import log_settled
from securellm.under_way import UnderWay
from securellm.upstream.client import ClientStatistics
from securellm.upstream.clients import OpenClient, open_httpx
from securellm.upstream.origins import Origins, OriginStatistics
from securellm.workers.channel import Channel
from securellm.workers.place import ALONE, Place

INDEX_RETRY_S = 10.0  # between two looks for a store that is down

_log = logging.getLogger("securellm.runtime")


class RuntimeStatistics(msgspec.Struct, frozen=True):
    """What the whole process holds."""

    gateway: GatewayStatistics
    clients: list[ClientStatistics]
    origins: list[OriginStatistics]


class WorkerStatus(msgspec.Struct, frozen=True):
    """How one worker is; `error` says why that cannot be told."""

    slot: int
    error: str | None = None
    pid: int | None = None
    uptime_s: int | None = None
    config_epoch: str | None = None
    open_requests: int | None = None


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
        commons: Commons,
        open_client: OpenClient,
        channel: Channel,
        nursery: trio.Nursery,
    ) -> None:
        self.gateway = gateway
        self.accounts = accounts
        self.ledger = ledger
        self.metrics = metrics
        self.channel = channel  # to the other workers
        self.under_way = UnderWay(gateway, ledger, channel)
        self.started_s = time.monotonic()
        self._serving = serving
        self._discovery = discovery
        self.store = store
        self.commons = commons
        self._open_client = open_client
        self._nursery = nursery
        channel.register("status", self._status)
        channel.register("metrics", self._show_metrics)

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

    @property
    def limiter(self) -> Limiter:
        """The limits in force."""
        return self._serving.limiter

    @property
    def budgets(self) -> Budgets:
        """What was spent, and what is reserved."""
        return self.commons.budgets

    @property
    def redis(self) -> RedisStatistics | None:
        """How Redis is; None when it is not used."""
        return self.commons.link.statistics() if self.commons.link is not None else None

    async def sync_models(self) -> list[SyncResult]:
        """Ask every provider for its models, now; one result for each."""
        return await self._discovery.sync()

    async def expose_metrics(self) -> bytes:
        """What all workers counted, in Prometheus's text format."""
        await self.channel.ask_all("metrics")  # one that does not answer is shown as it was last
        return await trio.to_thread.run_sync(self.metrics.expose)  # milliseconds with many series

    async def workers(self) -> list[WorkerStatus]:
        """How every worker is, by slot; one that does not answer has only the reason."""
        return [
            msgspec.convert(reply.result, WorkerStatus) if not reply.error else WorkerStatus(reply.worker, reply.error)
            for reply in await self.channel.ask_all("status")
        ]

    async def prepare(self, config: Config) -> Prepared:
        """Make everything that another configuration needs, and put nothing in force. Raises ConfigError."""
        prices = await trio.to_thread.run_sync(_bring_into_force, config)
        serving = make_serving(
            config, prices, self.commons.limiter(config.rate_limit), self._open_client, before=self._serving
        )
        discovery = Discovery(serving, self.store)
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

    async def _status(self, arguments: dict[str, Any]) -> dict[str, Any]:
        gateway = self.gateway.statistics()
        status = WorkerStatus(
            self.channel.place.slot,
            pid=os.getpid(),
            uptime_s=int(time.monotonic() - self.started_s),
            config_epoch=self.config.epoch,
            open_requests=gateway.open_requests,
        )
        return msgspec.structs.asdict(status)

    async def _show_metrics(self, arguments: dict[str, Any]) -> None:
        """Bring what is not counted as it happens up to date."""
        for provider in self.providers.values():
            self.metrics.breaker(provider.name, self.origins.of(provider).statistics().state.name.lower())
        books = self.gateway.statistics().ledger
        self.metrics.counted("securellm_bookkeeper_failures", books.failures)
        self.metrics.counted("securellm_log_lines_dropped", dropped_lines())
        self._show_budgets()
        if self.redis is not None:
            self.metrics.show("securellm_redis_state", value=self.redis.breaker.value)
            self.metrics.counted("securellm_redis_failures", self.redis.failures)
        if books.audit is not None:
            self.metrics.audited(
                available=books.audit.available,
                pending=books.audit.pending,
                gap=books.audit.gap,
                last_commit_ms=books.audit.last_commit_ms,
            )

    def _show_budgets(self) -> None:
        budgets = self.commons.budgets.statistics()
        for kind, refused in budgets.exceeded.items():
            self.metrics.counted("securellm_budget_exceeded", refused, kind)
        self.metrics.counted("securellm_budget_unavailable", budgets.unavailable)
        self.metrics.counted("securellm_budget_overruns", budgets.overruns)
        self.metrics.counted("securellm_budget_overrun_usd", budgets.overrun_nusd / 1_000_000_000)
        self.metrics.counted("securellm_budget_stale", budgets.stale)
        self.metrics.show("securellm_budget_exchange_seconds", value=(budgets.latency_ms or 0.0) / 1000)

    def statistics(self) -> RuntimeStatistics:
        """The figures now."""
        return RuntimeStatistics(
            self.gateway.statistics(), self._serving.clients.statistics(), self.origins.statistics()
        )


async def run(
    config: Config,
    body: Callable[[Runtime], Awaitable[None]],
    place: Place = ALONE,
    *,
    open_client: OpenClient = open_httpx,
) -> None:
    """Open everything, run `body`, close everything. Raises what a long-lived task raised.

    What only one of several workers should do is done by the first. `open_client` makes the client of a provider.
    """
    metrics = Metrics(place.run_dir, place.slot)
    prices = await trio.to_thread.run_sync(_bring_into_force, config)
    async with (
        open_store(config) as store,
        open_audit(config, place.slot) as audit,
        _open_accounts(config, store) as accounts,
        open_commons(config, place, accounts, metrics) as commons,
    ):
        serving = make_serving(config, prices, commons.limiter(config.rate_limit), open_client)
        ledger = Ledger(audit, tariff=serving.tariff, now_us=unix_us)
        ledger.subscribe(metrics.settled)
        ledger.subscribe(log_settled)
        ledger.event("config_loaded", detail={"source": str(config.source or "defaults"), "version": __version__})
        gateway = Gateway(serving, accounts, commons.budgets, commons.answers, ledger)
        accounts.on_change(gateway.end_requests_of)
        discovery = Discovery(serving, store)
        await discovery.recall()
        channel = Channel(place)
        async with trio.open_nursery() as nursery:
            runtime = Runtime(
                serving, gateway, accounts, ledger, metrics, discovery, store, commons, open_client, channel, nursery
            )
            nursery.start_soon(accounts.keep_fresh)
            nursery.start_soon(commons.keep)
            await nursery.start(channel.serve)
            if place.first:
                nursery.start_soon(Announcer(store, ledger).keep_telling)
            if place.first and audit is not None:
                nursery.start_soon(_keep_index_filled, config)
                nursery.start_soon(_close_orphans, config, place)
            try:
                await body(runtime)
            finally:
                await runtime.aclose()
            nursery.cancel_scope.cancel()


async def _close_orphans(config: Config, place: Place) -> None:
    from securellm.audit.orphans import close_orphans  # cryptography is imported only where a log is kept

    await close_orphans(config, place.workers)


async def _keep_index_filled(config: Config) -> None:
    """Keep the index of the audit log filled; where the store is not there yet, look for it again."""
    while True:
        try:
            index = await trio.to_thread.run_sync(open_index, config)
        except StoreUnavailable as error:
            _log.warning("the index of the audit log is not filled yet: %s", error.message)
            await trio.sleep(INDEX_RETRY_S)
        else:
            await index.keep_filled()


@asynccontextmanager
async def _open_accounts(config: Config, store: Store) -> AsyncIterator[Accounts]:
    """The accounts as they are now; a store that is down is no reason not to start."""
    accounts = Accounts(config, store)
    await accounts.refresh()
    yield accounts


def _bring_into_force(config: Config) -> PriceTable:
    """The table of prices, kept under its name before any record says it."""
    prices = load_table(config)
    try:
        keep_table(config.state_dir, prices)
    except OSError as exc:
        raise ConfigError(f"the table of prices cannot be kept in {config.state_dir}: {exc.strerror}") from exc
    return prices
