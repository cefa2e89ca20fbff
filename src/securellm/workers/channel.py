"""How the workers of one gateway ask each other: a socket each in `<state>/run`, one line of JSON there and one back.

Whoever owns a feature registers a handler by name; every worker has the same ones. Asking all includes the worker that
asks, and never fails: a worker that is being replaced, hangs or breaks off is an answer with an error. The sockets are
private to the user that runs the gateway, as is their directory. A process that serves alone has no socket.
"""

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import msgspec
import trio

from securellm.errors import SecureLLMError
from securellm.workers.place import Place

ANSWER_S = 1.0
HANDLING_S = 30.0  # nobody waits for longer, and a caller that hangs does not hold a task for ever
LINE_BYTES_AT_MOST = 16 * 1024 * 1024  # lists of ten thousand requests
SOCKET_MODE = 0o600
BACKLOG = 128

Handler = Callable[[dict[str, Any]], Awaitable[Any]]

_log = logging.getLogger("securellm.workers")


class Question(msgspec.Struct, frozen=True):
    """What is asked."""

    command: str
    arguments: dict[str, Any]


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one worker said: a result, or why there is none."""

    worker: int
    result: Any = None
    error: str = ""


class Channel:
    """See the module. Handlers take the arguments and return what JSON can say."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._handlers: dict[str, Handler] = {}
        self._replies = msgspec.json.Decoder(Reply)
        self._questions = msgspec.json.Decoder(Question)

    def __repr__(self) -> str:
        return f"<Channel worker {self.place.slot} of {self.place.workers}: {', '.join(sorted(self._handlers))}>"

    def register(self, command: str, handler: Handler) -> None:
        """Answer `command` by `handler` from now on."""
        self._handlers[command] = handler

    async def ask(
        self, worker: int, command: str, arguments: Mapping[str, Any] | None = None, *, deadline_s: float = ANSWER_S
    ) -> Reply:
        """What that worker says. Raises nothing but Cancelled."""
        question = Question(command, dict(arguments or {}))
        with trio.move_on_after(deadline_s):
            if worker == self.place.slot:
                return await self._answer(question)
            try:
                return await self._fetch(worker, question)
            except (OSError, trio.BrokenResourceError):
                return Reply(worker, error="not there")
            except (ValueError, msgspec.MsgspecError) as exc:
                return Reply(worker, error=f"not understood: {exc}")
        return Reply(worker, error=f"no answer within {deadline_s:g} s")

    async def ask_all(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, deadline_s: float = ANSWER_S
    ) -> list[Reply]:
        """What every worker says, in the order of their slots; all are asked at once."""
        replies: dict[int, Reply] = {}

        async def ask_one(worker: int) -> None:
            replies[worker] = await self.ask(worker, command, arguments, deadline_s=deadline_s)

        if self.place.workers == 1:
            await ask_one(self.place.slot)
        else:
            async with trio.open_nursery() as nursery:
                for worker in self.place.slots:
                    nursery.start_soon(ask_one, worker)
        return [replies[worker] for worker in self.place.slots]

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer the other workers until cancelled. Returns at once where there are none."""
        if self.place.run_dir is None:
            task_status.started()
            return
        with _socket_path(self.place, self.place.slot) as path:
            sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # of the worker that had this slot before
            umask = os.umask(0o777 & ~SOCKET_MODE)
            try:
                await sock.bind(path)
            finally:
                os.umask(umask)
            sock.listen(BACKLOG)
            async with trio.SocketListener(sock) as listener:
                task_status.started()
                await trio.serve_listeners(self._serve_one, [listener])

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        with trio.move_on_after(HANDLING_S), contextlib.suppress(trio.BrokenResourceError, ValueError):
            async with stream:
                question = self._questions.decode(await _read_line(stream))
                reply = await self._answer(question)
                await stream.send_all(msgspec.json.encode(reply, enc_hook=str) + b"\n")

    async def _answer(self, question: Question) -> Reply:
        handler = self._handlers.get(question.command)
        if handler is None:
            return Reply(self.place.slot, error=f"no such command: {question.command}")
        try:
            return Reply(self.place.slot, await handler(question.arguments))
        except SecureLLMError as error:
            return Reply(self.place.slot, error=error.message)
        except Exception:
            _log.exception("answering %s to another worker failed", question.command)
            return Reply(self.place.slot, error="internal error")

    async def _fetch(self, worker: int, question: Question) -> Reply:
        async with _connect(self.place, worker) as stream:
            await stream.send_all(msgspec.json.encode(question, enc_hook=str) + b"\n")
            return self._replies.decode(await _read_line(stream))


async def _read_line(stream: trio.SocketStream) -> bytes:
    """One line without its end. Raises ValueError when there is none, or it is too long."""
    pieces = bytearray()
    while True:
        piece = await stream.receive_some(65_536)
        pieces += piece
        if piece.endswith(b"\n"):
            return bytes(pieces[:-1])
        if not piece or len(pieces) > LINE_BYTES_AT_MOST:
            raise ValueError(f"no line within {len(pieces)} bytes")


@contextlib.asynccontextmanager
async def _connect(place: Place, worker: int) -> AsyncIterator[trio.SocketStream]:
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        with _socket_path(place, worker) as path:
            await sock.connect(path)
        yield trio.SocketStream(sock)
    finally:
        sock.close()


@contextlib.contextmanager
def _socket_path(place: Place, worker: int) -> Iterator[str]:
    """A name for that worker's socket that is short enough: the path itself may have more than 107 bytes."""
    assert place.run_dir is not None  # only who has others beside it has sockets
    directory = os.open(place.run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/w{worker}.sock"
    finally:
        os.close(directory)
