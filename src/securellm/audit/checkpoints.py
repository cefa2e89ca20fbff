"""When the chain of a slot is signed, and the text that is signed. Pure.

A checkpoint names the last record that it covers and, by its hash, everything before. It also has a number of its own
and the hash of the checkpoint before it, so that one taken out is missed and the last one vouches for all.

The writer asks `due`, encodes, appends the bytes to the slot's checkpoint file, syncs it, and only then says `written`:
a checkpoint that did not reach the disk is made again under the same number.
"""

import base64
import hashlib
import re
from typing import Protocol

import msgspec

from securellm.audit.note import NoteMalformed, parse_note
from securellm.audit.record import timestamp

BUSY_INTERVAL_US = 10_000_000  # with records that no checkpoint covers yet
IDLE_INTERVAL_US = 60_000_000  # without: a sign of life, by which a log that was cut back shows its age
REASONS = ("start", "interval", "rotation", "close", "seal", "prune")
NO_NOTE = bytes(32)  # what the first checkpoint says of the one before
TAIL_BYTES = 65_536  # of a checkpoint file, and its last checkpoint lies whole within; one has about 500 bytes

_CLOSING = re.compile(rb"\n\n(?:\xe2\x80\x94 [^\n]+\n)+\n")  # signature lines between two empty lines


class Signer(Protocol):
    """What signs: `keys.SigningKey`."""

    installation: str

    def sign_note(self, text: str) -> bytes:
        """The signed note of a text."""
        ...


class Checkpoint(msgspec.Struct, frozen=True):
    """What one checkpoint says. `line_hash` is in hex; `number` counts the slot's checkpoints from 1."""

    installation: str
    slot: int
    seq: int
    line_hash: str
    time: str
    reason: str
    number: int
    note_before: bytes = NO_NOTE  # SHA-256 of the whole note before, signature lines included


class Tail(msgspec.Struct, frozen=True):
    """How a checkpoint file ends: its last whole checkpoint, and what recovery has to cut off behind it."""

    last: Checkpoint | None
    note_hash: bytes
    torn_bytes: int


class Checkpointer:
    """Decides when a slot's chain is signed, and signs it. Made once a start; the first checkpoint is due at once."""

    def __init__(self, signer: Signer, slot: int, tail: Tail | None = None) -> None:
        """`tail` is how the slot's newest checkpoint file ends (`parse_tail`); None where there is none."""
        self._signer = signer
        self._slot = slot
        self._number = tail.last.number if tail and tail.last else 0
        self._note_before = tail.note_hash if tail else NO_NOTE
        self._covered_seq = tail.last.seq if tail and tail.last else 0
        self._last_us: int | None = None
        self._encoded: tuple[bytes, int, int] | None = None

    @property
    def covered_seq(self) -> int:
        """The last record that a checkpoint on disk covers; 0 when none does."""
        return self._covered_seq

    def due(self, now_us: int, seq: int) -> str | None:
        """Why a checkpoint over record `seq`, the last one on disk, is due now: `start`, `interval`; None: not yet."""
        if self.due_in_us(now_us, seq) > 0:
            return None
        return "start" if self._last_us is None else "interval"

    def due_in_us(self, now_us: int, seq: int) -> int:
        """How long the writer may sleep before it asks `due` again; 0 is now. A clock that went back is now, too."""
        if seq < 1:
            return IDLE_INTERVAL_US  # there is nothing to sign
        if self._last_us is None or now_us < self._last_us:
            return 0
        interval_us = BUSY_INTERVAL_US if seq > self._covered_seq else IDLE_INTERVAL_US
        return max(0, self._last_us + interval_us - now_us)

    def encode(self, seq: int, line_hash: str, now_us: int, reason: str) -> bytes:
        """The bytes to append to the checkpoint file. Changes nothing but what `written` will take over."""
        checkpoint = Checkpoint(
            installation=self._signer.installation,
            slot=self._slot,
            seq=seq,
            line_hash=line_hash,
            time=timestamp(now_us),
            reason=reason,
            number=self._number + 1,
            note_before=self._note_before,
        )
        note = self._signer.sign_note(encode_text(checkpoint))
        self._encoded = (hashlib.sha256(note).digest(), seq, now_us)
        return note + b"\n"

    def written(self) -> None:
        """What `encode` gave last is on disk: the next checkpoint follows it."""
        if self._encoded is None:
            raise ValueError("no checkpoint was encoded")
        self._note_before, self._covered_seq, self._last_us = self._encoded
        self._number += 1
        self._encoded = None


def encode_text(checkpoint: Checkpoint) -> str:
    """The text that is signed."""
    lines = (
        f"securellm-audit/{checkpoint.installation}/{checkpoint.slot}",
        str(checkpoint.seq),
        _encode64(bytes.fromhex(checkpoint.line_hash)),
        checkpoint.time,
        checkpoint.reason,
        str(checkpoint.number),
        _encode64(checkpoint.note_before),
    )
    return "\n".join(lines) + "\n"


def parse_text(text: str) -> Checkpoint:
    """What such a text says. Raises NoteMalformed."""
    try:
        origin, seq, line_hash, time, reason, number, note_before, after = text.split("\n")
        product, installation, slot = origin.split("/")
        checkpoint = Checkpoint(
            installation=installation,
            slot=int(slot),
            seq=int(seq),
            line_hash=base64.b64decode(line_hash, validate=True).hex(),
            time=time,
            reason=reason,
            number=int(number),
            note_before=base64.b64decode(note_before, validate=True),
        )
    except ValueError as exc:
        raise NoteMalformed("expected the seven lines of a checkpoint") from exc
    if after or product != "securellm-audit" or reason not in REASONS or encode_text(checkpoint) != text:
        raise NoteMalformed("expected the seven lines of a checkpoint in canonical form")
    return checkpoint


def parse_tail(data: bytes) -> Tail:
    """How a checkpoint file ends, from its last bytes (`TAIL_BYTES`, or the whole file when it is shorter).

    A checkpoint that the process did not live to write whole counts as `torn_bytes`. Raises NoteMalformed when what
    is whole is no checkpoint.
    """
    ends = [0, *(match.end() for match in _CLOSING.finditer(data))]
    if len(ends) == 1:
        return Tail(None, NO_NOTE, len(data))
    note = data[ends[-2] : ends[-1] - 1]
    checkpoint = parse_text(parse_note(note).text)
    return Tail(checkpoint, hashlib.sha256(note).digest(), len(data) - ends[-1])


def _encode64(data: bytes) -> str:
    return base64.b64encode(data).decode()
