"""Signs of life that a stream may carry between events, for load balancers that cut silent connections. Pure.

A comment is ignored by every reader of server-sent events (WHATWG HTML, 9.2.6); Anthropic's streams have an event of
their own for it. Off by default: readers that take every line for JSON exist.
"""

from securellm.chat import Dialect

COMMENT = b": heartbeat\n\n"
PING = b'event: ping\ndata: {"type": "ping"}\n\n'


def heartbeat(dialect: Dialect) -> bytes:
    """The bytes to send between two events of a stream in `dialect`."""
    return PING if dialect is Dialect.ANTHROPIC else COMMENT
