"""Starts the workers, replaces those that die, and stops them together. The first process of `serve --workers N`.

It holds the listening sockets, opened before anything heavy is imported, and forks: a worker inherits them with the
configuration and the link, and imports what it needs. Forking before the heavy imports instead of after them keeps
this process small and without threads or an event loop, which is what makes fork safe. All workers accept on the same
sockets, so what waits in the kernel's queue outlives any of them; with SO_REUSEPORT and a socket each, the queue of a
killed worker is reset, and that of one that hangs is never served.

    start    worker 1 alone, which makes what there is one of (schema, keys, banner); then the others at once
    death    replaced at once; one that dies young is waited for, a little longer each time; one that never gets to
             serve ends the gateway with an error
    hang     a worker whose event loop has not turned for HUNG_S is killed, and replaced like any other
    stop     every worker drains; who is not done when the drain's time is over is killed, and the exit code says so
    reload   all workers prepare; if all can, all commit; one that fails to commit in time is killed and replaced

A worker asks the kernel to be killed when this process dies, so that no port stays held. No Trio here: one thread, one
selector, and everything that happens is a line on a link, a signal, or the time.
"""

import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from securellm.config import Config
from securellm.config.changes import fixed_changes
from securellm.errors import SecureLLMError
from securellm.workers.agreement import Agreement, Commit, Done, Refuse
from securellm.workers.link import NOW, Message, Word
from securellm.workers.place import Place
from securellm.workers.process import WorkerProcess, describe_end, die_with

STARTS_AT_MOST = 6  # in a row that do not get to serve; with the waiting between them some six seconds
FIRST_WAIT_S = 0.1  # after the second death in a row; twice as long each time
LONGEST_WAIT_S = 5.0
YOUNG_S = 5.0  # who dies sooner after it began to serve may have died of what kills the next one, too
HUNG_S = 60.0  # ten times what a heartbeat may be late on a machine that is much too busy
GRACE_S = 15.0  # after the drain: last words, the audit log's last commit, the interpreter's end
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

_log = logging.getLogger("securellm.workers")


class Start(NamedTuple):
    """What a new worker is given."""

    place: Place
    config: Config
    link: socket.socket
    announces: bool  # it tells the person at the terminal that the gateway serves


class Supervisor:
    """See the module. `run` blocks until everything has ended and returns the exit code.

    `work` is what a worker does: called in the new process, it returns that process's exit code. `load` reads the
    configuration again; it raises SecureLLMError.
    """

    def __init__(
        self,
        config: Config,
        sockets: list[socket.socket],
        run_dir: Path,
        *,
        work: Callable[[Start], int],
        load: Callable[[], Config],
        hung_s: float = HUNG_S,
    ) -> None:
        self._hung_s = hung_s
        self._config = config
        self._sockets = sockets
        self._run_dir = run_dir
        self._work = work
        self._load = load
        self._workers: dict[int, WorkerProcess] = {
            slot: WorkerProcess(slot) for slot in range(1, config.server.workers + 1)
        }
        self._selector = selectors.DefaultSelector()
        self._wakes, self._woken = socket.socketpair()
        self._stopping: signal.Signals | None = None
        self._stop_ends_s = 0.0
        self._exit_code = 0
        self._announced = False
        self._complete = False  # all of them have served at one time
        self._agreement: Agreement | None = None
        self._reload_wanted = False
        self._attempts = 0  # at reloading

    def __repr__(self) -> str:
        serving = sum(worker.ready_s is not None for worker in self._workers.values())
        return f"<Supervisor {serving} of {len(self._workers)} workers serve>"

    def run(self) -> int:
        """Supervise until told to stop."""
        for end in (self._wakes, self._woken):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        before = {number: signal.signal(number, _note) for number in SIGNALS}
        wakeup_before = signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        try:
            self._spawn(self._workers[1])
            while any(worker.pid for worker in self._workers.values()) or self._stopping is None:
                self._wait()
                self._reap()
                self._look_at_the_time()
            return self._exit_code
        finally:
            for worker in self._workers.values():
                worker.kill()
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._close()

    # what happens

    def _wait(self) -> None:
        for key, _ in self._selector.select(self._time_left_s()):
            if key.data is None:
                self._take_signals()
            else:
                self._hear(key.data)

    def _take_signals(self) -> None:
        for number in self._woken.recv(4096):
            if number in (signal.SIGTERM, signal.SIGINT):
                self._take_stop(signal.Signals(number))
            elif number == signal.SIGHUP:
                self._reload_wanted = True

    def _take_stop(self, order: signal.Signals) -> None:
        if self._stopping is None:
            self._stop(order)
            return
        _log.warning("a second signal: stopping at once, open requests are cut")
        self._tell_all(Message(Word.STOP, NOW))
        self._stop_ends_s = min(self._stop_ends_s, time.monotonic() + GRACE_S)

    def _hear(self, worker: WorkerProcess) -> None:
        try:
            data = worker.link.recv(65_536) if worker.link is not None else b""
            messages = worker.lines.feed(data)
        except BlockingIOError:
            return
        except OSError:  # it ended before it had read everything
            data, messages = b"", []
        except (ValueError, msgspec.MsgspecError) as exc:
            _log.error("worker %d cannot be understood and is replaced: %s", worker.slot, exc)
            worker.kill()
            return
        if not data and worker.link is not None:  # its death is told by a signal, too
            self._selector.unregister(worker.link)
            worker.link.close()
            worker.link = None
        worker.heard_s = time.monotonic()
        for message in messages:
            if message.word is Word.READY:
                self._take_ready(worker)
            elif self._agreement is not None and message.attempt == self._attempts:
                self._agreement.hear(worker.slot, message)

    def _take_ready(self, worker: WorkerProcess) -> None:
        worker.ready_s = time.monotonic()
        _log.info("worker %d serves", worker.slot, extra={"fields": {"pid": worker.pid}})
        if not self._announced and self._stopping is None:
            self._announced = True
            for other in self._workers.values():
                if other is not worker:
                    self._spawn(other)
        if not self._complete and self._all_serve():
            self._complete = True
            _log.info("all %d workers serve", len(self._workers))

    def _reap(self) -> None:
        for worker in self._workers.values():
            status = worker.wait()
            if status is None:
                continue
            self._hear(worker)  # its last words
            self._forget_link(worker)
            served = worker.ready_s is not None
            young = not served or time.monotonic() - (worker.ready_s or 0) < YOUNG_S
            worker.ready_s = None
            if self._stopping is not None:
                self._take_end(worker, status, served=served)
                continue
            worker.deaths = worker.deaths + 1 if young else 1
            worker.starts_in_vain = 0 if served else worker.starts_in_vain + 1
            refused = not served and not self._complete and status > 0
            if refused or worker.starts_in_vain >= STARTS_AT_MOST:
                self._give_up(worker, status)
                continue
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (worker.deaths - 2)) if worker.deaths > 1 else 0.0
            worker.start_at_s = time.monotonic() + wait_s
            _log.error(
                "worker %d %s; it is replaced%s",
                worker.slot,
                describe_end(status),
                f" in {wait_s:g} s" if wait_s else "",
            )

    def _take_end(self, worker: WorkerProcess, status: int, *, served: bool) -> None:
        """A worker has ended while all are to end."""
        if status != 0 and (served or status > 0):
            _log.error("worker %d %s while it stopped", worker.slot, describe_end(status))
            self._exit_code = self._exit_code or 1

    def _give_up(self, worker: WorkerProcess, status: int) -> None:
        self._exit_code = status if status > 0 else 1
        if self._announced:
            _log.critical("worker %d %s and cannot be started: the gateway stops", worker.slot, describe_end(status))
        self._stop(signal.SIGINT)

    def _look_at_the_time(self) -> None:
        now_s = time.monotonic()
        if self._stopping is not None:
            if now_s >= self._stop_ends_s:
                for worker in self._workers.values():
                    worker.kill()
            return
        for worker in self._workers.values():
            if worker.pid is None and worker.start_at_s is not None and now_s >= worker.start_at_s:
                self._spawn(worker)
            elif worker.ready_s is not None and now_s - worker.heard_s > self._hung_s and not worker.has_unread():
                _log.error("worker %d has not turned its event loop for %g s: killed", worker.slot, self._hung_s)
                worker.kill()
        self._go_on_reloading(now_s)

    def _time_left_s(self) -> float | None:
        """How long nothing can become due; None when only events matter."""
        due_s = [worker.start_at_s for worker in self._workers.values() if worker.start_at_s is not None]
        if self._stopping is not None:
            due_s = [self._stop_ends_s]
        elif self._agreement is not None:
            due_s.append(self._agreement.ends_s)
        else:
            due_s += [worker.heard_s + self._hung_s for worker in self._workers.values() if worker.ready_s is not None]
        return max(0.0, min(due_s) - time.monotonic() + 0.001) if due_s else None

    # stopping

    def _stop(self, order: signal.Signals) -> None:
        self._stopping = order
        drain = self._config.drain
        patience_s = drain.announce_s + drain.term_s if order is signal.SIGTERM else drain.interrupt_s
        self._stop_ends_s = time.monotonic() + patience_s + self._config.audit.commit_timeout_s + GRACE_S
        for bound in self._sockets:  # theirs go on; when the last of them is closed, the port is free
            bound.close()
        self._tell_all(Message(Word.STOP, order.name))
        for worker in self._workers.values():
            worker.start_at_s = None
            if worker.ready_s is None:
                worker.kill(signal.SIGTERM)  # it does not listen to its link yet

    def _tell_all(self, message: Message) -> None:
        for worker in self._workers.values():
            worker.tell(message)

    # reloading

    def _go_on_reloading(self, now_s: float) -> None:
        agreement = self._agreement
        if agreement is None:
            if self._reload_wanted and self._all_serve():
                self._reload_wanted = False
                self._begin_reload(now_s)
            return
        decision = agreement.decide(self._pids(), now_s)
        if isinstance(decision, Refuse):
            self._refuse_reload(decision.why)
        elif isinstance(decision, Commit):
            self._config = agreement.config  # a worker that dies from now on is replaced by one with the new
            self._tell_all(Message(Word.COMMIT, attempt=self._attempts))
        elif isinstance(decision, Done):
            for slot in decision.late:
                _log.error("worker %d did not take the new configuration: killed", slot)
                self._workers[slot].kill()
            _log.info("the configuration with epoch %s is in force in all workers", self._config.epoch)
            self._agreement = None

    def _begin_reload(self, now_s: float) -> None:
        _log.info("SIGHUP: reading the configuration again")
        try:
            config = self._load()
        except SecureLLMError as error:
            self._refuse_reload(error.message)
            return
        changes = fixed_changes(self._config, config)
        if changes:
            self._refuse_reload(f"a restart is needed to change {', '.join(changes)}")
            return
        self._attempts += 1
        self._agreement = Agreement(config, self._pids(), now_s)
        self._tell_all(Message(Word.PREPARE, epoch=config.epoch, attempt=self._attempts))

    def _refuse_reload(self, why: str) -> None:
        _log.error("the configuration is not reloaded, the old one stays in force: %s", why)
        for worker in self._workers.values():
            worker.tell(Message(Word.ABORT, why if worker.slot == 1 else ""))
        self._agreement = None

    def _pids(self) -> dict[int, int | None]:
        return {slot: worker.pid for slot, worker in self._workers.items()}

    def _all_serve(self) -> bool:
        return all(worker.ready_s is not None for worker in self._workers.values())

    # processes

    def _spawn(self, worker: WorkerProcess) -> None:
        ours, theirs = socket.socketpair()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # else what is buffered is written by both
        parent = os.getpid()
        # A signal that the new process got before it forgets our handlers would be written to our wake-up socket.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid = os.fork()
        if pid == 0:
            ours.close()
            os._exit(self._be(worker.slot, theirs, parent))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        theirs.close()
        ours.setblocking(False)
        worker.begin(pid, ours)
        self._selector.register(ours, selectors.EVENT_READ, worker)

    def _be(self, slot: int, link: socket.socket, parent: int) -> int:
        """In the new process: work, and return the exit code. Nothing may be raised into the supervisor's frames."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            die_with(parent)
            self._close()
            for other in self._workers.values():
                if other.link is not None:
                    other.link.close()
            place = Place(slot, len(self._workers), self._run_dir)
            code = self._work(Start(place, self._config, link, announces=not self._announced))
        except KeyboardInterrupt:
            code = INTERRUPTED
        except BaseException:
            logging.getLogger("securellm.workers").critical("worker %d failed", slot, exc_info=True)
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
        return code

    def _close(self) -> None:
        self._selector.close()
        self._wakes.close()
        self._woken.close()

    def _forget_link(self, worker: WorkerProcess) -> None:
        if worker.link is not None:
            self._selector.unregister(worker.link)
            worker.link.close()
            worker.link = None


def _note(number: int, frame: object) -> None:
    """A signal came: its number is read from the wake-up socket. Without a handler it would not be written there."""
