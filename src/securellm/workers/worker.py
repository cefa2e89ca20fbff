"""A worker's end of the link to its supervisor: says that it serves and that it lives, and does what it is told."""

import logging
import signal
import socket

import msgspec
import trio

from securellm.workers.link import NOW, Lines, Message, Word, encode_message
from securellm.workers.reloading import Reloader
from securellm.workers.stops import Stops

HEARTBEAT_S = 5.0

_log = logging.getLogger("securellm.workers")


class Link:
    """See the module."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = trio.socket.from_stdlib_socket(sock)

    async def serve(self, stops: Stops, reloader: Reloader) -> None:
        """Tell that connections are accepted, then do what comes, until cancelled. Without a supervisor: stop."""
        try:
            await self._serve(stops, reloader)
        except (OSError, ValueError, msgspec.MsgspecError) as exc:
            _log.error("the link to the supervisor is broken: %s", exc)
        stops.at_once()

    async def _serve(self, stops: Stops, reloader: Reloader) -> None:
        await self._say(Message(Word.READY))
        lines = Lines()
        while True:
            data = b""
            with trio.move_on_after(HEARTBEAT_S) as waiting:
                data = await self._socket.recv(65_536)
            if waiting.cancelled_caught:
                await self._say(Message(Word.ALIVE))
                continue
            if not data:
                return
            for message in lines.feed(data):
                await self._do(message, stops, reloader)

    async def _do(self, message: Message, stops: Stops, reloader: Reloader) -> None:
        if message.word is Word.STOP:
            if message.why == NOW:
                stops.at_once()
            else:
                stops.drain(signal.Signals[message.why])
        elif message.word is Word.PREPARE:
            why = await reloader.prepare(message.epoch)
            await self._say(Message(Word.PREPARED, why, attempt=message.attempt))
        elif message.word is Word.COMMIT:
            reloader.commit()
            await self._say(Message(Word.COMMITTED, attempt=message.attempt))
        elif message.word is Word.ABORT:
            await reloader.abort(message.why)

    async def _say(self, message: Message) -> None:
        data = encode_message(message)
        while data:
            data = data[await self._socket.send(data) :]
