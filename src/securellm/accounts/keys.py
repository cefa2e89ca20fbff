"""API keys: their form, how they are stored, when they hold. Pure.

A key is `slb_<id8>_<43 characters>`: an id that may be shown, and 256 random bits in base64url. Stored is only the
HMAC-SHA256 of the whole text under a pepper that lies outside the store; with that much randomness a slow hash would
add nothing but CPU to every request.
"""

import base64
import functools
import hashlib
import hmac
import re
from typing import Any

import msgspec

from securellm.chat import EVERYTHING, Grants, KeyId
from securellm.config.tree import Rates

ROLES = ("user", "auditor", "operator", "admin")

ID_BYTES = 5  # 40 bits are 8 characters of base32
SECRET_BYTES = 32
MIN_CONFIG_KEY_CHARS = 16  # of a key that the configuration gives; any text of at least this length
MAX_KEY_CHARS = 512  # what is longer is refused before it is hashed
MIN_PEPPER_BYTES = 16
BLOCK_BYTES = 64  # of SHA-256

_FORM = re.compile(r"slb_([a-z2-7]{8})_([A-Za-z0-9_-]{43})", re.ASCII)


class MintedKey(msgspec.Struct, frozen=True):
    """A new key. `text` is shown once and kept nowhere; the repr hides it."""

    id: KeyId
    text: str

    def __repr__(self) -> str:
        """The id alone."""
        return f"<MintedKey {self.id}>"


class KeyRecord(msgspec.Struct, frozen=True):
    """What is kept of a key. Times are Unix seconds; None: it does not expire, it is not revoked.

    A key that was rotated keeps its id, and so its limits, budgets and history; the key that it was before is good
    until `previous_until_s`.
    """

    id: KeyId
    digest: bytes
    name: str
    role: str
    created_at_s: int
    expires_at_s: int | None = None
    revoked_at_s: int | None = None
    user_id: str | None = None
    team_id: str | None = None
    grants: Grants = EVERYTHING
    rates: Rates | None = None  # of its own; None: as the configuration says
    previous_digest: bytes | None = None
    previous_until_s: int | None = None

    def __repr__(self) -> str:
        """Without the digest."""
        return f"<KeyRecord {self.id} {self.name!r} {self.role} {self.state(self.created_at_s)}>"

    def state(self, now_s: float) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_at_s is not None:
            return "revoked"
        return "expired" if self.expires_at_s is not None and now_s >= self.expires_at_s else "active"


def mint_key(random: bytes) -> MintedKey:
    """The key that `ID_BYTES + SECRET_BYTES` random bytes make."""
    if len(random) != ID_BYTES + SECRET_BYTES:
        raise ValueError(f"got {len(random)} random bytes, expected {ID_BYTES + SECRET_BYTES}")
    return remint_key(KeyId(base64.b32encode(random[:ID_BYTES]).decode().lower()), random[ID_BYTES:])


def remint_key(key_id: KeyId, random: bytes) -> MintedKey:
    """A key of that id with the secret that `SECRET_BYTES` random bytes make."""
    if len(random) != SECRET_BYTES:
        raise ValueError(f"got {len(random)} random bytes, expected {SECRET_BYTES}")
    secret = base64.urlsafe_b64encode(random).decode().rstrip("=")
    return MintedKey(key_id, f"slb_{key_id}_{secret}")


def parse_key(text: str) -> KeyId | None:
    """The id of a key in our form, None for any other text."""
    match = _FORM.fullmatch(text)
    return KeyId(match[1]) if match else None


def mark_pepper(pepper: bytes) -> int:
    """31 bits by which a store knows its pepper again; a pepper is no word that could be guessed with their help."""
    return int.from_bytes(hmac.digest(pepper, b"securellm: which pepper is this", hashlib.sha256)[:4], "big") >> 1


def digest_key(pepper: bytes, text: str) -> bytes:
    """What is stored of a key, and what a presented key is compared by: HMAC-SHA256 under the pepper.

    Done by hand from states that are kept (RFC 2104): three times as fast as hmac.digest, which moreover lets go of the
    interpreter's lock for each request and then waits behind whichever thread has taken it.
    """
    inner, outer = _hmac_states(pepper)
    inner, outer = inner.copy(), outer.copy()
    inner.update(text.encode())
    outer.update(inner.digest())
    digest: bytes = outer.digest()
    return digest


@functools.lru_cache(maxsize=8)
def _hmac_states(pepper: bytes) -> tuple[Any, Any]:
    """SHA-256 after the inner and the outer padding of HMAC."""
    key = (pepper if len(pepper) <= BLOCK_BYTES else hashlib.sha256(pepper).digest()).ljust(BLOCK_BYTES, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))
    return inner, outer


same_digest = hmac.compare_digest  # whether two digests are equal, in constant time
