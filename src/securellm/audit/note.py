"""Signed notes: a text and who signed it, as anybody can read and check them. Pure.

Source: C2SP signed-note v1.0.0, https://c2sp.org/signed-note. A note is its text, an empty line, and one line a
signature: an em dash, the key's name, and in base64 four bytes of key hash before the signature's own.
"""

import base64
import binascii
import hashlib

import msgspec

ED25519 = b"\x01"  # the algorithm's byte in key hashes and in exported keys
KEY_HASH_BYTES = 4
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64

_DASH = "\N{EM DASH} "


class NoteMalformed(ValueError):
    """The bytes are no signed note, or the text no public key; the message says what was expected."""


class Signature(msgspec.Struct, frozen=True):
    """One line below a note's text: the key's name, four bytes of its hash, and the signature of the text."""

    name: str
    key_hash: bytes
    signature: bytes


class Note(msgspec.Struct, frozen=True):
    """A text that ends in a newline, and its signatures."""

    text: str
    signatures: tuple[Signature, ...]


class PublicKey(msgspec.Struct, frozen=True):
    """Whose signature it is: the key's name and its 32 bytes."""

    name: str
    key: bytes

    @property
    def key_hash(self) -> bytes:
        """The first four bytes of SHA-256 over name, newline, algorithm and key: a hint, not a proof."""
        return hashlib.sha256(self.name.encode() + b"\n" + ED25519 + self.key).digest()[:KEY_HASH_BYTES]


def encode_note(text: str, signatures: tuple[Signature, ...]) -> bytes:
    """The note's bytes. `text` ends in a newline and has no empty line at its end."""
    if not text.endswith("\n") or text.endswith("\n\n") or text == "\n":
        raise NoteMalformed("expected a text that ends in one newline")
    lines = [f"{_DASH}{one.name} {_encode64(one.key_hash + one.signature)}\n" for one in signatures]
    return f"{text}\n{''.join(lines)}".encode()


def parse_note(data: bytes) -> Note:
    """Text and signatures; that a signature holds is for whoever has the key. Raises NoteMalformed."""
    try:
        whole = data.decode()
    except UnicodeDecodeError as exc:
        raise NoteMalformed("expected UTF-8") from exc
    text, empty_line, below = whole.rpartition("\n\n")
    if not empty_line or not text or not below.endswith("\n"):
        raise NoteMalformed("expected a text, an empty line and signatures, each line ended")
    return Note(text + "\n", tuple(_parse_signature(line) for line in below[:-1].split("\n")))


def encode_public_key(public: PublicKey) -> str:
    """The key as it is handed to auditors: `<name>+<key hash in hex>+<base64 of 0x01 and the key>`."""
    return f"{public.name}+{public.key_hash.hex()}+{_encode64(ED25519 + public.key)}"


def parse_public_key(text: str) -> PublicKey:
    """The key in such a text. Raises NoteMalformed."""
    name, _, rest = text.partition("+")
    key_hash, _, encoded = rest.partition("+")
    data = _decode64(encoded)
    if not name or len(data) != 1 + PUBLIC_KEY_BYTES or data[:1] != ED25519:
        raise NoteMalformed("expected an Ed25519 public key: <name>+<key hash>+<base64>")
    public = PublicKey(name, data[1:])
    if public.key_hash.hex() != key_hash:
        raise NoteMalformed(f"the key's hash is {public.key_hash.hex()}, its text says {key_hash[:16]!r}")
    return public


def _parse_signature(line: str) -> Signature:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    data = _decode64(encoded)
    if not line.startswith(_DASH) or not name or not space or len(data) <= KEY_HASH_BYTES:
        raise NoteMalformed("expected a signature line: a dash, the key's name, base64")
    return Signature(name, data[:KEY_HASH_BYTES], data[KEY_HASH_BYTES:])


def _encode64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode64(text: str) -> bytes:
    """Strict: exactly what the encoder writes, so that one value has one text. Raises NoteMalformed."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data or _encode64(data) != text:
        raise NoteMalformed("expected base64")
    return data
