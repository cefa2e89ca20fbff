"""The key that signs checkpoints: one Ed25519 key an installation, which it also names.

It comes from the configuration (`audit.signing_key`), else from `<state>/audit.key`, which is made on first use.
"""

import hashlib
from pathlib import Path

from securellm.audit.ed25519 import open_private_key
from securellm.audit.keyfile import load_key
from securellm.audit.note import PublicKey, Signature, encode_note, encode_public_key
from securellm.config.secrets import Secret

FILE_NAME = "audit.key"
NAME_PREFIX = "securellm-audit/"
INSTALLATION_DIGITS = 16  # of SHA-256 of the public key


class SigningKey:
    """Signs notes in the name of this installation. The repr shows the name alone."""

    def __init__(self, seed: bytes) -> None:
        self._private = open_private_key(seed)
        public = self._private.public
        self.installation = hashlib.sha256(public).hexdigest()[:INSTALLATION_DIGITS]
        self.public = PublicKey(NAME_PREFIX + self.installation, public)

    def sign_note(self, text: str) -> bytes:
        """The note of this text, signed."""
        signature = self._private.sign(text.encode())
        return encode_note(text, (Signature(self.public.name, self.public.key_hash, signature),))

    def encode_public_key(self) -> str:
        """What an auditor needs, as one line."""
        return encode_public_key(self.public)

    def __repr__(self) -> str:
        return f"<SigningKey {self.public.name}>"


def load_signing_key(state_dir: Path, secret: Secret | None = None, *, create: bool = True) -> SigningKey:
    """The secret's key, else the file's, made if there is none. Raises ConfigError: unreadable, absent, not private."""
    return SigningKey(load_key(state_dir / FILE_NAME, secret, "audit.signing_key", create=create))
