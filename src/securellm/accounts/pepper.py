"""The pepper: a secret beside the store without which its digests match no key.

It comes from the configuration (`security.pepper`), else from `<state>/pepper`, which is made on first use: written
whole under another name and then linked, so that two processes that start together agree on one.
"""

import os
import secrets
from pathlib import Path

from securellm.accounts.keys import MIN_PEPPER_BYTES
from securellm.config.tree import Config
from securellm.errors import StoreUnavailable

FILE_NAME = "pepper"
OTHER_PLACE = "for another place set state_dir or STATE_DIRECTORY"  # what to do when ours cannot be used
NEW_PEPPER_BYTES = 32  # written as 64 hex digits


def load_pepper(config: Config) -> bytes:
    """The pepper, made if there is none. Raises StoreUnavailable when it cannot be read, made or trusted."""
    if config.security.pepper is not None:
        return _checked(config.security.pepper.reveal().encode(), "security.pepper")
    path = config.state_dir / FILE_NAME
    try:
        make_state_dir(config.state_dir)
        if not path.exists():
            _create(path)
        if path.stat().st_mode & 0o077:
            raise StoreUnavailable(f"{path} can be read by others; make it private with chmod 600")
        return _checked(path.read_bytes().strip(), str(path))
    except OSError as exc:
        reason = exc.strerror or "input/output error"
        raise StoreUnavailable(f"{path} cannot be read or made: {reason}; {OTHER_PLACE}") from exc


def make_state_dir(path: Path) -> None:
    """Make a directory that only its owner may enter, unless it is there. Raises OSError."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _create(path: Path) -> None:
    """Put a new pepper at `path`, unless another process is faster."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_hex(NEW_PEPPER_BYTES).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return  # the other process's is the one
    finally:
        draft.unlink()


def _checked(pepper: bytes, where: str) -> bytes:
    if len(pepper) < MIN_PEPPER_BYTES:
        raise StoreUnavailable(f"{where} has {len(pepper)} bytes, expected at least {MIN_PEPPER_BYTES}")
    return pepper
