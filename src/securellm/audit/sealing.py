"""How a recorded body is encrypted: AES-256-GCM in frames, each bound to its place, the last one marked. Pure.

    magic "SLCONT1\\n" | 32 random bytes | frames of at most 64 KiB of text, each followed by its 16 bytes of tag

Each file has a key of its own: HKDF-SHA256 of the installation's content key, with the file's random bytes as salt and
the request's id and the kind of body as info, so that a file which is put in the place of another does not open. With a
key used once, the nonce is a counter of eleven bytes and a byte that is 1 in the last frame only: a file with a frame
left out, doubled, swapped or cut off does not open. This is the STREAM construction (Hoang, Reyhanitabar, Rogaway,
Vizár: Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance, 2015). The magic is authenticated, too.
"""

from collections.abc import Iterator
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MAGIC = b"SLCONT1\n"
SALT_BYTES = 32
FRAME_BYTES = 64 * 1024
TAG_BYTES = 16
COUNTER_BYTES = 11


class ContentDamaged(ValueError):
    """The file is not what was written under this key for this request; the message says where it fails."""


def encrypt(data: bytes, *, key: bytes, name: str, salt: bytes) -> bytes:
    """The whole file of a body. `name` says whose body it is; `salt` is 32 random bytes, never used before."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"got a salt of {len(salt)} bytes, expected {SALT_BYTES}")
    cipher = AESGCM(_derive(key, salt, name))
    parts = [MAGIC, salt]
    frames = max(1, -(-len(data) // FRAME_BYTES))
    view = memoryview(data)
    for number in range(frames):
        frame = view[number * FRAME_BYTES : (number + 1) * FRAME_BYTES]
        parts.append(cipher.encrypt(_nonce(number, last=number == frames - 1), frame, MAGIC))
    return b"".join(parts)


def decrypt(file: BinaryIO, *, key: bytes, name: str) -> Iterator[bytes]:
    """The body, a frame at a time; each is genuine, but the body is whole only when the iteration has ended.

    Raises ContentDamaged.
    """
    head = file.read(len(MAGIC) + SALT_BYTES)
    if head[: len(MAGIC)] != MAGIC or len(head) != len(MAGIC) + SALT_BYTES:
        raise ContentDamaged("is no recorded body")
    cipher = AESGCM(_derive(key, head[len(MAGIC) :], name))
    number, frame = 0, file.read(FRAME_BYTES + TAG_BYTES)
    while True:
        following = file.read(FRAME_BYTES + TAG_BYTES)
        try:
            yield cipher.decrypt(_nonce(number, last=not following), frame, MAGIC)
        except (InvalidTag, ValueError) as exc:  # ValueError: shorter than a tag
            raise ContentDamaged(f"does not open at byte {_offset(number)}: another key, damaged or cut off") from exc
        if not following:
            return
        number, frame = number + 1, following


def _derive(key: bytes, salt: bytes, name: str) -> bytes:
    return HKDF(SHA256(), 32, salt, b"securellm-content/1/" + name.encode()).derive(key)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(COUNTER_BYTES, "big") + (b"\x01" if last else b"\x00")


def _offset(number: int) -> int:
    return len(MAGIC) + SALT_BYTES + number * (FRAME_BYTES + TAG_BYTES)
