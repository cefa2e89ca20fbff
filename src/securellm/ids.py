"""The ids of requests: UUIDv7 (RFC 9562), so that sorting by id is sorting by time."""

import os
import time

from securellm.chat import RequestId

RANDOM_BYTES = 10  # of one id
_IDS_AHEAD = 256


class _Random:
    """Random bytes taken from the system for many ids at once.

    Each call for random bytes lets go of the interpreter's lock, and then waits behind whichever thread has taken it.
    """

    def __init__(self) -> None:
        self._left = b""
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Give no byte that was taken so far: a process that was forked would give the same ones."""
        self._left = b""

    def take(self) -> bytes:
        """The random bytes of one id."""
        if not self._left:
            self._left = os.urandom(RANDOM_BYTES * _IDS_AHEAD)
        taken, self._left = self._left[:RANDOM_BYTES], self._left[RANDOM_BYTES:]
        return taken


_random = _Random()


def new_request_id() -> RequestId:
    """A fresh id for one request, made before anything is known of the caller."""
    return RequestId(encode_uuid7(time.time_ns() // 1_000_000, _random.take()))


def encode_uuid7(unix_ms: int, random_bytes: bytes) -> str:
    """The text of a UUIDv7 from 48 bits of milliseconds and the low 74 of 80 random bits."""
    random_bits = int.from_bytes(random_bytes, "big")
    value = (unix_ms & 0xFFFF_FFFF_FFFF) << 80
    value |= 0x7 << 76 | (random_bits >> 62 & 0xFFF) << 64
    value |= 0b10 << 62 | random_bits & 0x3FFF_FFFF_FFFF_FFFF
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
