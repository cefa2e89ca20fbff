"""The server: sockets, TLS, signals and the drain. Start reading here from outside.

Composes the parts of Hypercorn (its TCP server and HTTP/1.1 protocol, subclassed in `web/connection.py` and
`web/http1.py`) instead of calling its `serve`, because that starts the application before the runtime, cannot be told
to announce a stop, and leaves idle connections open while it stops.

    SIGTERM ── not ready ── announce_s ── no new connections ── open requests, at most term_s ── error events ── exit 0
    SIGINT   ── the same with interrupt_s and no announcement        a second signal ── at once

Importing this module imports neither Quart nor Hypercorn. `bind_sockets` stands in a module of its own, which can be
imported even before Trio.
"""

import functools
import importlib.util
import logging
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

import trio

from securellm.config.tree import Tls
from securellm.errors import ConfigError
from securellm.web.binding import bind_sockets

if TYPE_CHECKING:
    from securellm.upstream.clients import OpenClient
    from securellm.web.connection import Connection
    from securellm.web.listening import Listening
    from securellm.web.seam import Runtime

NOT_BUILT = (
    "the express lane needs the compiled extensions, which are not there: install a wheel for this platform, or build "
    "them (SECURELLM_REQUIRE_EXTENSIONS=1 pip install .) and unset SECURELLM_NO_EXTENSIONS; or: securellm serve "
    "--lane reference"
)
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


def express_is_built() -> bool:
    """Whether the extensions are there, and not switched off."""
    from securellm import _fast

    return _fast.IMPLEMENTATION == "compiled" and importlib.util.find_spec("securellm._fast.reactor_c") is not None


async def serve(
    runtime: "Runtime",
    *,
    sockets: list[socket.socket],
    lane: Lane | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on the sockets until a signal says stop and the drain is done. Starts with the URLs that are served.

    The sockets are closed on the way out. Signals can only be had in the main thread; elsewhere, cancel instead.
    """
    from securellm.web.connection import Connection
    from securellm.web.listening import Listening

    made_by_lane = lane.make_connection if lane is not None else None
    make_connection = functools.partial(made_by_lane, runtime) if made_by_lane is not None else Connection
    listening = Listening(runtime, sockets, tls_context(runtime.config.security.tls), make_connection)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            if lane is not None and lane.run is not None:
                nursery.start_soon(lane.run)
            urls = await nursery.start(listening.run)
            for url in urls:
                _log.info("serving on %s", url)
            task_status.started(urls)
            first = await _next_stop(signals)
            nursery.start_soon(_drain_then_cancel, runtime, listening, first, nursery.cancel_scope)
            await _next_stop(signals)
            _log.warning("a second signal: stopping at once, open requests are cut")
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


async def _drain_then_cancel(
    runtime: "Runtime", listening: "Listening", first: signal.Signals, scope: trio.CancelScope
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
    scope.cancel()


async def _next_stop(signals: AsyncIterator[int]) -> signal.Signals:
    """The next signal that means stop. SIGHUP does not: a reload is not built in this version."""
    async for number in signals:
        received = signal.Signals(number)
        if received is not signal.SIGHUP:
            return received
        _log.info("SIGHUP: ignored; this version reads its configuration at start only")
    raise AssertionError("the stream of signals has no end")
