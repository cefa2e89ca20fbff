"""Buckets in integer microseconds: the definition, which `gcra_c.pyx` may only outrun. Pure.

The generic cell rate algorithm (ITU-T I.371, annex A; virtual scheduling) keeps one number a bucket, the theoretical
arrival time TAT: the moment at which the bucket is full again. It is full while TAT <= now. Taking what costs `cost`
from a bucket that holds `capacity`, all in microseconds:

    backlog = max(TAT, now) - now               room = capacity - backlog
    cost <= room   granted, TAT' = max(TAT, now) + cost
    otherwise      refused, TAT' = TAT; it fits after cost - room, if nobody else takes anything

Every number is brought into 0 .. MAX_US = 2^53 - 1 before it is used, and so is every result. That is the range in
which Python's integers, C's int64 and the doubles of Redis's Lua are the same, and as microseconds since 1970 it lasts
until 2255. No step leaves the range of a double unnoticed: differences of two such numbers are exact, and a sum that is
past 2^53 - 1, however it is rounded, becomes MAX_US. A grant whose TAT' would not fit is refused, with MAX_US to wait.

`take_all` decides over the buckets of one process, which are kept in dicts, and `give_back_all` returns to them what
was taken and not used. `Table` is the same in memory that several
processes share. It is a hash table of 64-bit words, in groups of sixteen rows, a bucket's group being chosen by its
name; the whole name is compared. A row whose bucket is full again is free, so nothing is ever deleted and there is
nothing to repair: a process that is killed between two writes leaves at worst a request counted that was never made.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

IMPLEMENTATION = "pure"
MAX_US = 2**53 - 1
REQUESTS, TOKENS, CONCURRENT = range(3)  # the measures

HEADER_WORDS = 512  # of a Table's memory, the rest is rows
LOCK_WORD = 8  # in the header: the worker that is deciding, from 1; only the compiled twin uses it
FORGOTTEN_WORD = 9  # in the header: buckets that lost their row before they were full
GROUP = 16  # rows
ROW_WORDS = 3  # the name's two halves, the TAT
MOST_DEBT = 60  # times its limit that is charged at once: a provider that reports nonsense locks no bucket for good
_MAX_NAMES = 50_000  # whose place in the table is remembered


class Cell(Protocol):
    """What is asked of one bucket. The compiled twin reads these as the first fields of a tuple, in this order."""

    @property
    def measure(self) -> int:
        """REQUESTS and TOKENS are buckets in microseconds, CONCURRENT is a count."""

    @property
    def bucket(self) -> bytes:
        """Its name, 16 bytes that are evenly spread."""

    @property
    def capacity(self) -> int:
        """What the full bucket holds, in microseconds; of CONCURRENT the highest count."""

    @property
    def cost_us(self) -> int:
        """What a request takes; unused for the other measures."""

    @property
    def limit(self) -> int:
        """So many tokens are granted in `period_us`; unused for the other measures."""

    @property
    def period_us(self) -> int:
        """See `limit`."""


def take(tat_us: int, now_us: int, cost_us: int, capacity_us: int) -> int:
    """The new TAT when the cost is granted; when it is refused, the negative of the time until it fits."""
    if not (0 <= tat_us <= MAX_US and 0 <= now_us <= MAX_US and 0 <= cost_us <= MAX_US and 0 <= capacity_us <= MAX_US):
        tat_us, now_us = _clamped(tat_us), _clamped(now_us)
        cost_us, capacity_us = _clamped(cost_us), _clamped(capacity_us)
    base_us = tat_us if tat_us > now_us else now_us
    room_us = capacity_us - (base_us - now_us)
    if cost_us > room_us:
        return -min(cost_us - room_us, MAX_US)
    if cost_us > MAX_US - base_us:
        return -MAX_US
    return base_us + cost_us


def charge(tat_us: int, now_us: int, cost_us: int) -> int:
    """The new TAT when the cost is taken whatever the bucket holds: it may go into debt."""
    tat_us, now_us = _clamped(tat_us), _clamped(now_us)
    return min(max(tat_us, now_us) + _clamped(cost_us), MAX_US)


def give_back(tat_us: int, now_us: int, cost_us: int, until_us: int) -> int:
    """The new TAT when a cost comes back from a grant that had made the TAT `until_us`.

    What time has given back already does not come back twice: once `until_us` has passed, that is everything.
    Otherwise a grant that is held long and used little would be room for a second burst.
    """
    tat_us, now_us = _clamped(tat_us), _clamped(now_us)
    left_us = max(_clamped(until_us) - now_us, 0)
    return max(tat_us - min(_clamped(cost_us), left_us), 0)


def cost_of(amount: int, limit: int, period_us: int) -> int:
    """What `amount` costs where `limit` are granted in `period_us`, rounded up."""
    return min(-(-_clamped(amount) * _clamped(period_us) // max(_clamped(limit), 1)), MAX_US)


def returned_of(amount: int, limit: int, period_us: int) -> int:
    """What `amount` gives back where `limit` are granted in `period_us`, rounded down."""
    return min(_clamped(amount) * _clamped(period_us) // max(_clamped(limit), 1), MAX_US)


def amount_back(cell: Cell, tokens: int, requests: bool) -> int:
    """How much of what a taking took from one bucket comes back; see `give_back_all`."""
    if cell.measure == TOKENS:
        return max(tokens, -cell.limit * MOST_DEBT)
    return 1 if requests or cell.measure == CONCURRENT else 0


def take_all(
    tats_us: dict[bytes, int], counts: dict[bytes, int], cells: Sequence[Cell], tokens: int, now_us: int
) -> tuple[int, ...] | None:
    """Grant all cells and return what the buckets are at, TATs and counts of CONCURRENT; or none, and return None."""
    levels = []
    for cell in cells:
        if cell.measure == CONCURRENT:
            level = counts.get(cell.bucket, 0) + 1
            if level > cell.capacity:
                return None
        else:
            cost_us = cell.cost_us if cell.measure == REQUESTS else cost_of(tokens, cell.limit, cell.period_us)
            level = take(tats_us.get(cell.bucket, 0), now_us, cost_us, cell.capacity)
            if level < 0:
                return None
        levels.append(level)
    for cell, level in zip(cells, levels, strict=True):
        if cell.measure == CONCURRENT:
            counts[cell.bucket] = level
        else:
            tats_us[cell.bucket] = level
    return tuple(levels)


def give_back_all(
    tats_us: dict[bytes, int],
    counts: dict[bytes, int],
    cells: Sequence[Cell],
    levels: Sequence[int],
    tokens: int,
    now_us: int,
    requests: bool,
) -> None:
    """Return to the buckets that `take_all` left at `levels`: `tokens`, the count of CONCURRENT, `requests` if told.

    A negative number of tokens takes more, whatever the bucket holds.
    """
    for cell, level in zip(cells, levels, strict=True):
        bucket, amount = cell.bucket, amount_back(cell, tokens, requests)
        if cell.measure == CONCURRENT:
            count = counts.get(bucket, 0) - amount
            if count > 0:
                counts[bucket] = count
            else:
                counts.pop(bucket, None)
        elif amount < 0:
            tats_us[bucket] = charge(tats_us.get(bucket, 0), now_us, cost_of(-amount, cell.limit, cell.period_us))
        elif amount and (tat_us := tats_us.get(bucket)) is not None:
            tats_us[bucket] = give_back(tat_us, now_us, returned_of(amount, cell.limit, cell.period_us), level)


def table_bytes(rows: int, count_rows: int, workers: int) -> int:
    """How much memory a Table of so many rows needs; both are multiples of GROUP."""
    return 8 * (HEADER_WORDS + rows * ROW_WORDS + count_rows * (2 + workers))


class Table:
    """Buckets in memory that `workers` processes share; this one is `worker`, from 1.

    A row of a count has a word for each worker, which no other worker writes, so that what a killed one held can be
    told and given back. `acquire` and `release` keep the others out while one decides; the compiled twin has a lock in
    the memory instead, and asks `is_alive` about the worker that holds it when it waits for long.
    """

    def __init__(
        self,
        memory: bytearray | memoryview,
        rows: int,
        count_rows: int,
        workers: int,
        worker: int,
        acquire: Callable[[], object],
        release: Callable[[], object],
        is_alive: Callable[[int], bool],
    ) -> None:
        self._words = memoryview(memory).cast("Q")
        self._groups = rows // GROUP
        self._count_groups = count_rows // GROUP
        self._counts_at = HEADER_WORDS + rows * ROW_WORDS
        self._count_words = 2 + workers
        self._workers = workers
        self._own = 1 + worker  # our word in the row of a count
        self._acquire = acquire
        self._release = release
        self._names: dict[bytes, tuple[int, int, int, int]] = {}

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()

    def take(self, cells: Sequence[Cell], tokens: int, now_us: int) -> tuple[int, ...] | list[int]:
        """Grant all and return what the buckets are at, as `take_all`; else a list of what they were and are at."""
        self._acquire()
        try:
            before = [self._level(cell) for cell in cells]
            levels = []
            for cell, level in zip(cells, before, strict=True):
                if cell.measure == CONCURRENT:
                    if level >= cell.capacity:
                        return before
                    levels.append(level + 1)
                else:
                    cost_us = cell.cost_us if cell.measure == REQUESTS else cost_of(tokens, cell.limit, cell.period_us)
                    level = take(level, now_us, cost_us, cell.capacity)
                    if level < 0:
                        return before
                    levels.append(level)
            for cell, level in zip(cells, levels, strict=True):
                if cell.measure == CONCURRENT:
                    self._enter(cell.bucket)
                else:
                    self._write(cell.bucket, level, now_us)
            return tuple(levels)
        finally:
            self._release()

    def levels(self, cells: Sequence[Cell]) -> list[int]:
        """What the buckets are at."""
        self._acquire()
        try:
            return [self._level(cell) for cell in cells]
        finally:
            self._release()

    def give_back(self, cells: Sequence[Cell], levels: Sequence[int], tokens: int, now_us: int, requests: bool) -> None:
        """As `give_back_all`; of a count only what this worker holds."""
        self._acquire()
        try:
            for cell, level in zip(cells, levels, strict=True):
                bucket, amount = cell.bucket, amount_back(cell, tokens, requests)
                if cell.measure == CONCURRENT:
                    at = self._find_count(bucket)
                    if at and self._words[at + self._own]:
                        self._words[at + self._own] -= 1
                elif amount < 0:
                    cost_us = cost_of(-amount, cell.limit, cell.period_us)
                    self._write(bucket, charge(self._tat_us(bucket), now_us, cost_us), now_us)
                elif amount and (at := self._find(bucket)):
                    returned_us = returned_of(amount, cell.limit, cell.period_us)
                    self._words[at + 2] = give_back(self._words[at + 2], now_us, returned_us, level)
        finally:
            self._release()

    def forget_worker(self, worker: int) -> None:
        """Give back whatever a worker holds of any count: it is dead, or has just begun."""
        self._acquire()
        try:
            for at in range(self._counts_at, len(self._words), self._count_words):
                if self._words[at + 1 + worker]:
                    self._words[at + 1 + worker] = 0
        finally:
            self._release()

    def used(self, now_us: int) -> int:
        """How many rows are in use. Looks at every one."""
        words, own = self._words, self._count_words
        tats_us = words[HEADER_WORDS + 2 : self._counts_at : ROW_WORDS]
        counted = sum(any(words[at + 2 : at + own]) for at in range(self._counts_at, len(words), own))
        return sum(tat_us > now_us for tat_us in tats_us) + counted

    @property
    def forgotten(self) -> int:
        """How many buckets lost their row before they were full, or had to go without one."""
        return self._words[FORGOTTEN_WORD]

    def _level(self, cell: Cell) -> int:
        if cell.measure != CONCURRENT:
            return self._tat_us(cell.bucket)
        at = self._find_count(cell.bucket)
        return sum(self._words[at + 2 : at + self._count_words]) if at else 0

    def _tat_us(self, bucket: bytes) -> int:
        at = self._find(bucket)
        return self._words[at + 2] if at else 0

    def _place(self, bucket: bytes) -> tuple[int, int, int, int]:
        """The name's halves, and where its groups of rows and of counts begin."""
        place = self._names.get(bucket)
        if place is None:
            if len(self._names) >= _MAX_NAMES:
                self._names.clear()
            low, high = int.from_bytes(bucket[:8], "little"), int.from_bytes(bucket[8:], "little")
            start = HEADER_WORDS + low % self._groups * GROUP * ROW_WORDS
            count_start = self._counts_at + low % self._count_groups * GROUP * self._count_words
            place = self._names[bucket] = low, high, start, count_start
        return place

    def _find(self, bucket: bytes) -> int:
        """Where the bucket's row begins, 0 when it has none."""
        words = self._words
        low, high, start, _ = self._place(bucket)
        for at in range(start, start + GROUP * ROW_WORDS, ROW_WORDS):
            if words[at] == low and words[at + 1] == high:
                return at
        return 0

    def _find_count(self, bucket: bytes) -> int:
        words = self._words
        low, high, _, start = self._place(bucket)
        for at in range(start, start + GROUP * self._count_words, self._count_words):
            if words[at] == low and words[at + 1] == high:
                return at
        return 0

    def _write(self, bucket: bytes, tat_us: int, now_us: int) -> None:
        """Keep the TAT, in a row that is free or else that of the bucket which is nearest to full."""
        words = self._words
        at = self._find(bucket)
        if not at:
            low, high, start, _ = self._place(bucket)
            at = start
            for other in range(start, start + GROUP * ROW_WORDS, ROW_WORDS):
                if words[other + 2] < words[at + 2]:
                    at = other
            if words[at + 2] > now_us:
                words[FORGOTTEN_WORD] += 1
            words[at + 2] = 0  # the name comes first, and without a debt: being killed here forgets a full bucket
            words[at], words[at + 1] = low, high
        words[at + 2] = tat_us

    def _enter(self, bucket: bytes) -> None:
        """One more of what this worker holds; where no row is free it goes without."""
        words = self._words
        at = self._find_count(bucket)
        if not at:
            low, high, _, start = self._place(bucket)
            for other in range(start, start + GROUP * self._count_words, self._count_words):
                if not any(words[other + 2 : other + self._count_words]):
                    words[other], words[other + 1] = low, high
                    at = other
                    break
            else:
                words[FORGOTTEN_WORD] += 1
                return
        words[at + self._own] += 1


def _clamped(value: int) -> int:
    if value < 0:
        return 0
    return value if value < MAX_US else MAX_US
