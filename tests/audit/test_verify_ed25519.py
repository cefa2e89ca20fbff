"""The verifier's own Ed25519: the vectors of RFC 8032, and the same answers as a library's."""

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from securellm.audit.verify import verify_ed25519

ORDER = 2**252 + 27742317777372353535851937790883648493

# RFC 8032, section 7.1: public key, message, signature
VECTORS = {
    "1": (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "2": (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "3": (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    "SHA(abc)": (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_the_vectors_of_the_rfc_hold(name: str) -> None:
    """Each signature holds; with one bit of the message, key or signature changed it does not."""
    public, message, signature = (bytes.fromhex(part) for part in VECTORS[name])
    assert verify_ed25519(public, message, signature)
    assert not verify_ed25519(public, message + b"\0", signature)
    assert not verify_ed25519(public, message, bytes([signature[0] ^ 1]) + signature[1:])
    assert not verify_ed25519(public, message, signature[:40] + bytes([signature[40] ^ 4]) + signature[41:])


def _library_verifies(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


# One key and few: a table of multiples is made for each.
PRIVATE = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(3)]


@given(st.sampled_from(PRIVATE), st.binary(max_size=300), st.data())
@settings(max_examples=100, deadline=None)
def test_it_agrees_with_a_library(private: Ed25519PrivateKey, message: bytes, data: st.DataObject) -> None:
    """On random messages, sound or with bits of message or signature changed."""
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signature = bytearray(private.sign(message))
    assert verify_ed25519(public, message, bytes(signature))
    signature[data.draw(st.integers(0, 63))] ^= data.draw(st.integers(0, 255))
    changed = data.draw(st.sampled_from([message, message + b"x", message[1:]]))
    assert verify_ed25519(public, changed, bytes(signature)) == _library_verifies(public, changed, bytes(signature))


def test_a_signature_has_one_form() -> None:
    """The same scalar plus the group's order is refused, as RFC 8032 says."""
    public, message, signature = (bytes.fromhex(part) for part in VECTORS["2"])
    larger = int.from_bytes(signature[32:], "little") + ORDER
    assert larger < 2**256
    assert not verify_ed25519(public, message, signature[:32] + larger.to_bytes(32, "little"))


@pytest.mark.parametrize(
    "public",
    [
        b"",
        bytes(31),
        bytes(33),
        b"\xff" * 32,  # y is not below the prime
        (2).to_bytes(32, "little"),  # on no point of the curve
        (1 | 1 << 255).to_bytes(32, "little"),  # x is zero, and its sign is set
    ],
)
def test_what_is_no_key_verifies_nothing(public: bytes) -> None:
    """Nor does a signature of another length."""
    assert not verify_ed25519(public, b"", bytes(64))
    good = bytes.fromhex(VECTORS["1"][0])
    assert not verify_ed25519(good, b"", bytes.fromhex(VECTORS["1"][2])[:63])
    assert not verify_ed25519(good, b"", bytes.fromhex(VECTORS["1"][2]) + b"\0")
