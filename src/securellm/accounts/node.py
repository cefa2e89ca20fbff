"""The name of this machine among those that share a server: `<state>/node`, made on first use."""

import os
import secrets
from contextlib import suppress

from securellm.accounts.pepper import OTHER_PLACE, make_state_dir
from securellm.config.tree import Config
from securellm.errors import StoreUnavailable

FILE_NAME = "node"
NAME_BYTES = 6  # 12 hex digits
MAX_NAME_CHARS = 32


def load_node(config: Config) -> str:
    """The name, empty where the store is a file, which nobody shares. Raises StoreUnavailable."""
    if config.database.server is None:
        return ""
    path = config.state_dir / FILE_NAME
    try:
        make_state_dir(config.state_dir)
        if not path.exists():
            draft = path.with_name(f".{FILE_NAME}.{secrets.token_hex(8)}")
            draft.write_text(f"{secrets.token_hex(NAME_BYTES)}\n")
            with suppress(FileExistsError):  # another process was faster: its name is the one
                os.link(draft, path)
            draft.unlink()
        name = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "input/output error"
        raise StoreUnavailable(f"{path} cannot be read or made: {reason}; {OTHER_PLACE}") from exc
    if not name.isalnum() or len(name) > MAX_NAME_CHARS:
        raise StoreUnavailable(f"{path} holds no name: expected 1 to {MAX_NAME_CHARS} letters and digits")
    return name
