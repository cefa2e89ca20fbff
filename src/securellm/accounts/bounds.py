"""What a key, a user or a team may do at most, as the store and the configuration say it. Pure.

The limiter and the budgets ask for these words; how much was used is not known here.
"""

from typing import NamedTuple

import msgspec

from securellm.chat import Caller
from securellm.config.tree import Allowance, Budgets, Rates

WINDOWS = ("day", "month", "rolling")
KINDS = ("key", "user", "team")
NUSD_PER_USD = 1_000_000_000
ANONYMOUS = "anonymous"  # the one key, as it were, of everybody who has none where authentication is off


class OwnRates(NamedTuple):
    """What the store says of a caller's key, user and team; None: what the configuration says of every one holds.

    So it does for each field of a `Rates` that is None; a field that is 0 is no limit, whatever the configuration says.
    """

    key: Rates | None = None
    user: Rates | None = None
    team: Rates | None = None


NO_OWN_RATES = OwnRates()


class Budget(msgspec.Struct, frozen=True):
    """What a subject may spend in a window of time. A limit that is None is no bound; one of the two is set.

    `id` stays the same when the limits change, so that what was spent counts on; `rolling_s` goes with `rolling`.
    """

    id: str  # kind:subject:window
    kind: str  # key, user, team
    subject: str
    limit_nusd: int | None
    limit_tokens: int | None
    window: str  # day, month (both in UTC), rolling
    rolling_s: int


def budget_id(kind: str, subject: str, window: str) -> str:
    """The name under which spending is kept."""
    return f"{kind}:{subject}:{window}"


def subjects_of(caller: Caller) -> list[tuple[str, str]]:
    """Kind and id of whatever the caller's use is counted for: key, user, team, as far as there are any."""
    subjects = (("key", caller.key_id or ANONYMOUS), ("user", caller.user_id), ("team", caller.team_id))
    return [(kind, subject) for kind, subject in subjects if subject is not None]


def default_budget(settings: Budgets, kind: str, subject: str) -> Budget | None:
    """What the configuration lets every subject of the kind spend; None is no bound."""
    allowance: Allowance = getattr(settings, f"per_{kind}")
    if allowance.usd is None and allowance.tokens is None:
        return None
    return Budget(
        id=budget_id(kind, subject, allowance.window),
        kind=kind,
        subject=subject,
        limit_nusd=None if allowance.usd is None else round(allowance.usd * NUSD_PER_USD),
        limit_tokens=allowance.tokens,
        window=allowance.window,
        rolling_s=int(settings.rolling_s),
    )
