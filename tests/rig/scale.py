"""How much the larger tests do: SECURELLM_TEST_SCALE times what they do by default."""

import os

SCALE = float(os.environ.get("SECURELLM_TEST_SCALE", "1"))


def scaled(count: int) -> int:
    """This many by default."""
    return max(1, int(count * SCALE))
