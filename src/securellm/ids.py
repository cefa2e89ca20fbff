"""The ids of requests: UUIDv7 (RFC 9562), so that sorting by id is sorting by time."""

import os
import time
import uuid

from securellm.chat import RequestId


def new_request_id() -> RequestId:
    """A fresh id for one request, made before anything is known of the caller."""
    return RequestId(encode_uuid7(time.time_ns() // 1_000_000, os.urandom(10)))


def encode_uuid7(unix_ms: int, random_bytes: bytes) -> str:
    """The text of a UUIDv7 from 48 bits of milliseconds and the low 74 of 80 random bits."""
    random_bits = int.from_bytes(random_bytes, "big")
    value = (unix_ms & 0xFFFF_FFFF_FFFF) << 80
    value |= 0x7 << 76 | (random_bits >> 62 & 0xFFF) << 64
    value |= 0b10 << 62 | random_bits & 0x3FFF_FFFF_FFFF_FFFF
    return str(uuid.UUID(int=value))
