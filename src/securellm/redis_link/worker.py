"""The thread that talks to Redis: whatever is queued when it looks is shipped as one pipeline.

A hop to a thread for each command would cost ten times as much as this (a batch of 32: 35 µs a command, measured), and
a client on Trio more still. The thread alone may wait for the server, for `servers.REPLY_S` at most, and for a name
server or a connection as long as they take; it does not keep the process alive. While the breaker is open nothing is
queued, and the thread probes. An idle connection is asked for a sign of life every second: so a restarted server is
noticed before anybody needs it, and health has a figure.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from securellm.redis_link.breaker import Breaker, BreakerStatistics
from securellm.redis_link.commands import Asked, RedisUnavailable
from securellm.redis_link.servers import Connection

CALL_S = 0.05  # the longest that anybody waits, and so what a probe has to keep to
HEARTBEAT_S = 1.0
MAX_QUEUED = 8192  # commands; a full queue is as good as no Redis
MAX_QUEUED_BYTES = 32 * 1024 * 1024
MAX_BATCH = 256  # commands in one pipeline
MAX_BATCH_BYTES = 1024 * 1024  # so that a small question does not wait for many large answers
LOG_EVERY_S = 1.0

log = logging.getLogger(__name__)
clock_s = time.monotonic  # the clock of both threads


class Worker:
    """See the module. `deliver` brings answered commands into Trio's thread."""

    def __init__(
        self, connect: Callable[[], Connection], deliver: Callable[[list[Asked]], None], ended: Callable[[], None]
    ) -> None:
        self.latency_ms: float | None = None
        """of the last pipeline or sign of life"""
        self.connected = False
        """there was an answer since the start"""
        self.refusal: str | None = None
        """the last single command that was refused, until one batch has none"""
        self._connect = connect
        self._deliver = deliver
        self._ended = ended
        self._connection: Connection | None = None  # the thread's
        self._breaker = Breaker()
        self._queue: deque[Asked] = deque()
        self._queued_bytes = 0
        self._condition = threading.Condition()  # guards the queue, the breaker and the end
        self._stopping = False
        self._last_answer_s = 0.0
        self._opened_s = 0.0
        self._logged_s = float("-inf")
        self._unlogged = 0

    @property
    def queued(self) -> tuple[int, int]:
        """How many commands wait to be sent, and their bytes."""
        return len(self._queue), self._queued_bytes

    @property
    def available(self) -> bool:
        """Redis may be asked now."""
        return self._breaker.closed

    def start(self) -> None:
        """Begin; the first thing is to connect."""
        threading.Thread(target=self._run, name="redis", daemon=True).start()

    def submit(self, asked: Asked) -> None:
        """Queue a command. Never waits. Raises RedisUnavailable."""
        with self._condition:
            if not self._breaker.closed:
                raise RedisUnavailable(self._breaker.statistics().error or "it is being tried again")
            if self._stopping:
                raise RedisUnavailable("it is closed")
            if len(self._queue) >= MAX_QUEUED or self._queued_bytes + asked.size_bytes > MAX_QUEUED_BYTES:
                raise RedisUnavailable("too much waits for it already")
            self._queue.append(asked)
            self._queued_bytes += asked.size_bytes
            self._condition.notify()

    def late(self, since_s: float) -> list[Asked]:
        """Somebody has waited in vain since then; what has become hopeless thereby is returned, with its outcome."""
        reason = f"no answer within {CALL_S * 1000:.0f} ms"
        with self._condition:
            silent = self._last_answer_s < since_s
            opened = self._breaker.late(clock_s(), reason, silent=silent)
            hopeless = self._drain(reason) if opened else []
            self._condition.notify()
        if opened:
            self._log_opened(reason)
        return hopeless

    def stop(self) -> None:
        """Ship what is queued, if Redis can be asked, and end."""
        with self._condition:
            self._stopping = True
            self._condition.notify()

    def statistics(self) -> BreakerStatistics:
        """The breaker's figures."""
        with self._condition:
            return self._breaker.statistics()

    def _run(self) -> None:
        try:
            self._probe()
            while (batch := self._take()) is not None:
                if batch:
                    self._ship(batch)
                else:
                    self._probe()
        except Exception:
            log.exception("the thread of redis ends by a defect")
            self._fail("a defect ended its thread")
            with self._condition:
                self._stopping = True
        finally:
            if self._connection is not None:
                self._connection.close()
            self._ended()

    def _take(self) -> list[Asked] | None:
        """What is to be sent; nothing when a probe is due; None at the end."""
        with self._condition:
            while True:
                if self._breaker.closed and self._queue:
                    return self._pop_batch()
                if self._stopping:
                    return None
                due_s = self._last_answer_s + HEARTBEAT_S if self._breaker.closed else self._breaker.retry_s
                if (wait_s := due_s - clock_s()) <= 0:
                    return []
                self._condition.wait(wait_s)

    def _pop_batch(self) -> list[Asked]:
        batch: list[Asked] = []
        size_bytes = 0
        while self._queue and len(batch) < MAX_BATCH and size_bytes < MAX_BATCH_BYTES:
            asked = self._queue.popleft()
            self._queued_bytes -= asked.size_bytes
            if not asked.given_up:
                batch.append(asked)
                size_bytes += asked.size_bytes
        return batch

    def _ship(self, batch: list[Asked]) -> None:
        assert self._connection is not None, "the breaker is closed only after a probe"
        began_s = clock_s()
        try:
            replies = self._connection.ship(batch)
        except RedisUnavailable as exc:
            for asked in batch:
                asked.outcome = exc
            self._deliver(batch)
            self._fail(str(exc))
            return
        self._answered(began_s)
        refusals = [str(reply) for reply in replies if isinstance(reply, RedisUnavailable)]
        if refusals and refusals[-1] != self.refusal:
            self._log("redis refused a command: %s", refusals[-1])
        self.refusal = refusals[-1] if refusals else None
        for asked, reply in zip(batch, replies, strict=True):
            asked.outcome = reply
        self._deliver(batch)
        with self._condition:
            if self._breaker.closed and clock_s() - batch[0].queued_s <= CALL_S:
                self._breaker.answered()

    def _probe(self) -> None:
        """Ask for a sign of life, on a new connection where there is none; in time, it closes the breaker."""
        with self._condition:
            if not self._breaker.closed:
                self._breaker.probing()
        try:
            if self._connection is None:
                self._connection = self._connect()
                self._connection.ping()  # making the connection may take longer than its answers
            began_s = clock_s()
            self._connection.ping()
        except RedisUnavailable as exc:
            self._fail(str(exc))
            return
        self._answered(began_s)
        with self._condition:
            slow = not self._breaker.closed and clock_s() - began_s > CALL_S
            recovers = not self._breaker.closed and not slow
            if slow:
                self._breaker.failed(clock_s(), f"it answers after {self.latency_ms:.0f} ms")
            elif recovers:
                self._breaker.recovered()
        if recovers:
            self._log("redis can be used again after %.1f s", clock_s() - self._opened_s, level=logging.INFO)

    def _answered(self, began_s: float) -> None:
        self._last_answer_s = clock_s()
        self.latency_ms = (self._last_answer_s - began_s) * 1000
        self.connected = True

    def _fail(self, reason: str) -> None:
        """Whatever was, a new connection will be made; what is queued is hopeless."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        with self._condition:
            opened = self._breaker.failed(clock_s(), reason)
            hopeless = self._drain(reason)
        if hopeless:
            self._deliver(hopeless)
        if opened:
            self._log_opened(reason)

    def _drain(self, reason: str) -> list[Asked]:
        hopeless = list(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        for asked in hopeless:
            asked.outcome = RedisUnavailable(reason)
        return hopeless

    def _log_opened(self, reason: str) -> None:
        self._opened_s = clock_s()
        self._log("redis cannot be used: %s", reason)

    def _log(self, text: str, *arguments: object, level: int = logging.WARNING) -> None:
        """At most one line a second, whatever happens; the next one says how many were left out."""
        now_s = clock_s()
        if now_s - self._logged_s < LOG_EVERY_S:
            self._unlogged += 1
            return
        if self._unlogged:
            text += f" ({self._unlogged} lines like this were left out)"
        self._logged_s, self._unlogged = now_s, 0
        log.log(level, text, *arguments)
