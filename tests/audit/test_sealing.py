"""Sealed bodies: they open with their key under their name, whole, or not at all."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securellm.audit.sealing import FRAME_BYTES, MAGIC, SALT_BYTES, TAG_BYTES, ContentDamaged, decrypt, encrypt

KEY, SALT, NAME = bytes(range(32)), bytes(32), "0198.request"
HEAD = len(MAGIC) + SALT_BYTES
FRAME = FRAME_BYTES + TAG_BYTES


def _open(sealed: bytes, key: bytes = KEY, name: str = NAME) -> bytes:
    return b"".join(decrypt(io.BytesIO(sealed), key=key, name=name))


@pytest.mark.parametrize("length", [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES])
def test_there_and_back(length: int) -> None:
    """Bodies of any length, frame by frame; nothing of the text shows, and each file has a key of its own."""
    body = bytes(number % 251 for number in range(length))
    sealed = encrypt(body, key=KEY, name=NAME, salt=SALT)
    assert _open(sealed) == body
    assert len(sealed) == HEAD + length + TAG_BYTES * max(1, -(-length // FRAME_BYTES))
    assert body[:64] not in sealed or length < 2
    assert sealed[HEAD:] != encrypt(body, key=KEY, name=NAME, salt=bytes([1]) * 32)[HEAD:]


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, HEAD + 2 * FRAME + 100), bit=st.integers(0, 7))
def test_a_changed_bit_is_found(at: int, bit: int) -> None:
    """Any bit of the file, the head included."""
    sealed = bytearray(encrypt(b"x" * (2 * FRAME_BYTES + 85), key=KEY, name=NAME, salt=SALT))
    sealed[at] ^= 1 << bit
    with pytest.raises(ContentDamaged):
        _open(bytes(sealed))


def test_frames_have_their_places() -> None:
    """A file that was cut off anywhere, or whose frames were swapped, doubled or left out, does not open."""
    sealed = encrypt(b"a" * FRAME_BYTES + b"b" * FRAME_BYTES + b"c" * 10, key=KEY, name=NAME, salt=SALT)
    head, first, second, last = (
        sealed[:HEAD],
        sealed[HEAD : HEAD + FRAME],
        sealed[HEAD + FRAME : HEAD + 2 * FRAME],
        sealed[HEAD + 2 * FRAME :],
    )
    assert _open(head + first + second + last)
    for wrong in (
        *(head + first + second, head + first, head, sealed[: HEAD - 1], b"", sealed[:-1], head + first[:10]),
        *(head + second + first + last, head + first + last, head + first + first + second + last, sealed + last),
    ):
        with pytest.raises(ContentDamaged):
            _open(wrong)


def test_other_keys_and_names() -> None:
    """Neither another key opens it, nor the name of another request or of the other body."""
    sealed = encrypt(b"body", key=KEY, name=NAME, salt=SALT)
    for key, name in ((bytes(32), NAME), (KEY, "0199.request"), (KEY, "0198.answer")):
        with pytest.raises(ContentDamaged, match="does not open at byte 40"):
            _open(sealed, key, name)
    with pytest.raises(ValueError, match="salt of 16 bytes"):
        encrypt(b"", key=KEY, name=NAME, salt=bytes(16))
