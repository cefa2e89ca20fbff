"""Request ids."""

import subprocess
import sys
import time
import uuid

from hypothesis import given
from hypothesis import strategies as st

from securellm.ids import encode_uuid7, new_request_id


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_layout(unix_ms: int, random_bytes: bytes) -> None:
    """Version 7, the RFC's variant, and the milliseconds in front."""
    parsed = uuid.UUID(encode_uuid7(unix_ms, random_bytes))
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == unix_ms


def test_every_random_bit_is_used() -> None:
    """74 bits differ between ids of one millisecond: no two random values give one id."""
    ids = {encode_uuid7(0, (1 << bit).to_bytes(10, "big")) for bit in range(74)}
    assert len(ids) == 74


def test_ids_carry_the_time() -> None:
    """An id made now says so, and two are never equal."""
    first, second = new_request_id(), new_request_id()
    assert first != second
    assert abs((uuid.UUID(first).int >> 80) - time.time_ns() // 1_000_000) < 5_000


FORK = """
import os
from securellm.ids import new_request_id
new_request_id()
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, new_request_id().encode())
    os._exit(0)
os.wait()
print(os.read(read, 100).decode()[14:] != new_request_id()[14:])
"""


def test_a_forked_process_makes_ids_of_its_own() -> None:
    """Random bytes that were taken before a fork are not used by both."""
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "True"
