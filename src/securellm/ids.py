"""The ids of requests: UUIDv7 (RFC 9562), so that sorting by id is sorting by time."""

import os
import time

from securellm.chat import RequestId

RANDOM_BYTES = 10  # of one id
_IDS_AHEAD = 256
_VARIANTS = "89ab"  # the RFC's two bits, and two that are random


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
    time_digits, digits = (unix_ms & 0xFFFF_FFFF_FFFF).to_bytes(6, "big").hex(), random_bytes.hex()
    variant = _VARIANTS[random_bytes[0] & 3]
    return f"{time_digits[:8]}-{time_digits[8:]}-7{digits[2:5]}-{variant}{digits[5:8]}-{digits[8:]}"
