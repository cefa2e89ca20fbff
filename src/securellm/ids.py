"""The ids of requests: UUIDv7 (RFC 9562), so that sorting by id is sorting by time."""

import os
import time

from securellm.chat import RequestId

RANDOM_BYTES = 10  # of one id
_IDS_AHEAD = 64
_VARIANTS = "89ab"  # the RFC's two bits, and two that are random


class _Ids:
    """Ids whose random half is made for many at once, and whose time is written anew for each millisecond.

    Each call for random bytes lets go of the interpreter's lock, and then waits behind whichever thread has taken it.
    """

    def __init__(self) -> None:
        self._endings: list[str] = []
        self._unix_ms = -1
        self._beginning = ""  # of that millisecond
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Give nothing that is made already: a process that was forked would give the same."""
        self._endings = []

    def take(self) -> str:
        """The next one."""
        unix_ms = time.time_ns() // 1_000_000
        if unix_ms != self._unix_ms:
            self._beginning, self._unix_ms = _encode_time(unix_ms), unix_ms
        if not self._endings:
            digits = os.urandom(RANDOM_BYTES * _IDS_AHEAD)
            self._endings = [
                _encode_random(digits[start : start + RANDOM_BYTES]) for start in range(0, len(digits), RANDOM_BYTES)
            ]
        return self._beginning + self._endings.pop()


_ids = _Ids()


def new_request_id() -> RequestId:
    """A fresh id for one request, made before anything is known of the caller."""
    return RequestId(_ids.take())


def encode_uuid7(unix_ms: int, random_bytes: bytes) -> str:
    """The text of a UUIDv7 from 48 bits of milliseconds and the low 74 of 80 random bits."""
    return _encode_time(unix_ms) + _encode_random(random_bytes)


def _encode_time(unix_ms: int) -> str:
    digits = f"{unix_ms & 0xFFFF_FFFF_FFFF:012x}"
    return f"{digits[:8]}-{digits[8:]}"


def _encode_random(random_bytes: bytes) -> str:
    digits = random_bytes.hex()
    return f"-7{digits[2:5]}-{_VARIANTS[random_bytes[0] & 3]}{digits[5:8]}-{digits[8:]}"
