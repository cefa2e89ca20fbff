"""A supervisor with workers that do one simple thing, as a program: `python small_workers.py HOW WORKERS FOLDER`.

What a worker does is told by HOW, and for the first start of a slot it may be something else: `HOW=FIRST`. Each start
leaves a line in FOLDER/starts: the slot and the process. The program prints its port before it supervises.
"""

import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec

from securellm.config import Config
from securellm.config.tree import Audit, Drain, Server, Timeouts
from securellm.errors import ConfigError
from securellm.telemetry.logs import open_logs
from securellm.workers.link import Lines, Message, Word, encode_message
from securellm.workers.supervisor import Start, Supervisor

HUNG_S = 1.0


def main(how: str, workers: int, folder: Path) -> int:
    """Supervise until told to stop; the exit code."""
    sockets = [socket.create_server(("127.0.0.1", 0))]
    print(sockets[0].getsockname()[1], flush=True)
    config = Config(
        server=Server(workers=workers), drain=Drain(term_s=2.0, interrupt_s=1.0), audit=Audit(commit_timeout_s=0.1)
    )
    later, _, first = how.partition("=")

    def work(start: Start) -> int:
        slot = start.place.slot
        with (folder / "starts").open("a") as starts:
            starts.write(f"{slot} {os.getpid()} {start.config.epoch}\n")
        slots = [line.split()[0] for line in (folder / "starts").read_text().splitlines()]
        is_first = slots.count(str(slot)) == 1
        return _do(first if first and is_first else later, start, folder)

    def load() -> Config:
        wanted = (folder / "config").read_text().split()
        if wanted[0] == "wrong":
            raise ConfigError("1 mistake in the configuration")
        if wanted[0] == "moved":
            return msgspec.structs.replace(config, state_dir=Path("/elsewhere"))
        return msgspec.structs.replace(config, epoch=wanted[0], timeouts=Timeouts(idle_s=1.0))

    with open_logs("info"):
        return Supervisor(config, sockets, folder, work=work, load=load, hung_s=HUNG_S).run()


def _do(how: str, start: Start, folder: Path) -> int:
    link = start.link
    if how == "refuses":
        return 3
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "slow":
        time.sleep(60)
    link.sendall(encode_message(Message(Word.READY)))
    if how == "deaf":
        time.sleep(60)
    if how == "stays":  # and does not stop when it is told to
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    lines = Lines()
    while True:
        readable, _, _ = select.select([link], [], [], HUNG_S / 5)
        if not readable:
            link.sendall(encode_message(Message(Word.ALIVE)))
            continue
        data = link.recv(65536)
        for message in lines.feed(data):
            with (folder / "told").open("a") as told:
                told.write(f"{start.place.slot} {message.word.value} {message.why or message.epoch}\n")
            if message.word is Word.STOP and how == "fails":
                return 4
            if message.word is Word.STOP and how != "stays":
                return 0
            if message.word is Word.PREPARE:
                why = "no room" if how == "unwilling" and start.place.slot == 2 else ""
                link.sendall(encode_message(Message(Word.PREPARED, why, attempt=message.attempt)))
            if message.word is Word.COMMIT and how == "dies" and start.place.slot == 2:
                return 5
            if message.word is Word.COMMIT:
                link.sendall(encode_message(Message(Word.COMMITTED, attempt=message.attempt)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
