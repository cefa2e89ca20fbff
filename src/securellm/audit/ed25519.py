"""Ed25519 signatures, made by the OpenSSL that Python itself stands on, else by cryptography.

cryptography brings an OpenSSL of its own: 7.5 MB that a process has resident from the first signature on, for one every
ten seconds, beside the one that is there for TLS and hashes. That one is reached through the module that links it, by
six functions that it has had since 1.1.1. Before it is believed it makes the signature of a published vector; where it
cannot (linked into the interpreter and hidden, another library, a policy without Ed25519) cryptography signs.
"""

import ctypes
import functools
import importlib.util
import weakref
from typing import Any, Protocol

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64

# RFC 8032, 7.1, test 2: seed, public key, message, signature.
VECTOR = (
    bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"),
    bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"),
    bytes.fromhex("72"),
    bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    ),
)


class PrivateKey(Protocol):
    """What signs."""

    public: bytes

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature."""
        ...


class Unusable(Exception):
    """This OpenSSL cannot be reached, or does not sign."""


def open_private_key(seed: bytes) -> PrivateKey:
    """The private key of 32 bytes. Any thread may sign with it."""
    if len(seed) != SEED_BYTES:
        raise ValueError(f"got a seed of {len(seed)} bytes, expected {SEED_BYTES}")
    library = find_openssl()
    return OpenSSLKey(seed, library) if library is not None else CryptographyKey(seed)


@functools.cache
def find_openssl() -> ctypes.CDLL | None:
    """The OpenSSL that Python is linked with; None when it does not sign the vector as published."""
    seed, public, message, signature = VECTOR
    try:
        library = _load()
        key = OpenSSLKey(seed, library)
        proven = (key.public, key.sign(message)) == (public, signature)
    except (Unusable, OSError, AttributeError):  # the last: a function is not there
        return None
    return library if proven else None


class OpenSSLKey:
    """A key in that library's hands."""

    def __init__(self, seed: bytes, library: ctypes.CDLL) -> None:
        self._library = library
        kind = library.OBJ_sn2nid(b"ED25519")
        self._key = library.EVP_PKEY_new_raw_private_key(kind, None, seed, len(seed)) if kind else None
        if not self._key:
            library.ERR_clear_error()  # what is left in this thread's queue is taken for an error of TLS
            raise Unusable("this OpenSSL has no Ed25519")
        weakref.finalize(self, library.EVP_PKEY_free, self._key).atexit = False
        public = ctypes.create_string_buffer(PUBLIC_KEY_BYTES)
        written = ctypes.c_size_t(PUBLIC_KEY_BYTES)
        self._expect(library.EVP_PKEY_get_raw_public_key(self._key, public, ctypes.byref(written)))
        self.public = public.raw

    def __repr__(self) -> str:
        return f"<OpenSSLKey of {self.public.hex()}>"

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature."""
        library = self._library
        signature = ctypes.create_string_buffer(SIGNATURE_BYTES)
        written = ctypes.c_size_t(SIGNATURE_BYTES)
        context = library.EVP_MD_CTX_new()
        if not context:
            raise MemoryError("no room for a signature")
        try:
            self._expect(library.EVP_DigestSignInit(context, None, None, None, self._key))
            self._expect(library.EVP_DigestSign(context, signature, ctypes.byref(written), message, len(message)))
        finally:
            library.EVP_MD_CTX_free(context)
        return signature.raw

    def _expect(self, done: int) -> None:
        if done != 1:
            self._library.ERR_clear_error()
            raise Unusable("this OpenSSL does not sign with Ed25519")


class CryptographyKey:
    """A key in cryptography's hands."""

    def __init__(self, seed: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # not at the top: see above

        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"<CryptographyKey of {self.public.hex()}>"

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature."""
        return self._key.sign(message)


def _load() -> ctypes.CDLL:
    """The library, with its functions declared. Raises Unusable, OSError, AttributeError."""
    linked = importlib.util.find_spec("_hashlib")
    if linked is None or not linked.has_location or linked.origin is None:
        raise Unusable("OpenSSL is linked into the interpreter")
    library = ctypes.CDLL(linked.origin)  # names are looked up in what it is linked with, too
    pointer, size, data = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    declared: dict[str, tuple[Any, list[Any]]] = {
        "OBJ_sn2nid": (ctypes.c_int, [data]),
        "EVP_PKEY_new_raw_private_key": (pointer, [ctypes.c_int, pointer, data, size]),
        "EVP_PKEY_get_raw_public_key": (ctypes.c_int, [pointer, data, pointer]),
        "EVP_PKEY_free": (None, [pointer]),
        "EVP_MD_CTX_new": (pointer, []),
        "EVP_MD_CTX_free": (None, [pointer]),
        "EVP_DigestSignInit": (ctypes.c_int, [pointer, pointer, pointer, pointer, pointer]),
        "EVP_DigestSign": (ctypes.c_int, [pointer, data, pointer, data, size]),
        "ERR_clear_error": (None, []),
    }
    for name, (result, arguments) in declared.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
