"""The server: sockets, TLS, signals and the drain. Start reading here from outside.

Composes the parts of Hypercorn (its TCP server and HTTP/1.1 protocol, subclassed in `web/connection.py` and
`web/http1.py`) instead of calling its `serve`, because that starts the application before the runtime, cannot be told
to announce a stop, and leaves idle connections open while it stops.

    SIGTERM ── not ready ── announce_s ── no new connections ── open requests, at most term_s ── error events ── exit 0
    SIGINT   ── the same with interrupt_s and no announcement        a second signal ── at once
    SIGHUP   ── the configuration is read again

A worker is told by its supervisor instead, and a signal of its own only begins the drain: whoever signals all processes
of a group at once does not mean it twice.

Importing this module imports neither Quart nor Hypercorn. `bind_sockets` stands in a module of its own, which can be
imported even before Trio.
"""

import logging
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from securellm.config import Config
from securellm.config.tree import Tls
from securellm.errors import ConfigError
from securellm.web.binding import bind_sockets
from securellm.web.lanes import NOT_BUILT, express_is_built
from securellm.workers.reloading import Reloader
from securellm.workers.stops import Stops

if TYPE_CHECKING:
    from securellm.upstream.clients import OpenClient
    from securellm.web.connection import Connection
    from securellm.web.listening import Listening
    from securellm.web.seam import Runtime
    from securellm.workers.worker import Link

LAST_WORDS_S = 5.0  # how long open requests have to send their error event when the drain's time is over

__all__ = ["LAST_WORDS_S", "Lane", "bind_sockets", "open_lane", "serve", "tls_context"]

_log = logging.getLogger("securellm.server")


class Lane(NamedTuple):
    """What serves: who takes an accepted connection, who asks providers, and the task that both stand on."""

    name: str
    open_client: "OpenClient"
    make_connection: "Callable[..., Connection] | None" = None  # runtime and what the reference's takes; None: that one
    run: Callable[[], Awaitable[None]] | None = None  # its failure ends the process


def open_lane(wanted: str, client: str | None = None) -> Lane:
    """The lane of that name; `auto` is the express lane where it was built. To be called within a Trio run.

    `client` is `httpx` or `native`, where it is not to be the lane's own. Raises ConfigError.
    """
    from securellm.upstream.clients import open_httpx

    built = express_is_built()
    express = wanted == "express" or (wanted == "auto" and built)
    if wanted == "auto" and not built:
        _log.info("the compiled extensions are not there: the reference lane serves")
    if not express and client != "native":
        return Lane("reference", open_httpx)
    if not built:
        raise ConfigError(NOT_BUILT)
    from securellm.express.lane import ExpressLane  # the one place that knows it

    lane = ExpressLane()
    return Lane(
        "express" if express else "reference",
        open_httpx if client == "httpx" else lane.open_client,
        lane.make_connection if express else None,
        lane.run,
    )


async def serve(
    runtime: "Runtime",
    *,
    sockets: list[socket.socket],
    lane: Lane | None = None,
    admin: list[socket.socket] | None = None,
    load: Callable[[], Config] | None = None,
    link: "Link | None" = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on the sockets until told to stop and the drain is done. Starts with the URLs that are served.

    `admin` are the sockets of administration, which end last. `load` reads the configuration again, for a reload;
    `link` leads to the supervisor, in a worker. The sockets are closed on the way out. Signals can only be had in the
    main thread; elsewhere, cancel instead.
    """
    from securellm.web.connection import Connection
    from securellm.web.listening import Listening

    made_by_lane = lane.make_connection if lane is not None else None
    make_connection = partial(made_by_lane, runtime) if made_by_lane is not None else Connection
    served = Served(runtime)
    listening = Listening(runtime, sockets, served.tls, make_connection)
    stops = Stops()
    reloader = Reloader(served, load if load is not None else lambda: runtime.config)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            if lane is not None and lane.run is not None:
                nursery.start_soon(lane.run)
            urls = await nursery.start(listening.run)
            admin_listening = None
            if admin:
                from securellm.web.administration.application import admin_app

                admin_listening = Listening(runtime, admin, served.tls, app=admin_app(runtime))
                for url in await nursery.start(admin_listening.run):
                    _log.info("administration on %s", url)
            if link is None:
                for url in urls:
                    _log.info("serving on %s", url)
                ask, asked = trio.open_memory_channel[None](1)
                nursery.start_soon(_obey_signals, signals, stops, ask)
                nursery.start_soon(_reload_when_asked, asked, reloader)
            else:
                nursery.start_soon(_obey_first_signal, signals, stops)
                nursery.start_soon(link.serve, stops, reloader)
            task_status.started(urls)
            await stops.told()
            if stops.order is not None:
                ends = partial(_drain_then_cancel, admin=admin_listening)
                nursery.start_soon(ends, runtime, listening, stops.order, nursery.cancel_scope)
            await stops.told_at_once()
            _log.warning("stopping at once: open requests are cut")
            nursery.cancel_scope.cancel()


def tls_context(tls: Tls) -> ssl.SSLContext | None:
    """The TLS settings, None where plain HTTP is served. HTTP/1.1 is the only protocol that is offered.

    Raises ConfigError.
    """
    if tls.cert_path is None or tls.key_path is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(tls.cert_path, tls.key_path)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"security.tls: the certificate or its key cannot be loaded: {reason}") from error
    return context


class Served:
    """The runtime with its certificate, reloaded together: handshakes after the commit are made with the new one.

    `tls` is for the listeners, for as long as they live; None where plain HTTP is served. Raises ConfigError.
    """

    def __init__(self, runtime: "Runtime") -> None:
        self._runtime = runtime
        self.tls = self._certified = tls_context(runtime.config.security.tls)
        if self.tls is not None:
            self.tls.sni_callback = self._choose  # called in every handshake, whether a name is asked for or not

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._runtime.config

    @property
    def ledger(self) -> Any:
        """The books."""
        return self._runtime.ledger

    async def prepare(self, config: Config) -> tuple[Any, ssl.SSLContext | None]:
        """What the runtime prepares, with the certificate as it is on the disk now. Raises SecureLLMError."""
        certified = await trio.to_thread.run_sync(tls_context, config.security.tls)
        return await self._runtime.prepare(config), certified

    async def give_up(self, prepared: tuple[Any, ssl.SSLContext | None]) -> None:
        """Close what was prepared and is not wanted."""
        await self._runtime.give_up(prepared[0])

    def commit(self, prepared: tuple[Any, ssl.SSLContext | None]) -> None:
        """Put it in force."""
        self._runtime.commit(prepared[0])
        self._certified = prepared[1]

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        if self._certified is not None:
            connection.context = self._certified


async def _drain_then_cancel(
    runtime: "Runtime",
    listening: "Listening",
    first: signal.Signals,
    scope: trio.CancelScope,
    *,
    admin: "Listening | None",
) -> None:
    drain = runtime.config.drain
    patient = first is signal.SIGTERM
    patience_s = drain.term_s if patient else drain.interrupt_s
    _log.info("%s: finishing open requests within %g s", first.name, patience_s)
    listening.announce_stop()
    if patient:
        await trio.sleep(drain.announce_s)
    await listening.stop_accepting()
    runtime.gateway.stop_accepting()
    with trio.move_on_after(patience_s) as waiting:
        await listening.wait_until_empty()
    if waiting.cancelled_caught:
        _log.warning("ending %d connections that did not finish in time", listening.statistics().connections)
        runtime.gateway.end_streams()
        with trio.move_on_after(LAST_WORDS_S):
            await listening.wait_until_empty()
    if admin is not None:
        await admin.stop_accepting()
        with trio.move_on_after(LAST_WORDS_S):
            await admin.wait_until_empty()
    scope.cancel()


async def _obey_signals(signals: AsyncIterator[int], stops: Stops, ask: trio.MemorySendChannel[None]) -> None:
    """A process that serves alone: the first signal begins the drain, a second one ends it."""
    async for number in signals:
        if number == signal.SIGHUP:
            with suppress(trio.WouldBlock):  # one is waiting already, and will read what there is then
                ask.send_nowait(None)
        elif stops.order is None:
            stops.drain(signal.Signals(number))
        else:
            stops.at_once()


async def _reload_when_asked(asked: trio.MemoryReceiveChannel[None], reloader: Reloader) -> None:
    async for _ in asked:
        await reloader.reload()


async def _obey_first_signal(signals: AsyncIterator[int], stops: Stops) -> None:
    """A worker: it is the supervisor who becomes impatient, and who reloads."""
    async for number in signals:
        if number != signal.SIGHUP:
            stops.drain(signal.Signals(number))
