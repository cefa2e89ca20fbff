"""Twins: for each hot piece a pure definition (`x_py.py`) and a compiled one (`x_c.pyx`) that may only be faster.

Which ones serve is decided here, once and for all of them together: the compiled ones where every one of them was
built, unless SECURELLM_NO_EXTENSIONS=1; otherwise the pure ones. Users write `from securellm._fast import sse`.
`x_py` is also the type stub of `x_c`.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from securellm._fast import answers_py as answers
    from securellm._fast import gcra_py as gcra
    from securellm._fast import http1_py as http1
    from securellm._fast import lines_py as lines
    from securellm._fast import members_py as members
    from securellm._fast import showing_py as showing
    from securellm._fast import sse_py as sse
    from securellm._fast import tokens_py as tokens

    IMPLEMENTATION: str  # "compiled" or "pure"
else:
    try:
        if os.environ.get("SECURELLM_NO_EXTENSIONS") == "1":
            raise ImportError("the pure twins are asked for")
        from securellm._fast import answers_c as answers
        from securellm._fast import gcra_c as gcra
        from securellm._fast import http1_c as http1
        from securellm._fast import lines_c as lines
        from securellm._fast import members_c as members
        from securellm._fast import showing_c as showing
        from securellm._fast import sse_c as sse
        from securellm._fast import tokens_c as tokens

        IMPLEMENTATION = "compiled"
    except ImportError:
        from securellm._fast import answers_py as answers
        from securellm._fast import gcra_py as gcra
        from securellm._fast import http1_py as http1
        from securellm._fast import lines_py as lines
        from securellm._fast import members_py as members
        from securellm._fast import showing_py as showing
        from securellm._fast import sse_py as sse
        from securellm._fast import tokens_py as tokens

        IMPLEMENTATION = "pure"

__all__ = ["IMPLEMENTATION", "answers", "gcra", "http1", "lines", "members", "showing", "sse", "tokens"]
