"""Signed notes: the form that other tools read, and nothing else accepted."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from securellm.audit.keys import SigningKey
from securellm.audit.note import (
    NoteMalformed,
    Signature,
    encode_note,
    encode_public_key,
    parse_note,
    parse_public_key,
)

KEY = SigningKey(bytes(range(32)))


def test_a_note_reads_back_with_its_signatures() -> None:
    """Text and every signature line survive, also when several have signed, and when the text has empty lines."""
    signatures = (Signature("one", b"\x01\x02\x03\x04", b"s" * 64), Signature("two", b"\x05\x06\x07\x08", b"t" * 64))
    data = encode_note("a\n\nb é\n", signatures)
    assert data.startswith("a\n\nb é\n\n— one ".encode())
    note = parse_note(data)
    assert (note.text, note.signatures) == ("a\n\nb é\n", signatures)


def test_the_signature_is_ed25519_over_the_text() -> None:
    """Another implementation, given the exported key alone, finds the signature good."""
    note = parse_note(KEY.sign_note("text\n"))
    public = parse_public_key(KEY.encode_public_key())
    [signature] = note.signatures
    assert (signature.name, signature.key_hash) == (public.name, public.key_hash)
    Ed25519PublicKey.from_public_bytes(public.key).verify(signature.signature, b"text\n")


def test_the_key_hash_is_the_specifications() -> None:
    """The first four bytes of SHA-256 over name, newline, 0x01, key; the exported form has them in hex."""
    name, key_hash, encoded = KEY.encode_public_key().split("+", 2)
    assert base64.b64decode(encoded)[0] == 1
    assert hashlib.sha256(name.encode() + b"\n" + base64.b64decode(encoded)).hexdigest()[:8] == key_hash
    assert encode_public_key(parse_public_key(KEY.encode_public_key())) == KEY.encode_public_key()


@pytest.mark.parametrize("text", ["", "\n", "no newline", "an empty line at the end\n\n"])
def test_a_text_that_would_read_back_differently_is_not_signed(text: str) -> None:
    """A text ends in exactly one newline."""
    with pytest.raises(NoteMalformed):
        encode_note(text, ())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text\n",
        b"text\n\n",
        b"text\n\nnot a signature\n",
        b"text\n\n\xe2\x80\x94 name\n",
        b"text\n\n\xe2\x80\x94 name AAAA\n",  # shorter than a key hash
        b"text\n\n\xe2\x80\x94 name AAAAAAAAAAB=\n",  # base64 with loose bits at its end
        b"text\n\n\xe2\x80\x94 name AAAAAAAA",  # no newline
        b"\xff\n\n\xe2\x80\x94 name AAAAAAAA\n",
    ],
)
def test_what_is_no_note_is_refused(data: bytes) -> None:
    """Every departure from the form is an error, never a note with less in it."""
    with pytest.raises(NoteMalformed):
        parse_note(data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+00000000+AAAA",
        "+" + KEY.encode_public_key().split("+", 1)[1],
        "other" + KEY.encode_public_key(),
    ],
)
def test_a_public_key_says_its_own_hash(text: str) -> None:
    """A key under another name, or cut short, is refused."""
    with pytest.raises(NoteMalformed):
        parse_public_key(text)
