"""What budgets cost a request: reserving and settling in memory, and an exchange with the store.

`--quick` runs a hundredth of it, to see that it works. Figures are of one process on one core; the exchange is a
durable transaction in a SQLite file on the disk that holds the directory for temporary files (TMPDIR).
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import trio

from securellm.accounts.bounds import Budget
from securellm.accounts.leases import Batch, Order, Want
from securellm.accounts.spending import SpendingDatabase
from securellm.accounts.windows import window_of
from securellm.chat import Caller, Endpoint, KeyId, RequestId
from securellm.config.secrets import Secret
from securellm.config.tree import Config, Database, Security
from securellm.limits.budgets import Budgets
from securellm.pricing.bound import ceiling_of, worst_case
from securellm.pricing.price import Price
from securellm.wire.body import peek
from securellm.wire.weight import weigh

REQUEST = RequestId("r1")
PLENTY_NUSD = 10**15
ROUNDS = 200_000
CHUNKS = 100  # the best of which is told: the machine may be shared
EXCHANGES = 300
BATCHES = (1, 10, 100)  # budgets in one exchange
BODIES = {"1 KB": 1, "100 KB": 100}  # messages of a thousand bytes


def _budget(kind: str, subject: str, limit_nusd: int = PLENTY_NUSD) -> Budget:
    return Budget(f"{kind}:{subject}:month", kind, subject, limit_nusd, None, "month", 2_592_000)


def _open_store(folder: str) -> SpendingDatabase:
    path = Path(folder)
    database = Database(path=path / "models.db")
    return SpendingDatabase(Config(state_dir=path, database=database, security=Security(pepper=Secret("p" * 32))))


async def _measure_requests(rounds: int) -> None:
    """Reserve and settle without waiting, for callers with none to three budgets."""
    for count in (0, 1, 3):
        mine = tuple(_budget(kind, "x") for kind in ("key", "user", "team")[:count])
        caller = Caller(KeyId("k1"), "x", team_id="x")
        with tempfile.TemporaryDirectory() as folder:
            store = _open_store(folder)
            budgets = Budgets(store, lambda _, mine=mine: mine, patience_s=5.0)
            async with trio.open_nursery() as tasks:
                tasks.start_soon(budgets.keep)
                began_s = time.monotonic()
                while time.monotonic() - began_s < 1.5:  # until the lease has grown to what is about to be spent
                    (await budgets.reserve(caller, 1000, 100, REQUEST)).settle(500, 50)
                    await trio.lowlevel.checkpoint()
                before = budgets.statistics().exchanges
                timed = [await _timed_ns(budgets, caller, rounds // CHUNKS) for _ in range(CHUNKS)]
                waited = budgets.statistics().exchanges - before
                tasks.cancel_scope.cancel()
            store.close()
        reserving_us, settling_us = (min(times) / 1000 for times in zip(*timed, strict=True))
        print(
            f"{count} budgets: {reserving_us:.2f} us to reserve, {settling_us:.2f} us to settle;"
            f" {waited} exchanges meanwhile"
        )


async def _timed_ns(budgets: Budgets, caller: Caller, rounds: int) -> tuple[float, float]:
    """Nanoseconds of one reservation, and of its settlement."""
    started_ns = time.perf_counter_ns()
    reservations = [await budgets.reserve(caller, 1000, 100, REQUEST) for _ in range(rounds)]
    reserved_ns = time.perf_counter_ns()
    for reservation in reservations:
        reservation.settle(500, 50)
    settled_ns = time.perf_counter_ns()
    await trio.lowlevel.checkpoint()
    return (reserved_ns - started_ns) / rounds, (settled_ns - reserved_ns) / rounds


def _measure_exchanges(exchanges: int) -> None:
    """One exchange with the store: each budget settles something and one request wants something."""
    now_s = int(time.time())
    with tempfile.TemporaryDirectory() as folder:
        store = _open_store(folder)
        for count in BATCHES:
            mine = [_budget("key", f"b{count}k{number}") for number in range(count)]
            took_ms = []
            for number in range(1, exchanges + 1):
                orders = [
                    Order(one, window_of(one, now_s), number, number > 1, number * 100, 0, 1000, 0) for one in mine
                ]
                wants = [Want(((place, 1000, 0),)) for place in range(count)]
                started_s = time.perf_counter()
                store.exchange(Batch("bench", now_s + 60, orders, wants), now_s)
                took_ms.append((time.perf_counter() - started_s) * 1000)
            middle, worst = statistics.median(took_ms), max(took_ms)
            print(f"an exchange about {count} budgets: {middle:.2f} ms in the middle, {worst:.1f} ms at worst")
        store.close()


def _measure_bounds(rounds: int) -> None:
    """What a body may cost at most: the look at it, its weight, and the bound at one price."""
    price = Price(input=2_500_000_000, output=10_000_000_000)
    ceiling = ceiling_of(price, image_tokens=1, window_tokens=None, max_output_tokens=1)
    for name, messages in BODIES.items():
        turns = b",".join([b'{"role":"user","content":[{"type":"text","text":"' + b"x" * 950 + b'"}]}'] * messages)
        body = b'{"model":"m","max_tokens":100,"messages":[' + turns + b"]}"
        times = max(rounds // (messages * 10), 10)
        started_s = time.perf_counter()
        for _ in range(times):
            peeked = peek(Endpoint.CHAT, body)
            worst_case(Endpoint.CHAT, peeked, peeked.weight or weigh(Endpoint.CHAT, body), ceiling)
        print(f"the bound of a body of {name}: {(time.perf_counter() - started_s) / times * 1e6:.1f} us")


def main() -> None:
    """Print the figures."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true")
    share = 100 if arguments.parse_args().quick else 1
    _measure_bounds(ROUNDS // share)
    trio.run(_measure_requests, ROUNDS // share)
    _measure_exchanges(max(EXCHANGES // share, 3))


if __name__ == "__main__":
    main()
