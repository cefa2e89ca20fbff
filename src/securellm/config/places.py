"""Where state and logs live when nobody says so: systemd's directories, then the system's, then the user's."""

import os
from collections.abc import Mapping
from pathlib import Path


def choose_state_dir(explicit: object, environ: Mapping[str, str]) -> Path:
    """The setting, else `$STATE_DIRECTORY`, else as root `/var/lib/securellm`, else below `$XDG_STATE_HOME`."""
    if isinstance(explicit, str):
        return Path(explicit).expanduser().absolute()
    given = _first(environ.get("STATE_DIRECTORY", ""))
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/securellm")
    home = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(home):  # the XDG specification says to ignore a relative path
        home = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".local", "state")
    return Path(home) / "securellm"


def choose_log_dir(explicit: object, environ: Mapping[str, str], state_dir: Path) -> Path:
    """The setting (or LOG_DIR), else `$LOGS_DIRECTORY`, else as root `/var/log/securellm`, else `<state>/log`."""
    if isinstance(explicit, str):
        return Path(explicit).expanduser().absolute()
    given = _first(environ.get("LOGS_DIRECTORY", ""))
    if given:
        return Path(given)
    return Path("/var/log/securellm") if os.geteuid() == 0 else state_dir / "log"


def _first(directories: str) -> str:
    """systemd joins several directories with colons; ours is the first."""
    return directories.split(":")[0]
