"""Server-sent events, split at the byte level. Pure.

What an event is and how a stream is cut is defined in `_fast/sse_py.py`; the compiled twin serves where it was built.
"""

from securellm._fast import sse
from securellm._fast.sse_py import MAX_EVENT_BYTES, SSEEvent

SSESplitter = sse.SSESplitter
parse_event = sse.parse_event

__all__ = ["MAX_EVENT_BYTES", "SSEEvent", "SSESplitter", "parse_event"]
