"""Tables of prices on disk: the one that was imported, and every one that was ever in force.

`<state>/prices.json` is what `securellm prices import` wrote; without it the shipped file counts. When a table comes
into force it is kept as `<state>/prices/<sha256>.json`, before any record names it, and it is never deleted: without it
the costs on old records could not be computed again.
"""

import os
from hashlib import sha256
from pathlib import Path

from securellm.config.tree import Config
from securellm.errors import ConfigError
from securellm.pricing.shipped import PriceFile, decode_price_file, read_price_file, table_for
from securellm.pricing.table import PriceTable, decode_table

IMPORTED = "prices.json"
KEPT = "prices"


def load_table(config: Config, *, every: bool = False) -> PriceTable:
    """The table that is in force for a configuration; `every`: of all providers. Raises ConfigError."""
    return table_for(config, read_current_file(config.state_dir), every=every)


def read_current_file(state_dir: Path) -> PriceFile:
    """The imported file of prices if there is one, else the shipped one. Raises ConfigError."""
    path = state_dir / IMPORTED
    try:
        return decode_price_file(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return read_price_file()
    except OSError as exc:
        raise ConfigError(f"prices in {path} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(f"{path} is not a file of prices: {exc}; make it again: securellm prices import") from exc


def keep_table(state_dir: Path, table: PriceTable) -> Path:
    """See that the table is on disk under its name. Raises OSError."""
    path = state_dir / KEPT / f"{table.sha256}.json"
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(path, table.encoded)
    return path


def read_kept_table(state_dir: Path, name: str) -> PriceTable | None:
    """The table of that SHA-256, None when it was not kept here. Raises ValueError when the file is another table."""
    if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
        return None
    path = state_dir / KEPT / f"{name}.json"
    try:
        encoded = path.read_bytes()
    except FileNotFoundError:
        return None
    if sha256(encoded).hexdigest() != name:
        raise ValueError(f"{path} has been changed: it is not the table that its name says")
    return decode_table(encoded)


def write_durably(path: Path, data: bytes) -> None:
    """Put a whole file in place at once, on disk when this returns. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
