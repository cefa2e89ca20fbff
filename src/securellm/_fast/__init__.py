"""Twins: for each hot piece a pure definition (`x_py.py`) and a compiled one (`x_c.pyx`) that may only be faster.

Which ones serve is decided here, once: the compiled ones where they were built, unless SECURELLM_NO_EXTENSIONS=1.
`x_py` is also the type stub of `x_c`.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from securellm._fast import gcra_py as gcra
    from securellm._fast.sse_py import SSESplitter, parse_event

    IMPLEMENTATION: str  # "compiled" or "pure"
else:
    try:
        if os.environ.get("SECURELLM_NO_EXTENSIONS") == "1":
            raise ImportError("the pure twins are asked for")
        from securellm._fast import gcra_c as gcra
        from securellm._fast.sse_c import SSESplitter, parse_event

        IMPLEMENTATION = "compiled"
    except ImportError:
        from securellm._fast import gcra_py as gcra
        from securellm._fast.sse_py import SSESplitter, parse_event

        IMPLEMENTATION = "pure"

__all__ = ["IMPLEMENTATION", "SSESplitter", "gcra", "parse_event"]
