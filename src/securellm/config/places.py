"""Where state and logs live when nobody says so: systemd's directories, then the system's, then the user's. Pure."""

from collections.abc import Mapping
from pathlib import Path


def choose_state_dir(explicit: object, environ: Mapping[str, str], *, is_root: bool, home: Path) -> Path:
    """The setting, else `$STATE_DIRECTORY`, else as root `/var/lib/securellm`, else below `$XDG_STATE_HOME`."""
    if isinstance(explicit, str):
        return Path(explicit).expanduser().absolute()
    given = _first(environ.get("STATE_DIRECTORY", ""))
    if given:
        return Path(given)
    if is_root:
        return Path("/var/lib/securellm")
    base = Path(environ.get("XDG_STATE_HOME", ""))
    if not base.is_absolute():  # the XDG specification says to ignore a relative path
        base = home / ".local" / "state"
    return base / "securellm"


def choose_log_dir(explicit: object, environ: Mapping[str, str], state_dir: Path, *, is_root: bool) -> Path:
    """The setting (or LOG_DIR), else `$LOGS_DIRECTORY`, else as root `/var/log/securellm`, else `<state>/log`."""
    if isinstance(explicit, str):
        return Path(explicit).expanduser().absolute()
    given = _first(environ.get("LOGS_DIRECTORY", ""))
    if given:
        return Path(given)
    return Path("/var/log/securellm") if is_root else state_dir / "log"


def _first(directories: str) -> str:
    """systemd joins several directories with colons; ours is the first."""
    return directories.split(":")[0]
