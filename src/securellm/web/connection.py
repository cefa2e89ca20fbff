"""One connection: Hypercorn's TCPServer with deadlines on everything that the far side can delay.

One task reads for as long as the connection lives; the application's task writes. The reader carries one deadline,
which the phases move: waiting for a request (keep-alive), reading a head, none while a request is served (the gateway
bounds the body, and reading on is how a caller who hangs up is noticed), and lingering after an early answer. A write
that makes no progress for `write_stall_s` ends the connection with a reset. Hypercorn's own idle task is not used: it
is re-armed within the task that has just answered, and a cancellation there leaves the connection open for ever.
"""

import errno
import logging
import math
import socket
import ssl
import struct

import msgspec
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr

from securellm.telemetry.faults import describe_fault
from securellm.web.http1 import Http1
from securellm.web.inbox import Tasks

WRITE_SLICE_BYTES = 65536  # what must go out within write_stall_s: some 2 KiB/s at the default
Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST

_log = logging.getLogger("securellm.server")


class Limits(msgspec.Struct, frozen=True):
    """How long the far side of a connection may take, in seconds, and how much it may send."""

    keep_alive_s: float = 75.0  # idle between requests, and before the first; longer than a load balancer's idle time
    head_s: float = 10.0  # from a head's first byte to its last
    write_stall_s: float = 30.0  # one slice of an answer
    handshake_s: float = 10.0  # TLS
    close_s: float = 1.0  # TLS close_notify
    linger_idle_s: float = 5.0  # after an early answer: how long without another byte of the body (nginx: 5)
    linger_total_s: float = 30.0  # after an early answer: altogether (nginx: 30)
    linger_bytes: int = 64 * 1024 * 1024  # after an early answer: how much is thrown away


class Connection(TCPServer):
    """One accepted connection, from handshake to close."""

    stream: Stream  # type: ignore[assignment]  # Hypercorn names TLS only

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        stream: Stream,
        limits: Limits,
    ) -> None:
        super().__init__(app, config, context, {}, stream)  # type: ignore[arg-type]  # as above
        self.idle = True  # no request is being served
        self.idle_since_s = trio.current_time()
        self._limits = limits
        self._already = b""  # was read before this took the connection over
        self._transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        self._deadline_s = math.inf
        self._head_deadline_s = math.inf  # of the head that has begun
        self._reading: trio.CancelScope | None = None  # the read under way, when there is one
        self._lingering = False
        self._over = False  # nothing more is read

    async def run(self) -> None:
        """Serve until either side is done."""
        try:
            if await self._handshake():
                await self._serve()
        except OSError:
            _log.debug("a connection was lost")
        except Exception as error:  # one connection's defect must not end the others
            _log.error("a connection failed: %s", describe_fault(error))
        except BaseExceptionGroup as group:  # the same, while the server is being stopped
            cancelled, failed = group.split(trio.Cancelled)
            if failed is not None:
                _log.error("a connection failed while it was cancelled: %s", describe_fault(failed))
            if cancelled is not None:
                raise cancelled from None
        finally:
            await self._close()

    def abort(self) -> None:
        """End the connection at once with a reset; whoever reads or writes on it learns so."""
        sock = self._transport.socket
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.EINVAL):
                raise
        sock.close()
        self._stop_reading()

    def close_idle(self) -> bool:
        """End the connection if no request is being served on it; tells whether it was."""
        if self.idle:
            self._stop_reading()
        return self.idle

    def close_lingering(self) -> None:
        """Send FIN, then throw away what the caller still sends, within bounds, so that it can read the answer."""
        if not self._over and not self._lingering:
            self._lingering = True
            if isinstance(self.stream, trio.SocketStream):
                try:
                    self._transport.socket.shutdown(socket.SHUT_WR)
                except OSError:
                    self._stop_reading()
            self.wake()

    def wake(self) -> None:
        """Let the reader look at the protocol again, although no bytes arrived."""
        if self._reading is not None:
            self._reading.cancel()

    async def protocol_send(self, event: Event) -> None:
        """Do what the protocol asks for. Raises OSError when the caller is gone or does not read."""
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            self._stop_reading()
        elif isinstance(event, Updated):
            self._set_idle(event.idle)

    async def _handshake(self) -> bool:
        if not isinstance(self.stream, trio.SSLStream):
            return True
        deadline_s = trio.current_time() + self._limits.handshake_s
        try:
            with trio.CancelScope(deadline=deadline_s) as self._reading:
                await self.stream.do_handshake()
        except (trio.BrokenResourceError, ssl.SSLError):
            return False
        finished = not self._reading.cancelled_caught
        self._reading = None
        return finished

    async def _serve(self) -> None:
        sock = self._transport.socket
        client = parse_socket_addr(sock.family, sock.getpeername())
        server = parse_socket_addr(sock.family, sock.getsockname())
        tls = isinstance(self.stream, trio.SSLStream)
        tasks = Tasks(self._send_continue)
        async with tasks:
            self._http = Http1(
                self.app,
                self.config,
                self.context,
                tasks,
                state=ConnectionState({}),
                tls=tls,
                client=client and (client[0], client[1]),
                server=server and (server[0], server[1]),
                send=self.protocol_send,
                wire=self,
            )
            self._set_idle(True)
            await self._read_data()

    async def _send_continue(self) -> None:
        await self._http.send_continue()

    async def _read_data(self) -> None:
        """The reader: bytes to the protocol until either side ends the connection; then the application is told."""
        try:
            while not self._over and not self._lingering:
                if not await self._read_once():
                    break
            if self._lingering and not self._over:
                await self._discard()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            _log.debug("the caller ended a connection")
        finally:
            self._over = True
            await self._http.handle(Closed())  # does not wait: the inbox is closed and that is all

    async def _read_once(self) -> bool:
        """One read and what follows from it; False ends the connection."""
        with trio.CancelScope(deadline=self._deadline_s) as self._reading:
            if self._http.full:
                await trio.sleep_forever()  # until the answer is out and the reader is woken
            data = self._already or bytes(await self.stream.receive_some(MAX_RECV))
            self._already = b""
        woken = self._reading.cancelled_caught
        self._reading = None
        if self._over or self._lingering:
            return True
        if woken and trio.current_time() >= self._deadline_s:
            await self._on_deadline()
        elif woken:
            await self._http.pump()
        elif not data:
            return False  # a caller that closes its side counts as gone
        else:
            await self._http.handle(RawData(data))
        if self.idle and self._http.head_begun and self._deadline_s != self._head_deadline_s:
            self._deadline_s = self._head_deadline_s = trio.current_time() + self._limits.head_s
        return True

    async def _on_deadline(self) -> None:
        if self._http.head_begun:
            await self._http.refuse_slow_head(self._limits.head_s)
        else:
            self._stop_reading()

    async def _discard(self) -> None:
        left_bytes = self._limits.linger_bytes
        with trio.move_on_after(self._limits.linger_total_s):
            while left_bytes > 0:
                with trio.move_on_after(self._limits.linger_idle_s) as silence:
                    data = await self._transport.receive_some(MAX_RECV)
                if silence.cancelled_caught or not data:
                    return
                left_bytes -= len(data)

    async def _write(self, data: bytes) -> None:
        if not data:
            return  # the end of a body with a length is no bytes
        async with self.send_lock:
            view = memoryview(data)
            try:
                for start in range(0, len(view), WRITE_SLICE_BYTES):
                    with trio.fail_after(self._limits.write_stall_s):
                        await self.stream.send_all(view[start : start + WRITE_SLICE_BYTES])
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._stop_reading()
                raise ConnectionResetError(errno.ECONNRESET, "the caller is gone") from error
            except trio.TooSlowError as error:
                self.abort()
                raise ConnectionAbortedError(errno.ECONNABORTED, "the caller does not read") from error
            except BaseException:
                self.abort()  # cancelled amid a write: what was sent may end anywhere, so the connection is of no use
                raise

    def _set_idle(self, idle: bool) -> None:
        self.idle = idle
        if idle:
            self.idle_since_s = trio.current_time()
        self._head_deadline_s = math.inf
        self._deadline_s = self.idle_since_s + self._limits.keep_alive_s if idle else math.inf
        if self._reading is not None:
            self._reading.deadline = self._deadline_s

    def _stop_reading(self) -> None:
        self._over = True
        self.wake()

    async def _close(self) -> None:
        try:
            with trio.move_on_after(self._limits.close_s):
                if isinstance(self.stream, trio.SocketStream):
                    await self.stream.send_eof()
                await self.stream.aclose()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            _log.debug("a connection was closed by the other side first")
        finally:
            self._transport.socket.close()
