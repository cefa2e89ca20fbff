"""The chain of one slot: gives each record its place. Pure.

A record can always be written: one that has no canonical form, or a line too long for the format, is written with its
texts cleaned and cut, so that nothing a caller sends can keep a request from being recorded.
"""

from typing import Any

import msgspec

from securellm.audit.record import GENESIS, MAX_LINE_BYTES, Record, encode_line, hash_line

MAX_CUT_CHARS = 512  # of a text in a line that is too long
MAX_CUT_ITEMS = 64  # of a list or table in a line that is too long
MAX_INTEGER = 2**53  # beyond it readers of JSON disagree

_NOT_ENCODABLE = (ValueError, TypeError, OverflowError)
_NOT_CLEANED = frozenset({"timestamp", "event_type"})


class Chain:
    """Where a slot's chain ends; `place` makes it one longer."""

    __slots__ = ("prev", "seq", "slot")

    def __init__(self, slot: int, seq: int = 0, prev: str = GENESIS) -> None:
        self.slot = slot
        self.seq = seq
        """of the last record; 0 when there is none"""
        self.prev = prev
        """hash of the last record's line"""

    def place(self, record: Record) -> bytes:
        """The record's line at the next place, without its newline. `_fast.lines.place` does it for usual ones."""
        try:
            line = encode_line(record, seq=self.seq + 1, slot=self.slot, prev=self.prev)
        except _NOT_ENCODABLE:
            line = b""
        if not 0 < len(line) <= MAX_LINE_BYTES:
            line = self._encode_otherwise(record)
        self.seq += 1
        self.prev = hash_line(line)
        return line

    def _encode_otherwise(self, record: Record) -> bytes:
        try:
            line = encode_line(_cleaned(record), seq=self.seq + 1, slot=self.slot, prev=self.prev)
        except _NOT_ENCODABLE:
            line = b""
        if 0 < len(line) <= MAX_LINE_BYTES:
            return line
        return encode_line(_bare(record), seq=self.seq + 1, slot=self.slot, prev=self.prev)


def _cleaned(record: Record) -> Record:
    fields = msgspec.structs.asdict(record)
    return Record(**{name: value if name in _NOT_CLEANED else _clean(value) for name, value in fields.items()})


def _bare(record: Record) -> Record:
    return Record(
        _clean(str(record.timestamp)),
        _clean(str(record.event_type)),
        request_id=_clean(str(record.request_id)) if record.request_id is not None else None,
        status=_clean(str(record.status)) if record.status is not None else None,
        action=_clean(str(record.action)) if record.action is not None else None,
        error_code="record_not_encodable",
    )


def _clean(value: Any) -> Any:
    match value:
        case bool() | None | float():
            return value
        case msgspec.Raw():
            return value if len(bytes(value)) <= MAX_CUT_CHARS else None
        case str():
            return value[:MAX_CUT_CHARS].encode("utf-8", "replace").decode()
        case int():
            return max(-MAX_INTEGER, min(MAX_INTEGER, value))
        case tuple() | list():
            return tuple(_clean(item) for item in value[:MAX_CUT_ITEMS])
        case dict():
            return {_clean(str(name)): _clean(item) for name, item in list(value.items())[:MAX_CUT_ITEMS]}
        case msgspec.Struct():
            fields = msgspec.structs.asdict(value)
            return type(value)(**{name: _clean(item) for name, item in fields.items()})
        case _:
            return _clean(str(value))
