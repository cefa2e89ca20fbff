"""Lines of the audit log: the body of an intent's and of an outcome's, and the place of a batch in the chain. Pure.

What a record says is written once, in `audit/entries.py`; it is handed in as `make`, with the same arguments. A body is
what of the line does not depend on its place: the record's fields in their order and the brace behind them. None means
that the record has no canonical form, or one that is too long for a line, and that `Chain` has to see to it.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import msgspec

from securellm.chat import Call, Caller, Headers, Settlement

FORMAT_VERSION = 1
MAX_LINE_BYTES = 1024 * 1024
MAX_BODY_BYTES = MAX_LINE_BYTES - 200  # with room for the numbers and the hash before it

Opened = tuple[str, int, int, str]  # the line of an intent: its file, offset, number and hash

_encode = msgspec.json.Encoder().encode
_NOT_ENCODABLE = (ValueError, TypeError, OverflowError)


class Placeable(Protocol):
    """What is given a place: a record's body, and what the writer has to know of it."""

    @property
    def body(self) -> bytes | None:
        """None when `Chain` has to see to it."""

    @property
    def event_type(self) -> str:
        """As the record has it."""

    @property
    def request_id(self) -> str | None:
        """As the record has it."""


Entry = TypeVar("Entry", bound=Placeable)


def encode_body(record: msgspec.Struct) -> bytes | None:
    """The body of any record's line."""
    try:
        body = _encode(record)[1:]
    except _NOT_ENCODABLE:
        return None
    return body if len(body) <= MAX_BODY_BYTES else None


def place_body(body: bytes, *, seq: int, slot: int, prev: str) -> bytes:
    """The line, without its newline, at its place in a slot's chain. `prev` is the hash of the line before."""
    return b'{"v":%d,"seq":%d,"slot":%d,"prev":"%b",%b' % (FORMAT_VERSION, seq, slot, prev.encode("ascii"), body)


def client_request_id(headers: Headers) -> str | None:
    """The caller's own id of its request, from the first header `x-request-id`."""
    for name, value in headers:
        if name == b"x-request-id":
            return value.decode("latin-1")
    return None


def intent_body(
    make: Callable[..., msgspec.Struct],
    call: Call,
    caller: Caller | None,
    requested_model: str | None,
    stream: bool,
    provider: str | None,
    model: str | None,
    epoch: str,
    now_us: int,
) -> bytes | None:
    """The body of an intent's line; `make` is `intent_record`."""
    return encode_body(make(call, caller, requested_model, stream, provider, model, epoch, now_us))


def closing_body(
    make: Callable[..., msgspec.Struct],
    settlement: Settlement,
    costs_nusd: tuple[int | None, ...],
    price_table: str,
    hashes: Any,
    now_us: int,
) -> bytes | None:
    """The body of an outcome's line; `make` is `closing_record`."""
    return encode_body(make(settlement, costs_nusd, price_table, hashes, now_us))


def place(
    queue: deque[Entry],
    batch: list[Entry],
    lines: list[bytes],
    opened: dict[str, Opened],
    chain: tuple[int, int, str],
    file: str,
    offset: int,
    until_offset: int,
    most_lines: int,
) -> tuple[int, str, int]:
    """Give a place to as many of the queue as one commit takes, up to the first without a body.

    `chain` is the slot, and the number and the hash of its last line; `offset` is where in `file` the next line will
    begin. Entries go from `queue` to `batch`, their lines (without newlines) to `lines`, and `opened` has the intents
    that have no outcome yet. Returns the number and the hash of the last line, and the offset behind it.
    """
    from hashlib import sha256  # not at the top: OpenSSL takes milliseconds to load

    slot, seq, prev = chain
    while queue and offset < until_offset and len(lines) < most_lines:
        entry = queue[0]
        body = entry.body
        if body is None:
            break
        queue.popleft()
        seq += 1
        line = place_body(body, seq=seq, slot=slot, prev=prev)
        prev = sha256(line).hexdigest()
        batch.append(entry)
        lines.append(line)
        note(opened, entry.event_type, entry.request_id, (file, offset, seq, prev))
        offset += len(line) + 1
    return seq, prev, offset


def note(opened: dict[str, Opened], event_type: str, request_id: str | None, line: Opened) -> None:
    """Keep in `opened` which requests have an intent and no outcome, after one more line."""
    if request_id is None:
        return
    if event_type == "request_received":
        opened[request_id] = line
    elif event_type in ("response_sent", "request_failed"):
        opened.pop(request_id, None)
