"""Defects in the log, without data."""

from securellm.telemetry.faults import describe_fault

SECRET = "the prompt"


def _fail() -> None:
    raise ValueError(SECRET)


def test_no_data() -> None:
    """The type and the place are told, the text is not, also within groups and causes."""
    try:
        try:
            _fail()
        except ValueError as error:
            raise ExceptionGroup(SECRET, [error, KeyError(SECRET)]) from error
    except ExceptionGroup as group:
        text = describe_fault(group)
    assert "ValueError" in text
    assert "KeyError" in text
    assert "test_faults.py" in text
    assert "_fail" in text
    assert SECRET not in text
