"""The compiled twins, which are optional: everything else stands in pyproject.toml.

SECURELLM_NO_EXTENSIONS=1       builds none (and makes a pure wheel)
SECURELLM_REQUIRE_EXTENSIONS=1  makes a twin that does not compile an error; otherwise the pure twin serves in its place
"""

import os

from setuptools import Extension, setup


def _extensions() -> list[Extension]:
    if os.environ.get("SECURELLM_NO_EXTENSIONS") == "1":
        return []
    required = os.environ.get("SECURELLM_REQUIRE_EXTENSIONS") == "1"
    sources = ["src/securellm/_fast/gcra_c.pyx", "src/securellm/_fast/sse_c.pyx"]
    names = ["securellm._fast.gcra_c", "securellm._fast.sse_c"]
    try:
        from Cython.Build import cythonize
    except ImportError:
        if required:
            raise
        return []
    extensions: list[Extension] = cythonize(
        [
            Extension(name, [source], extra_compile_args=["-O2", "-Wall"])
            for name, source in zip(names, sources, strict=True)
        ],
        build_dir="build/cython",  # generated C stays out of the source tree and of the sdist
        language_level=3,
    )
    for extension in extensions:
        # After cythonize, which makes new Extension objects and drops the flag.
        extension.optional = not required
    return extensions


setup(ext_modules=_extensions())
