"""The compiled twins, which are optional: everything else stands in pyproject.toml.

Every `_fast/*_c.pyx` is built, as the extension of the same name.

SECURELLM_NO_EXTENSIONS=1       builds none (and makes a pure wheel)
SECURELLM_REQUIRE_EXTENSIONS=1  makes a twin that does not compile an error; otherwise the pure twins serve
"""

import os
from pathlib import Path

from setuptools import Extension, setup

FAST = Path("src/securellm/_fast")


def _extensions() -> list[Extension]:
    if os.environ.get("SECURELLM_NO_EXTENSIONS") == "1":
        return []
    required = os.environ.get("SECURELLM_REQUIRE_EXTENSIONS") == "1"
    try:
        from Cython.Build import cythonize
    except ImportError:
        if required:
            raise
        return []
    extensions: list[Extension] = cythonize(
        [
            Extension(f"securellm._fast.{source.stem}", [str(source)], extra_compile_args=["-O2", "-Wall"])
            for source in sorted(FAST.glob("*_c.pyx"))
        ],
        build_dir="build/cython",  # generated C stays out of the source tree and of the sdist
        include_path=["src"],  # where one extension finds another's .pxd
        language_level=3,
    )
    for extension in extensions:
        # After cythonize, which makes new Extension objects and drops the flag.
        extension.optional = not required
    return extensions


setup(ext_modules=_extensions())
