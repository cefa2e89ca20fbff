"""A process that takes from a shared table of limits, told what to do by lines of JSON: one answer for each.

Run as `python limit_worker.py <table> <slot> <workers> <twin>`; it ends when its input does.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rig.limit_stores import demands, twin_of
from securellm.limits.shared import open_shared_store

TESTS = Path(__file__).parent.parent


class LimitWorker:
    """The test's end of one such process."""

    def __init__(self, table: Path, slot: int, twin: str, workers: int = 4) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(table), str(slot), str(workers), twin],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": f"{TESTS}:{TESTS.parent / 'src'}"},
        )

    def tell(self, **order: Any) -> None:
        """Send an order; `answer` reads what comes of it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """The answer to the oldest order that has none."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, **order: Any) -> Any:
        """Both."""
        self.tell(**order)
        return self.answer()

    def kill(self) -> None:
        """SIGKILL, and wait until it is dead."""
        self.process.kill()
        self.close()

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


def _work(table: Path, slot: int, workers: int, twin: str) -> None:
    with open_shared_store(table, slot, workers, twin=twin_of(twin)) as store:
        print(json.dumps("attached"), flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            asked = [demands(subject, **order.get("rates", {})) for subject in order.get("subjects", ["k"])]
            tokens, now_us = order.get("tokens", 0), order.get("now_us", 0)
            if order["act"] == "take":
                granted = [0] * len(asked)
                for _ in range(order["times"]):  # round and round, so that the workers meet in every bucket
                    for place, one in enumerate(asked):
                        granted[place] += isinstance(store.take(one, tokens, now_us), tuple)
                print(json.dumps(granted), flush=True)
            elif order["act"] == "end":
                for one in asked:
                    store.give_back(one, (0,), 0, now_us)
                print(json.dumps("ended"), flush=True)
            elif order["act"] == "lock":
                store._acquire()
                print(json.dumps("locked"), flush=True)
                signal.pause()
            elif order["act"] == "spin":
                print(json.dumps("spinning"), flush=True)
                until_s = time.monotonic() + 30
                while time.monotonic() < until_s:
                    store.take(asked[0], tokens, now_us)
                    store.give_back(asked[0][-1:], (0,), 0, now_us)


if __name__ == "__main__":
    _work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
