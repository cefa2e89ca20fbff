"""The listeners and every connection that came in by them: the bound on their number, and how they come to an end."""

import logging
import math
import socket
import ssl
from collections.abc import Callable

import msgspec
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.logging import Logger
from hypercorn.trio.worker_context import WorkerContext

from securellm.web.app import EdgeApp
from securellm.web.connection import Connection, Limits, Stream
from securellm.web.seam import Runtime

MAX_REQUESTS = 2**40  # on one connection: never closed for their number (Hypercorn's default is 1,000)
REFUSALS_LOGGED_EVERY_S = 1.0  # whoever opens too many connections does not fill the log as well

MakeConnection = Callable[[ASGIWrapper, HypercornConfig, WorkerContext, Stream, Limits], Connection]

_log = logging.getLogger("securellm.server")


class ListeningStatistics(msgspec.Struct, frozen=True):
    """Connections open now, those of them that wait for a request, and how many were turned away."""

    connections: int
    idle: int
    refused: int


class Listening:
    """Accepts and serves. Made with sockets that listen already; `run` closes them. TLS is spoken on those of TCP."""

    def __init__(
        self,
        runtime: Runtime,
        sockets: list[socket.socket],
        tls: ssl.SSLContext | None,
        make_connection: MakeConnection = Connection,
        app: EdgeApp | None = None,
    ) -> None:
        self.app = app if app is not None else EdgeApp(runtime)
        self._wrapped = ASGIWrapper(self.app)
        self._runtime = runtime
        self._config = runtime.config
        self._hypercorn = hypercorn_config(runtime)
        self._context = WorkerContext(max_requests=None)
        self._limits = limits_of(runtime)
        self._max_connections = runtime.config.server.max_connections
        self._sockets = sockets
        self._tls = tls
        self._make_connection = make_connection
        self._accepting = trio.CancelScope()
        self._connections: set[Connection] = set()
        self._refused = 0
        self._refused_logged_s = -math.inf
        self._changed = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept until told to stop, then serve what is open until cancelled. Starts with the URLs that are served."""
        listeners = [self._listener(sock) for sock in self._sockets]
        urls = [_url(sock, tls=self._tls is not None) for sock in self._sockets]
        async with trio.open_nursery() as connections:
            with self._accepting:
                await trio.serve_listeners(
                    self._serve_one,
                    listeners,
                    handler_nursery=connections,
                    task_status=_Started(task_status, urls),
                )
            for listener in listeners:
                await listener.aclose()
            await trio.sleep_forever()  # whoever stops us cancels; an empty server is not a finished one

    def __repr__(self) -> str:
        figures = self.statistics()
        return f"<Listening connections={figures.connections} idle={figures.idle} refused={figures.refused}>"

    def announce_stop(self) -> None:
        """Say that this server is not ready; go on accepting."""
        self.app.draining = True

    async def stop_accepting(self) -> None:
        """Close the listeners and whatever is idle; what is being served is the last on its connection."""
        self._accepting.cancel()
        await self._context.terminated.set()
        for connection in list(self._connections):
            connection.close_idle()

    async def wait_until_empty(self) -> None:
        """Return when no connection is open."""
        while self._connections:
            await self._changed.wait()

    def statistics(self) -> ListeningStatistics:
        """The figures now."""
        idle = sum(connection.idle for connection in self._connections)
        return ListeningStatistics(len(self._connections), idle, self._refused)

    def _listener(self, sock: socket.socket) -> trio.SocketListener | trio.SSLListener[trio.SocketStream]:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        local = sock.family == socket.AF_UNIX
        return listener if self._tls is None or local else trio.SSLListener(listener, self._tls)

    async def _serve_one(self, stream: Stream) -> None:
        if len(self._connections) >= self._max_connections and not self._make_room():
            self._count_refused()
            await trio.aclose_forcefully(stream)
            return
        if self._runtime.config is not self._config:  # reloaded: for connections that begin now
            self._config = self._runtime.config
            self._hypercorn = hypercorn_config(self._runtime)
            self._limits = limits_of(self._runtime)
        connection = self._make_connection(self._wrapped, self._hypercorn, self._context, stream, self._limits)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._changed.set()
            self._changed = trio.Event()

    def _count_refused(self) -> None:
        self._refused += 1
        if trio.current_time() - self._refused_logged_s >= REFUSALS_LOGGED_EVERY_S:
            self._refused_logged_s = trio.current_time()
            _log.warning(
                "all %d connections (server.max_connections) are busy: %d turned away so far",
                self._max_connections,
                self._refused,
            )

    def _make_room(self) -> bool:
        """Close the connection that has been idle longest; False when all are busy."""
        idle = [connection for connection in self._connections if connection.idle]
        longest = min(idle, key=lambda connection: connection.idle_since_s, default=None)
        return longest is not None and longest.close_idle()


class QuietLog(Logger):
    """Hypercorn's log, without tracebacks: these hold what was being worked on."""

    def __init__(self, config: HypercornConfig) -> None:
        super().__init__(config)
        self.access_logger = None
        self.error_logger = _log

    async def exception(self, message: str, *args: object, **kwargs: object) -> None:
        """The message alone."""
        _log.error(message, *args)


def hypercorn_config(runtime: Runtime) -> HypercornConfig:
    """What Hypercorn's protocol reads of its own configuration."""
    config = HypercornConfig()
    config.logger_class = QuietLog
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.h11_max_incomplete_size = runtime.config.server.max_head_bytes
    config.keep_alive_max_requests = MAX_REQUESTS
    config.alpn_protocols = ["http/1.1"]
    return config


def limits_of(runtime: Runtime) -> Limits:
    """The bounds of every connection, from `[server]`."""
    server = runtime.config.server
    return Limits(
        keep_alive_s=server.keep_alive_timeout_s,
        head_s=server.head_timeout_s,
        handshake_s=server.head_timeout_s,
        write_stall_s=server.write_stall_timeout_s,
        linger_bytes=2 * server.max_request_size_bytes,
    )


class _Started:
    """Turns what `serve_listeners` starts with into the URLs."""

    def __init__(self, task_status: trio.TaskStatus[list[str]], urls: list[str]) -> None:
        self._task_status = task_status
        self._urls = urls

    def started(self, value: object = None) -> None:
        """The listeners accept."""
        self._task_status.started(self._urls)


def _url(sock: socket.socket, *, tls: bool) -> str:
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    authority = f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"
    return f"{'https' if tls else 'http'}://{authority}"
