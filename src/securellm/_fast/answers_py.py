"""What a whole answer says of itself, read without making objects of it: the definition. Pure.

What an answer says is defined by the relay of its dialect (`wire/scan_*.py`), which decodes it. The compiled twin walks
its bytes once and says the same of every answer in which nothing is doubtful; of the rest both say None, and the relay
decodes. So the pure one says None of everything.
"""

from typing import NamedTuple

from securellm.chat import Usage


class Said(NamedTuple):
    """What the meter of a relay is to know of an answer that is no error."""

    upstream_id: str | None
    upstream_model: str | None
    usage: Usage | None
    output_bytes: int
    finish: str | None  # why it ended, for `wire/finish.py` to put into OpenAI's words
    native_finish: str | None  # in the provider's


def read(dialect: str, body: bytes) -> Said | None:
    """What the answer says of itself, or None when it has to be decoded; never raises for what is in it."""
    return None
