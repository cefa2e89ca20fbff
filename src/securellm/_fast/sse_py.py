"""Server-sent events, split and shown to a relay: the definition, which `sse_c.pyx` may only outrun. Pure.

Follows the event stream format of the WHATWG HTML standard (section 9.2, read 2026-11): lines end in LF, CR or CRLF
and in nothing else, so U+2028, U+2029, U+0085, VT, FF and FS inside a payload are payload; a blank line ends an event;
a leading byte order mark is not part of the first line. Every event keeps its exact bytes, and comments and blank
lines come out as events without data, so that joining the `raw` of all events gives the input back.

A stream that has shown no CR is cut with `bytes.find`; the first CR switches to a search for all three line ends.
A blank line's CR that follows a CRLF waits for its LF; one that follows a bare CR ends the event at once, and an LF
after it opens the next `raw`. So the cutting of the input never changes the events.

A scanner shows every event with data to the relay of its stream, which says what it is. The compiled one recognises the
events that only say more text by itself, without making an object of any of them, and shows the relay the rest.
"""

import re
from typing import Protocol

import msgspec

from securellm.chat import Relayed
from securellm.errors import UpstreamInvalid

MAX_EVENT_BYTES = 8 * 1024 * 1024  # one event, terminator included; whole base64 images travel in one

# What a relay says of an event.
REMOVED = 1  # it is not passed on
SEMANTIC = 2  # it counts for the timers
HOLDING = 4  # it, and what follows, waits for the record: a terminal or error event has passed
TERMINAL = 8  # nothing behind it is looked at
IDENTIFIED = 16  # the answer's id and model are known

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")
_LF, _CR = 0x0A, 0x0D


class SSEEvent(msgspec.Struct, frozen=True, gc=False):
    """One event. `data` is None for a comment, a blank line or an event without a data field."""

    raw: bytes  # as received, its terminator included
    event: bytes  # the `event` field, b"" when there was none
    data: bytes | None  # the data lines joined with LF


class SSESplitter:
    """Cuts a byte stream into events; linear in its input, however small the pieces."""

    __slots__ = ("_after_cr", "_first", "_last_end", "_line_start", "_max_event_bytes", "_pending", "_scan", "_seen_cr")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._pending = bytearray()  # the unfinished event
        self._scan = 0  # how far into it line ends have been looked for
        self._line_start = 0  # where its current line begins (used once a CR was seen)
        self._last_end = b""  # the last line end of the stream
        self._after_cr = False  # the last event ended in a CR whose LF may still come
        self._seen_cr = False
        self._first = True  # the first line may begin with a byte order mark

    def __repr__(self) -> str:
        return f"<SSESplitter pending_bytes={len(self._pending)}>"

    def feed(self, data: bytes) -> list[SSEEvent]:
        """The events that `data` completes. Raises UpstreamInvalid when one is longer than the limit."""
        if not data:
            return []
        if not self._seen_cr and b"\r" in data:
            self._seen_cr = True
            self._scan = self._line_start = 0
            self._last_end = b"" if self._first else b"\n"
        if self._pending:
            self._pending += data
            end = self._find_end(self._pending)
            if end < 0:
                self._check_length(len(self._pending))
                return []
            data = bytes(self._pending)
            self._pending.clear()
        else:
            end = self._find_end(data)
        events = []
        start = 0
        while end >= 0:
            self._check_length(end)
            raw = data[start : start + end]
            events.append(_parse_first(raw) if self._first else parse_event(raw))
            self._first = False
            start += end
            self._scan = self._line_start = 0
            if start == len(data):
                return events
            end = self._find_end(data, start)
        self._pending += memoryview(data)[start:]
        self._check_length(len(self._pending))
        return events

    def tail(self) -> bytes:
        """The bytes of an unfinished event; a client would never see them as one."""
        return bytes(self._pending)

    def _check_length(self, length: int) -> None:
        if length > self._max_event_bytes:
            raise UpstreamInvalid(
                f"the provider sent one event of more than {self._max_event_bytes} bytes, which is the limit"
            )

    def _find_end(self, data: bytes | bytearray, start: int = 0) -> int:
        """How long the event at `start` is, -1 when it is unfinished; remembers how far it looked."""
        if self._seen_cr:
            return self._find_end_any(data, start)
        if self._first:
            return self._find_first_end(data)
        if data[start] == _LF:
            return 1
        found = data.find(b"\n\n", start + self._scan)
        if found >= 0:
            return found + 2 - start
        self._scan = max(len(data) - start - 1, 0)
        return -1

    def _find_first_end(self, data: bytes | bytearray) -> int:
        """As `_find_end` for the first event of a stream of bare LFs, where a blank line may hide behind a BOM."""
        skip = 3 if data.startswith(_BOM) else 0
        if len(data) > skip and data[skip] == _LF:
            return skip + 1
        found = data.find(b"\n\n", self._scan)
        if found >= 0:
            return found + 2
        self._scan = max(len(data) - 1, 0)
        return -1

    def _find_end_any(self, data: bytes | bytearray, start: int) -> int:
        """As `_find_end` when lines may end in CR, LF or CRLF."""
        if self._after_cr and len(data) > start:
            self._after_cr = False
            if data[start] == _LF:
                self._scan = self._line_start = 1
        while True:
            found = _LINE_END.search(data, start + self._scan)
            if found is None:
                self._scan = len(data) - start
                return -1
            blank = self._is_blank(data, start, found.start())
            end, position = found.group(), found.end() - start
            if blank and self._last_end == b"\r" and end != b"\n":
                self._after_cr = True
                return found.start() + 1 - start
            if end == b"\r" and found.end() == len(data):
                self._scan = found.start() - start  # its LF may still come
                return -1
            self._last_end = end
            if blank:
                self._after_cr = end == b"\r"
                return position
            self._scan = self._line_start = position

    def _is_blank(self, data: bytes | bytearray, start: int, line_end: int) -> bool:
        line_start = start + self._line_start
        if self._first and line_start == start and line_end - start == len(_BOM):
            return data.startswith(_BOM, start)
        return line_start == line_end


class Reader(Protocol):
    """The relay behind a scanner."""

    def see(self, event: SSEEvent) -> int:
        """Learn from an event with data; the flags above."""

    def count(self, semantic_events: int, output_bytes: int, sequence_number: int) -> None:
        """Learn from events that were not shown, in one sum; the last sequence number in them, -1 where there is none.

        They are counted before the next event is shown, and before `feed` returns.
        """


class StreamScanner:
    """Passes a stream on, event by event, while a relay reads it."""

    __slots__ = ("_flags", "_splitter")

    def __init__(self, dialect: str) -> None:
        """`dialect` names the shape of the events: openai, anthropic or responses."""
        if dialect not in ("openai", "anthropic", "responses"):
            raise ValueError(f"got the dialect {dialect!r}, streams are scanned in openai, anthropic or responses")
        self._splitter = SSESplitter()
        self._flags = 0  # of the last event that was shown

    def __repr__(self) -> str:
        return f"<StreamScanner pending_bytes={len(self.tail())}>"

    def feed(self, reader: Reader, data: bytes) -> Relayed:
        """Take the next bytes of a stream, cut anywhere. Raises UpstreamInvalid when an event is over the limit."""
        if self._flags & TERMINAL:
            return Relayed(held=data)
        passed: list[bytes] = []
        held: list[bytes] = []
        semantic = 0
        for event in self._splitter.feed(data):
            removed = 0
            if event.data is not None and not self._flags & TERMINAL:
                self._flags = reader.see(event)
                removed = self._flags & REMOVED
                semantic |= self._flags & SEMANTIC
            if self._flags & HOLDING:
                held.append(event.raw)
            elif not removed:
                passed.append(event.raw)
        if self._flags & TERMINAL:
            held.append(self._splitter.tail())  # behind the terminal event it need not be an event
        return Relayed(b"".join(passed), b"".join(held), semantic != 0)

    def tail(self) -> bytes:
        """The bytes of an unfinished event."""
        return self._splitter.tail()


def parse_event(raw: bytes) -> SSEEvent:
    """The fields of one event's bytes; blank lines in it mean nothing."""
    if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2 and b"\r" not in raw:
        return SSEEvent(raw, b"", raw[6:-2])
    event = b""
    data: list[bytes] = []
    for line in _LINE_END.split(raw) if b"\r" in raw else raw.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"event":
            event = value.removeprefix(b" ")
    return SSEEvent(raw, event, b"\n".join(data) if data else None)


def _parse_first(raw: bytes) -> SSEEvent:
    parsed = parse_event(raw.removeprefix(_BOM))
    return SSEEvent(raw, parsed.event, parsed.data)
