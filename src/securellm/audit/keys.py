"""The key that signs checkpoints: one Ed25519 key an installation, which it also names.

It comes from the configuration (`audit.signing_key`), else from `<state>/audit.key`, which is made on first use:
written whole under another name and then linked, so that two processes that start together agree on one. Either holds
the 32 bytes as 64 hexadecimal digits.
"""

import hashlib
import os
import re
import secrets
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from securellm.audit.note import PublicKey, Signature, encode_note, encode_public_key
from securellm.config.secrets import Secret
from securellm.errors import ConfigError

FILE_NAME = "audit.key"
SEED_BYTES = 32
NAME_PREFIX = "securellm-audit/"
INSTALLATION_DIGITS = 16  # of SHA-256 of the public key

_SEED = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)


class SigningKey:
    """Signs notes in the name of this installation. The repr shows the name alone."""

    def __init__(self, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
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
    if secret is not None:
        return SigningKey(_parse_seed(secret.reveal(), "audit.signing_key"))
    path = state_dir / FILE_NAME
    try:
        if create and not path.exists():
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create(path)
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by others; make it private with chmod 600")
        return SigningKey(_parse_seed(path.read_bytes().decode("ascii", "replace").strip(), str(path)))
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read or made: {exc.strerror or 'input/output error'}") from exc


def _create(path: Path) -> None:
    """Put a new key at `path`, unless another process is faster."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(SEED_BYTES).hex().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return  # the other process's is the one
    finally:
        draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)  # a key whose name is lost has signed what nobody can check
    finally:
        os.close(directory)


def _parse_seed(text: str, where: str) -> bytes:
    if not _SEED.fullmatch(text):
        raise ConfigError(f"{where} holds no signing key: expected 64 hexadecimal digits (openssl rand -hex 32)")
    return bytes.fromhex(text)
