"""A process's lease on one window of a budget, and the reservations that requests make of it. Pure.

    held in the store = free + reserved;  reserving moves free to reserved, settling reserved to settled and free

What is settled beyond its reservation is taken out of what is free; the rest of it was never leased, and is told to the
store like all that is settled. After an overrun nothing is free, so that the next request asks the store.
"""

from collections.abc import Sequence

from securellm.accounts.bounds import Budget
from securellm.accounts.leases import Charge, Leased, Order
from securellm.accounts.windows import Window

UNCOUNTED = 2**62  # what is free of a unit that the budget does not limit: more than all that will ever be reserved


class Lease:
    """What this process may spend of a budget without asking. Amounts are nano-USD and tokens."""

    __slots__ = (
        "_sent",
        "ahead_nusd",
        "ahead_tokens",
        "budget",
        "counts_nusd",
        "counts_tokens",
        "ended",
        "free_nusd",
        "free_tokens",
        "good_until_s",
        "known",
        "largest_nusd",
        "largest_tokens",
        "most_nusd",
        "most_tokens",
        "over_nusd",
        "over_tokens",
        "recent_nusd",
        "recent_tokens",
        "reserved_nusd",
        "reserved_tokens",
        "settled_nusd",
        "settled_tokens",
        "touched",
        "window",
    )

    def __init__(self, budget: Budget, window: Window) -> None:
        self.budget = budget
        self.window = window
        self.counts_nusd = budget.limit_nusd is not None
        self.counts_tokens = budget.limit_tokens is not None
        self.free_nusd = 0 if self.counts_nusd else UNCOUNTED
        self.free_tokens = 0 if self.counts_tokens else UNCOUNTED
        self.reserved_nusd = 0
        self.reserved_tokens = 0
        self.settled_nusd = 0  # since the store has the lease
        self.settled_tokens = 0
        self.over_nusd = 0  # of it, what no lease covered and the store has not heard of
        self.over_tokens = 0
        self.recent_nusd = 0  # reserved since the last look at it, from which follows what is leased ahead
        self.recent_tokens = 0
        self.largest_nusd = 0  # of the recent reservations
        self.largest_tokens = 0
        self.ahead_nusd = 0  # what should be free
        self.ahead_tokens = 0
        self.most_nusd = 0  # what may be free, as the store said last
        self.most_tokens = 0
        self.known = False  # the store has told us that it is there
        self.ended = False  # the store has charged all of it; it takes no more reservations
        self.good_until_s = 0.0  # nothing is reserved of it from then on, unless it is renewed
        self.touched = False  # there may be something to tell the store
        self._sent = (0, 0, 0, 0)  # settled, over: nano-USD and tokens, as the exchange under way says

    def __repr__(self) -> str:
        return (
            f"<Lease {self.budget.id} until {self.window.end_s} free {self.free_nusd} nusd {self.free_tokens} tokens,"
            f" reserved {self.reserved_nusd} nusd {self.reserved_tokens} tokens>"
        )

    def covers(self, nusd: int, tokens: int, now_s: float) -> bool:
        """Whether so much may be reserved without asking."""
        return self.free_nusd >= nusd and self.free_tokens >= tokens and now_s < self.good_until_s

    def limits(self, nusd: int, tokens: int) -> bool:
        """Whether the budget has a say in it: one in USD has none in what costs nothing."""
        return bool((nusd and self.counts_nusd) or (tokens and self.counts_tokens))

    def reserve(self, nusd: int, tokens: int) -> None:
        """Take it off what is free; the caller has looked whether it is there."""
        self.free_nusd -= nusd
        self.free_tokens -= tokens
        self.reserved_nusd += nusd
        self.reserved_tokens += tokens
        self.recent_nusd += nusd
        self.recent_tokens += tokens
        if nusd > self.largest_nusd:
            self.largest_nusd = nusd
        if tokens > self.largest_tokens:
            self.largest_tokens = tokens

    def note_reserved(self, nusd: int, tokens: int) -> None:
        """Count as reserved what was set aside, or was granted for just this."""
        self.free_nusd += nusd
        self.free_tokens += tokens
        self.reserve(nusd, tokens)

    def set_aside(self, nusd: int, tokens: int) -> tuple[int, int]:
        """Take off what is free as much as there is of a need, for a request that waits for the rest."""
        aside_nusd, aside_tokens = min(self.free_nusd, nusd), min(self.free_tokens, tokens)
        self.free_nusd -= aside_nusd
        self.free_tokens -= aside_tokens
        self.largest_nusd = max(self.largest_nusd, nusd)
        self.largest_tokens = max(self.largest_tokens, tokens)
        return aside_nusd, aside_tokens

    def put_back(self, nusd: int, tokens: int) -> None:
        """What was set aside is free again; of a lease that was ended it is gone."""
        if not self.ended:
            self.free_nusd += nusd
            self.free_tokens += tokens

    def settle(self, reserved_nusd: int, reserved_tokens: int, nusd: int, tokens: int) -> None:
        """End a reservation with what was really used, be it more or less."""
        self.reserved_nusd -= reserved_nusd
        self.reserved_tokens -= reserved_tokens
        self.free_nusd += reserved_nusd - nusd
        self.free_tokens += reserved_tokens - tokens
        self.settled_nusd += nusd
        self.settled_tokens += tokens
        if (nusd > reserved_nusd and self.counts_nusd) or (tokens > reserved_tokens and self.counts_tokens):
            self._overrun()

    def refresh(self, share: float) -> None:
        """Work out what should be free from what was reserved lately; `share` is time ahead over time looked at."""
        self.ahead_nusd, self.recent_nusd = int(self.recent_nusd * share), 0
        self.ahead_tokens, self.recent_tokens = int(self.recent_tokens * share), 0
        if not self.ahead_nusd and not self.ahead_tokens:
            self.largest_nusd = self.largest_tokens = 0

    def drop_idle(self) -> None:
        """What is free and should not be goes back with the next exchange."""
        if self.counts_nusd:
            self.free_nusd = min(self.free_nusd, self.ahead_nusd, self.most_nusd)
        if self.counts_tokens:
            self.free_tokens = min(self.free_tokens, self.ahead_tokens, self.most_tokens)

    def retire(self) -> None:
        """Nothing more is reserved of it: its window is over, or nothing may stay leased."""
        self.good_until_s = 0.0
        self.ahead_nusd = self.ahead_tokens = self.recent_nusd = self.recent_tokens = 0
        self.drop_idle()

    def order(self, number: int, set_aside_nusd: int, set_aside_tokens: int) -> Order:
        """What to tell the store; `set_aside` was taken off what is free for requests that wait."""
        self._sent = (self.settled_nusd, self.settled_tokens, self.over_nusd, self.over_tokens)
        return Order(
            budget=self.budget,
            window=self.window,
            number=number,
            known=self.known,
            settled_nusd=self.settled_nusd,
            settled_tokens=self.settled_tokens,
            held_nusd=self.free_nusd + self.reserved_nusd + set_aside_nusd if self.counts_nusd else 0,
            held_tokens=self.free_tokens + self.reserved_tokens + set_aside_tokens if self.counts_tokens else 0,
            # What was reserved since the last look is wanted once more: so a lease grows with a burst.
            ahead_nusd=max(self.ahead_nusd, self.recent_nusd) - self.free_nusd if self.counts_nusd else 0,
            ahead_tokens=max(self.ahead_tokens, self.recent_tokens) - self.free_tokens if self.counts_tokens else 0,
            largest_nusd=self.largest_nusd,
            largest_tokens=self.largest_tokens,
        )

    def exchanged(self, order: Order, leased: Leased, granted: bool, good_until_s: float) -> None:
        """Take what the store answered; `granted`: something was granted to requests that wait."""
        settled_nusd, settled_tokens, over_nusd, over_tokens = self._sent
        if not leased.there:
            self._end()
            return
        self.over_nusd -= over_nusd
        self.over_tokens -= over_tokens
        held = order.held_nusd or order.held_tokens or leased.ahead_nusd or leased.ahead_tokens
        self.known = bool(held) or granted
        if not self.known:  # the store has deleted it: the next one begins to count anew
            self.settled_nusd -= settled_nusd
            self.settled_tokens -= settled_tokens
        self.most_nusd, self.most_tokens = leased.most_nusd, leased.most_tokens
        self.free_nusd += leased.ahead_nusd
        self.free_tokens += leased.ahead_tokens
        self.good_until_s = min(good_until_s, float(self.window.end_s))

    def charges(self) -> Sequence[Charge]:
        """What an ended lease has still to be charged: overruns; what it held is charged already."""
        if not self.ended or not (self.over_nusd or self.over_tokens):
            return ()
        charge = Charge(self.budget, self.window, self.over_nusd, self.over_tokens)
        self.over_nusd = self.over_tokens = 0
        return (charge,)

    def change_limits(self, budget: Budget) -> None:
        """Go on under other limits; what was not limited before and is now begins with nothing free."""
        if budget.limit_nusd is not None and not self.counts_nusd:
            self.free_nusd = 0
        elif budget.limit_nusd is None:
            self.free_nusd = UNCOUNTED
        if budget.limit_tokens is not None and not self.counts_tokens:
            self.free_tokens = 0
        elif budget.limit_tokens is None:
            self.free_tokens = UNCOUNTED
        self.counts_nusd = budget.limit_nusd is not None
        self.counts_tokens = budget.limit_tokens is not None
        self.budget = budget

    @property
    def wants_another_look(self) -> bool:
        """Something is leased that may have to go back when nobody uses it."""
        return bool((self.counts_nusd and self.free_nusd) or (self.counts_tokens and self.free_tokens))

    @property
    def idle(self) -> bool:
        """Nothing is leased, and the store has heard everything."""
        if self.known or self.reserved_nusd or self.reserved_tokens:
            return False
        if self.ended:
            return not self.over_nusd and not self.over_tokens
        return not self.settled_nusd and not self.settled_tokens

    def _overrun(self) -> None:
        """What went below nothing was never leased; what is free is not to be used before the store was asked."""
        if self.counts_nusd:
            self.over_nusd += max(-self.free_nusd, 0)
            self.free_nusd = 0
        if self.counts_tokens:
            self.over_tokens += max(-self.free_tokens, 0)
            self.free_tokens = 0
        self.retire()

    def _end(self) -> None:
        self.ended = True
        self.known = False
        self.free_nusd = 0 if self.counts_nusd else UNCOUNTED
        self.free_tokens = 0 if self.counts_tokens else UNCOUNTED
        self.retire()
