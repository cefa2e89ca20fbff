"""Keys of the audit log that live in a file: 32 bytes as 64 hexadecimal digits, private, made on first use.

A new one is written whole under another name and then linked, so that two processes that start together agree on one.
"""

import os
import re
import secrets
from pathlib import Path

from securellm.config.secrets import Secret
from securellm.errors import ConfigError

KEY_BYTES = 32

_HEX = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)


def load_key(path: Path, secret: Secret | None, setting: str, *, create: bool = True) -> bytes:
    """The secret's key (`setting` names it), else the file's, made if there is none.

    Raises ConfigError: unreadable, absent, not private, no key.
    """
    if secret is not None:
        return _parse(secret.reveal(), setting)
    try:
        if create and not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create(path)
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by others; make it private with chmod 600")
        return _parse(path.read_bytes().decode("ascii", "replace").strip(), str(path))
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read or made: {exc.strerror or 'input/output error'}") from exc


def _create(path: Path) -> None:
    """Put a new key at `path`, unless another process is faster."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES).hex().encode() + b"\n")
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
        os.fsync(directory)  # a key whose name is lost has signed, or sealed, what nobody can check, or read
    finally:
        os.close(directory)


def _parse(text: str, where: str) -> bytes:
    if not _HEX.fullmatch(text):
        raise ConfigError(f"{where} holds no key: expected 64 hexadecimal digits (openssl rand -hex 32)")
    return bytes.fromhex(text)
