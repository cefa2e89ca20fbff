"""The signatures of checkpoints: the interpreter's own OpenSSL and cryptography make the same ones."""

import subprocess
import sys
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from securellm.audit.ed25519 import VECTOR, CryptographyKey, OpenSSLKey, find_openssl, open_private_key
from securellm.audit.verify import verify_ed25519


@settings(deadline=None, max_examples=50)  # the verifier's arithmetic is in Python
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=2000))
def test_both_make_the_same_signature(seed: bytes, message: bytes) -> None:
    """Public key and signature are cryptography's, whoever makes them, and the verifier takes them."""
    key, other = open_private_key(seed), CryptographyKey(seed)
    signature = key.sign(message)
    assert (key.public, signature) == (other.public, other.sign(message))
    assert verify_ed25519(key.public, message, signature)


def test_the_vector_is_the_published_one() -> None:
    """What the library has to prove itself with is what RFC 8032 says, as cryptography sees it."""
    seed, public, message, signature = VECTOR
    theirs = Ed25519PrivateKey.from_private_bytes(seed)
    assert (theirs.public_key().public_bytes_raw(), theirs.sign(message)) == (public, signature)


def test_any_thread_may_sign() -> None:
    """Eight threads sign with one key at once, and all signatures are right."""
    key, expected = open_private_key(bytes(range(32))), CryptographyKey(bytes(range(32)))
    wrong: list[bytes] = []

    def sign(number: int) -> None:
        for turn in range(200):
            message = b"%d %d" % (number, turn)
            if key.sign(message) != expected.sign(message):
                wrong.append(message)

    threads = [threading.Thread(target=sign, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_short_seed_is_refused() -> None:
    """A seed of another length never reaches a library."""
    with pytest.raises(ValueError, match="got a seed of 31 bytes, expected 32"):
        open_private_key(bytes(31))


def test_neither_shows_its_seed() -> None:
    """The repr is of the public key."""
    seed = bytes(range(32))
    for key in (open_private_key(seed), CryptographyKey(seed)):
        assert seed.hex() not in repr(key)
        assert key.public.hex() in repr(key)


def test_signing_leaves_cryptography_where_it_is() -> None:
    """With an OpenSSL that signs, cryptography is not imported: that is 7.5 MB in each process."""
    program = (
        "import sys\n"
        "from securellm.audit.keys import SigningKey\n"
        "SigningKey(bytes(32)).sign_note('a\\n')\n"
        "print('cryptography' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(find_openssl() is None)


def test_an_openssl_without_the_functions_is_not_used() -> None:
    """Where the interpreter's OpenSSL cannot be reached, cryptography signs, and nobody notices."""
    program = (
        "import importlib.util, sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        return importlib.util.spec_from_loader(name, None) if name == '_hashlib' else None\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "sys.modules.pop('_hashlib', None)\n"
        "from securellm.audit.ed25519 import find_openssl, open_private_key\n"
        "key = open_private_key(bytes(range(32)))\n"
        "print(type(key).__name__, find_openssl(), key.sign(b'x').hex())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["CryptographyKey", "None", CryptographyKey(bytes(range(32))).sign(b"x").hex()]


def test_keys_that_are_dropped_take_no_other_with_them() -> None:
    """What the library holds for a key is freed with it, once, and a key that is kept goes on signing."""
    library = find_openssl()
    if library is None:  # cryptography signs here, and frees by itself
        return
    kept = OpenSSLKey(bytes(range(32)), library)
    for number in range(1000):
        OpenSSLKey(number.to_bytes(32, "big"), library)
    assert kept.sign(b"x") == CryptographyKey(bytes(range(32))).sign(b"x")
