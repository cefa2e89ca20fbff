"""A process that reserves from budgets in a store that others share, as a worker of the gateway does.

Run as `python spending_worker.py ORDERS`, a JSON object; see `Orders`. It says `ready`, waits for a line, and sends its
requests, all at once. Each that is let in leaves a byte in the file `reached`, as if a provider had been asked, and is
settled after a while. At the end it prints how many were let in, and how many were refused, by reason.
"""

import collections
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import trio

from securellm.accounts.bounds import Budget
from securellm.accounts.spending import SpendingDatabase
from securellm.chat import Caller, KeyId, RequestId
from securellm.config.secrets import Secret
from securellm.config.tree import Config, Database, Security
from securellm.errors import SecureLLMError
from securellm.limits.budgets import Budgets

TESTS = Path(__file__).parent.parent
BUDGET = Budget("key:k1:month", "key", "k1", 10_000, None, "month", 30 * 86_400)
COST_NUSD = 1000  # so that the budget is for ten


class Orders(msgspec.Struct):
    """What one process is to do."""

    folder: str
    server: str | None
    reached: str
    requests: int = 250
    hold_s: float = 0.2
    used_nusd: int = COST_NUSD
    rounds: int = 1
    patience_s: float = 30.0


def config_of(folder: Path, server: str | None) -> Config:
    """A configuration with its store in a folder, or on a server."""
    database = Database(path=folder / "models.db", server=Secret(server) if server else None)
    return Config(state_dir=folder, database=database, security=Security(pepper=Secret("p" * 32)))


class SpendingWorker:
    """The test's end of such a process."""

    def __init__(self, orders: Orders) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, msgspec.json.encode(orders).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": f"{TESTS}:{TESTS.parent / 'src'}"},
        )

    def wait_until_ready(self) -> None:
        """It has opened its store and begins at `go`."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def go(self) -> None:
        """Let it send its requests."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, int]:
        """What became of its requests: `let_in`, and the codes of refusals."""
        output, _ = self.process.communicate(timeout=60)
        return msgspec.json.decode(output, type=dict[str, int])

    def kill(self) -> None:
        """SIGKILL, and wait until it is dead."""
        self.process.kill()
        self.process.communicate(timeout=20)


async def _work(orders: Orders) -> None:
    caller = Caller(KeyId("k1"), None)
    store = SpendingDatabase(config_of(Path(orders.folder), orders.server))
    store.read([BUDGET], 0)
    budgets = Budgets(store, lambda _: (BUDGET,), patience_s=orders.patience_s)
    told: collections.Counter[str] = collections.Counter()
    reached = os.open(orders.reached, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def request() -> None:
        for _ in range(orders.rounds):
            try:
                reservation = await budgets.reserve(caller, COST_NUSD, 1, RequestId("r"))
            except SecureLLMError as refusal:
                told[refusal.code] += 1
                continue
            os.write(reached, b"x")
            told["let_in"] += 1
            await trio.sleep(orders.hold_s)
            reservation.settle(orders.used_nusd, 1)

    async with trio.open_nursery() as tasks:
        tasks.start_soon(budgets.keep)
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        async with trio.open_nursery() as requests:
            for _ in range(orders.requests):
                requests.start_soon(request)
        tasks.cancel_scope.cancel()
    store.close()
    print(msgspec.json.encode(told).decode(), flush=True)


if __name__ == "__main__":
    trio.run(_work, msgspec.json.decode(sys.argv[1], type=Orders))
