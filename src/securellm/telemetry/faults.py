"""Defects, described for the log without any of the data that was being worked on. Pure.

An exception's text may hold a prompt or a secret and so may the locals of its frames; the type and the places in the
source do not, and they are what is needed to find the defect.
"""

import traceback

_FRAMES = 6  # the innermost places that are named


def describe_fault(error: BaseException) -> str:
    """The exception's type, its causes' types, and where in the source it arose."""
    if isinstance(error, BaseExceptionGroup):
        return f"{type(error).__name__} of [" + "; ".join(describe_fault(inner) for inner in error.exceptions) + "]"
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    places = " < ".join(
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in reversed(frames)
    )
    cause = error.__cause__ or error.__context__
    caused = f" (after {type(cause).__name__})" if cause is not None else ""
    return f"{type(error).__name__}{caused} at {places or 'an unknown place'}"
