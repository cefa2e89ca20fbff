"""Load on a running gateway, and what came of it: a thread a connection, each asks again when it has its answer.

Threads and the standard library, so that the command starts as quickly as the others. One process that measures takes
time of its own: about a thousand requests a second is the most that it can tell of.
"""

import contextlib
import http.client
import itertools
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import msgspec

from securellm import __version__
from securellm.cli.gateway import READ_BYTES, nobody, open_connection, reason, refusal
from securellm.errors import UpstreamInvalid
from securellm.wire.sse import SSESplitter

CHAT_PATH = "/v1/chat/completions"
ENDED_S = 2.0  # threads that were told to stop have this long
LOOK_S = 0.1  # so often the main thread looks whether all is done, and can be interrupted


@dataclass
class Measured:
    """What came of the requests, over all threads. Times are seconds, of good answers only."""

    latencies_s: list[float] = field(default_factory=list)
    first_tokens_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    elapsed_s: float = 0.0
    interrupted: bool = False

    @property
    def good(self) -> int:
        """Answers that were whole and no errors."""
        return len(self.latencies_s)

    @property
    def failed(self) -> int:
        """All others."""
        return self.errors.total()


class _Failed(Exception):
    """A request came to nothing; the text is the code that it is counted under."""


class Load:
    """A number of the same request, over a number of connections."""

    def __init__(self, url: str, said_in: str, key: str | None, request: dict[str, object]) -> None:
        self._url = url
        self._said_in = said_in
        self._path = url.split("://", 1)[-1].partition("/")[2].rstrip("/")
        self._streamed = request.get("stream") is True
        self._body = msgspec.json.encode(request)
        self._headers = {"user-agent": f"securellm-cli/{__version__}", "content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        self._measured = Measured()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._open: dict[int, http.client.HTTPConnection] = {}

    def run(self, requests: int, connections: int, at_most_s: float) -> Measured:
        """Ask until all is asked, time is over, or Ctrl-C. Raises ClickException when no gateway is there."""
        probe = open_connection(self._url, self._said_in)
        try:
            probe.connect()
        except OSError as exc:
            raise nobody(self._url, exc) from exc
        finally:
            probe.close()
        tickets = itertools.count(1)
        started = time.monotonic()
        deadline = started + at_most_s
        threads = [
            threading.Thread(target=self._work, args=(number, tickets, requests, deadline), daemon=True)
            for number in range(min(requests, connections))
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
                for thread in threads:
                    thread.join(LOOK_S / len(threads))
        except KeyboardInterrupt:
            self._measured.interrupted = True
        with self._lock:
            self._measured.elapsed_s = time.monotonic() - started
            self._stop.set()  # from here on nothing is counted
        self._cut()
        for thread in threads:
            thread.join(ENDED_S)
        return self._measured

    def _work(self, number: int, tickets: "itertools.count[int]", requests: int, deadline: float) -> None:
        connection = self._open[number] = open_connection(self._url, self._said_in)
        with contextlib.closing(connection):
            while not self._stop.is_set() and next(tickets) <= requests:
                self._ask(connection, deadline)

    def _ask(self, connection: http.client.HTTPConnection, deadline: float) -> None:
        """One request, counted as what it was."""
        started = time.monotonic()
        first_s, failure = None, None
        try:
            if connection.sock is None:
                connection.connect()
            if connection.sock is not None:
                connection.sock.settimeout(max(deadline - started, LOOK_S))
            connection.request("POST", f"{self._prefix}{CHAT_PATH}", self._body, self._headers)
            first_s = self._read(connection.getresponse(), started)
        except _Failed as exc:
            failure = str(exc)
            connection.close()  # what is left of the answer is not read
        except (OSError, http.client.HTTPException, ValueError) as exc:
            failure = reason(exc)
            connection.close()
        taken_s = time.monotonic() - started
        with self._lock:
            if self._stop.is_set():
                return
            if failure is not None:
                self._measured.errors[failure] += 1
                return
            self._measured.latencies_s.append(taken_s)
            if first_s is not None:
                self._measured.first_tokens_s.append(first_s)

    @property
    def _prefix(self) -> str:
        return f"/{self._path}" if self._path else ""

    def _read(self, response: http.client.HTTPResponse, started: float) -> float | None:
        """Read an answer to its end; of a stream, the seconds to its first token. Raises _Failed."""
        if response.status != 200 or not self._streamed:
            body = response.read()
            if response.status != 200:
                refused = refusal(response.status, body)
                raise _Failed(f"{response.status} {refused.code}" if refused.code else str(response.status))
            return None
        return _read_stream(response, started)

    def _cut(self) -> None:
        """Wake whoever waits for an answer."""
        for connection in list(self._open.values()):
            wire = connection.sock
            if isinstance(wire, socket.socket):
                with contextlib.suppress(OSError):
                    wire.shutdown(socket.SHUT_RDWR)


def _read_stream(response: http.client.HTTPResponse, started: float) -> float | None:
    splitter = SSESplitter()
    first_s: float | None = None
    ended = False
    try:
        while piece := response.read1(READ_BYTES):
            for event in splitter.feed(piece):
                if event.data == b"[DONE]":
                    ended = True
                elif event.data is not None and _says_something(event.data) and first_s is None:
                    first_s = time.monotonic() - started
    except UpstreamInvalid as exc:
        raise _Failed("unreadable stream") from exc
    if not ended:
        raise _Failed("stream without its end")
    return first_s


def _says_something(data: bytes) -> bool:
    """Whether a chunk brings text. Raises _Failed when it is an error."""
    try:
        chunk = msgspec.json.decode(data)
    except msgspec.DecodeError as exc:
        raise _Failed("unreadable stream") from exc
    if not isinstance(chunk, dict):
        raise _Failed("unreadable stream")
    error = chunk.get("error")
    if error is not None:
        raise _Failed(f"stream ended in {(error.get('code') if isinstance(error, dict) else None) or 'an error'}")
    choices = chunk.get("choices") or []
    return any((choice.get("delta") or {}).get("content") for choice in choices if isinstance(choice, dict))


def quantile(values: list[float], share: float) -> float:
    """The value that this share of them, of which there is at least one, is not above."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
