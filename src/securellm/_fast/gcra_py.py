"""The arithmetic of a bucket, in integer microseconds: the definition, which `gcra_c.pyx` may only outrun. Pure.

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
"""

MAX_US = 2**53 - 1


def take(tat_us: int, now_us: int, cost_us: int, capacity_us: int) -> int:
    """The new TAT when the cost is granted; when it is refused, the negative of the time until it fits."""
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


def _clamped(value: int) -> int:
    if value < 0:
        return 0
    return value if value < MAX_US else MAX_US
