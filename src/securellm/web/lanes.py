"""Whether the express lane can be had, told without importing a lane.

`serve` asks before it forks its workers: so this imports neither Trio nor anything of the server.
"""

import importlib.util

NOT_BUILT = (
    "the express lane needs the compiled extensions, which are not there: install a wheel for this platform, or build "
    "them (SECURELLM_REQUIRE_EXTENSIONS=1 pip install .) and unset SECURELLM_NO_EXTENSIONS; or: securellm serve "
    "--lane reference"
)


def express_is_built() -> bool:
    """Whether the extensions are there, and not switched off."""
    from securellm import _fast

    needed = ("securellm._fast.reactor_c", "securellm._fast.request_body_c")
    return _fast.IMPLEMENTATION == "compiled" and None not in map(importlib.util.find_spec, needed)
