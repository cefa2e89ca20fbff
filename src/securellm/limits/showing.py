"""`x-ratelimit-*`: how far a caller is from its limits, in OpenAI's names and formats. Pure.

The formats are defined in `_fast/showing_py.py`; the compiled twin serves where it was built.
"""

from securellm._fast import showing
from securellm._fast.showing_py import Shown, limit_headers
from securellm.chat import Headers
from securellm.limits.quota import Denied

headers_after = showing.headers_after


def refusal_headers(refusal: Denied) -> Headers:
    """The headers of the bucket that refused."""
    demand = refusal.demand
    return limit_headers([Shown(demand.measure, refusal.remaining, demand.quota.limit, refusal.reset_us)])
