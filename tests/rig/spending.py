"""A store of spending in memory, that decides as the real one does, and can fail, hang and be shared."""

import threading
from collections.abc import Sequence

from securellm.accounts.bounds import Budget
from securellm.accounts.leases import Answer, Batch, LeaseRow, Spending, SpentRow, decide, spending_of
from securellm.accounts.windows import Window
from securellm.errors import StoreUnavailable


class MemorySpending:
    """What a SpendingStore keeps, in dicts. `down` refuses before anything is done, `deaf` after all of it is."""

    def __init__(self) -> None:
        self.spent: dict[tuple[str, Window], tuple[int, int]] = {}
        self.leases: dict[tuple[str, Window, str], LeaseRow] = {}
        self.down = False
        self.deaf = False
        self.answering = threading.Event()  # cleared: nothing is answered until it is set
        self.answering.set()
        self.exchanges = 0
        self.patience_s = 1.0
        self._lock = threading.Lock()

    def exchange(self, batch: Batch, now_s: int) -> Answer:
        """Decide about a batch."""
        self.answering.wait(10)
        if self.down:
            raise StoreUnavailable("the store is down")
        with self._lock:
            about = {order.budget.id for order in batch.orders} | {charge.budget.id for charge in batch.charges}
            leases = [lease for lease in self.leases.values() if lease.budget_id in about]
            decision = decide(batch, [row for row in self._rows() if row.budget_id in about], leases, now_s)
            for key, (nusd, tokens) in decision.spent.items():
                before = self.spent.get(key, (0, 0))
                self.spent[key] = before[0] + nusd, before[1] + tokens
            for lease in decision.leases:
                self.leases[lease.key] = lease
            for gone in decision.gone:
                del self.leases[gone]
            self.exchanges += 1
        if self.deaf:
            raise StoreUnavailable("the store has gone before it answered")
        return decision.answer

    def read(self, budgets: Sequence[Budget], now_s: int) -> list[Spending]:
        """The figures of some budgets."""
        if self.down:
            raise StoreUnavailable("the store is down")
        with self._lock:
            return [spending_of(budget, self._rows(), list(self.leases.values()), now_s) for budget in budgets]

    def _rows(self) -> list[SpentRow]:
        return [SpentRow(budget_id, bucket, *amounts) for (budget_id, bucket), amounts in self.spent.items()]
