"""Where state and logs live, for root and for others, with systemd and without."""

from pathlib import Path

import pytest

from securellm.config.places import choose_log_dir, choose_state_dir

HOME = Path("/home/me")


@pytest.mark.parametrize(
    ("explicit", "environ", "is_root", "place"),
    [
        ("/own", {"STATE_DIRECTORY": "/systemd"}, True, "/own"),
        (None, {"STATE_DIRECTORY": "/systemd", "XDG_STATE_HOME": "/xdg"}, True, "/systemd"),
        (None, {"STATE_DIRECTORY": "/first:/second"}, False, "/first"),
        (None, {"XDG_STATE_HOME": "/xdg"}, True, "/var/lib/securellm"),
        (None, {"XDG_STATE_HOME": "/xdg"}, False, "/xdg/securellm"),
        (None, {"XDG_STATE_HOME": "relative"}, False, "/home/me/.local/state/securellm"),
        (None, {}, False, "/home/me/.local/state/securellm"),
    ],
)
def test_state(explicit: str | None, environ: dict[str, str], is_root: bool, place: str) -> None:
    """The setting, systemd's directory, root's directory, the user's, in this order."""
    assert choose_state_dir(explicit, environ, is_root=is_root, home=HOME) == Path(place)


@pytest.mark.parametrize(
    ("explicit", "environ", "is_root", "place"),
    [
        ("/own", {"LOGS_DIRECTORY": "/systemd"}, True, "/own"),
        (None, {"LOGS_DIRECTORY": "/systemd:/other"}, True, "/systemd"),
        (None, {}, True, "/var/log/securellm"),
        (None, {}, False, "/state/log"),
    ],
)
def test_logs(explicit: str | None, environ: dict[str, str], is_root: bool, place: str) -> None:
    """LOG_DIR, systemd's directory, root's directory, below the state, in this order."""
    assert choose_log_dir(explicit, environ, Path("/state"), is_root=is_root) == Path(place)
