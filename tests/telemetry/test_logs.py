"""Log lines: one JSON object each, and no secret in any of them, whoever logs and whichever handler writes."""

import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from securellm.config.secrets import Secret
from securellm.telemetry.logs import LEVELS, Redaction, add_secrets, open_logs, redact, request_id_var

CANARY = "canary-value-0123456789"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged while the logs are open, at DEBUG."""
    stream = io.StringIO()
    with open_logs("debug", [Secret(CANARY)], stream):
        yield stream


def _only(stream: io.StringIO) -> dict[str, object]:
    (line,) = stream.getvalue().splitlines()
    decoded: dict[str, object] = json.loads(line)
    return decoded


def test_a_line_is_one_json_object(lines: io.StringIO) -> None:
    """Time in UTC, level, logger, message and the extra fields, on one line whatever the text."""
    logging.getLogger("securellm.x").info("one\ntwo %d", 3, extra={"fields": {"provider": "openai", "count": 1}})
    line = _only(lines)
    assert str(line.pop("timestamp")).endswith("Z")
    assert line == {
        "level": "info",
        "logger": "securellm.x",
        "message": "one\ntwo 3",
        "provider": "openai",
        "count": 1,
    }


def test_the_request_is_named(lines: io.StringIO) -> None:
    """The id of the request in whose context a line is written stands on it."""
    token = request_id_var.set("0190-request")
    try:
        logging.getLogger("x").info("hello")
    finally:
        request_id_var.reset(token)
    assert _only(lines)["request_id"] == "0190-request"


def test_the_level_is_the_settings(lines: io.StringIO) -> None:
    """Every level of the settings is known, and lines below it are not written."""
    stream = io.StringIO()
    with open_logs("warn", (), stream):
        logging.getLogger("x").info("no")
        logging.getLogger("x").warning("yes")
    assert _only(stream)["message"] == "yes"
    assert set(LEVELS) == {"trace", "debug", "info", "warn", "warning", "error"}


@pytest.mark.parametrize(
    "text",
    [
        CANARY,
        CANARY[:12],
        f"key={CANARY}!",
        "slb_abcdefgh_0123456789012345678901234567890123456789012",
        "sk-proj-CANARYCANARY",
        "sk-ant-api03-CANARYCANARY",
        "Authorization: Bearer CANARY.x.y",
        "authorization: bearer CANARY.x.y",
        "gsk_CANARYCANARY",
        "nvapi-CANARYCANARY",
        "https://user:CANARY@host/path",
        "https://host/path?key=CANARY&x=1",
        "Basic Q0FOQVJZQ0FOQVJZ",
    ],
)
def test_what_is_a_secret_or_looks_like_one(lines: io.StringIO, text: str) -> None:
    """Guarantee 6: registered secrets, their first characters, and everything shaped like a key become stars."""
    logging.getLogger("x").warning("before %s after", text)
    written = lines.getvalue()
    assert "***" in written
    assert "before" in written
    for leaked in ("CANARY", CANARY[:12], "0123456789", "Q0FO"):
        assert leaked not in written


@pytest.mark.parametrize(
    "text", ["a bearer of bad news", "model sk8", "https://host/path?keys=1", "demo/echo", "ask-me"]
)
def test_what_is_no_secret(text: str) -> None:
    """Ordinary words stay readable."""
    assert redact(text).startswith(text[:6])


def test_arguments_extras_tracebacks_and_stacks(lines: io.StringIO) -> None:
    """A secret is cleaned wherever it stands in a record."""
    try:
        raise ValueError(f"cannot use {CANARY}") from KeyError(CANARY)
    except ValueError:
        logging.getLogger("x").exception(
            "%s", {"key": CANARY}, stack_info=True, extra={"fields": {"secret": Secret(CANARY), "text": CANARY}}
        )
    line = _only(lines)
    assert "canary" not in lines.getvalue()
    assert line["secret"] == line["text"] == "***"
    assert "Traceback" in str(line["exception"])
    assert "ValueError: cannot use ***" in str(line["exception"])
    assert "test_arguments" in str(line["stack"])


def test_a_wrong_format_is_a_line_without_its_arguments(lines: io.StringIO) -> None:
    """A log call that cannot be formatted neither raises nor shows its arguments."""
    logging.getLogger("x").info("%d requests", CANARY)
    assert str(_only(lines)["message"]).startswith("unformattable log message from ")


def test_handlers_of_other_libraries(lines: io.StringIO) -> None:
    """A handler that a library adds later, with a formatter of its own, writes cleaned records too."""
    own = io.StringIO()
    logger = logging.getLogger("library.of.others")
    handler = logging.StreamHandler(own)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
    logger.addHandler(handler)
    try:
        try:
            raise OSError(CANARY)
        except OSError:
            logger.exception("key %s", CANARY)
    finally:
        logger.removeHandler(handler)
    assert own.getvalue().startswith("library.of.others key ***")
    assert "canary" not in own.getvalue()


def test_the_filter_cleans_records_made_elsewhere() -> None:
    """A record that was not made by a logger is cleaned by the filter."""
    add_secrets([Secret(CANARY)])
    record = logging.makeLogRecord({"msg": "a %s", "args": (CANARY,)})
    assert Redaction().filter(record)
    assert record.getMessage() == "a ***"


def test_httpx_is_quiet(lines: io.StringIO) -> None:
    """httpx logs URLs at INFO and httpcore headers at DEBUG: both only from WARNING on, even when we log everything."""
    logging.getLogger("httpx").info("HTTP Request: GET https://host/?key=x")
    logging.getLogger("httpcore.http11").debug("send_request_headers")
    assert lines.getvalue() == ""


def test_hypercorn_writes_through_us(lines: io.StringIO) -> None:
    """Loggers that bring handlers of their own lose them."""
    logging.getLogger("hypercorn.error").info("Running on http://127.0.0.1")
    assert _only(lines)["logger"] == "hypercorn.error"


def test_warnings_are_logged(lines: io.StringIO) -> None:
    """A warning of Python is a line, without a secret."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn(f"deprecated {CANARY}", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "deprecated ***" in lines.getvalue()


def test_errors_that_nobody_handled(lines: io.StringIO) -> None:
    """The hooks for uncaught errors write a cleaned line, for the main thread and for others."""
    error = RuntimeError(CANARY)
    sys.excepthook(RuntimeError, error, None)
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    threading.excepthook(threading.ExceptHookArgs((RuntimeError, error, None, None)))
    written = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [line["level"] for line in written] == ["critical", "critical"]
    assert all(line["exception"] == "RuntimeError: ***" for line in written)


def test_everything_is_put_back() -> None:
    """Closing the logs restores handlers, level, record factory and hooks."""

    def state() -> tuple[object, ...]:
        root = logging.getLogger()
        return (root.handlers[:], root.level, logging.getLogRecordFactory(), sys.excepthook, threading.excepthook)

    before = state()
    with open_logs("info", (), io.StringIO()):
        assert state() != before
    assert state() == before


def test_a_very_short_secret_does_not_blacken_the_log(lines: io.StringIO) -> None:
    """A secret of three letters is not searched for: it would be everywhere."""
    add_secrets([Secret("the")])
    assert redact("the model") == "the model"
