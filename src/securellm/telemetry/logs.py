"""Operational logs: JSON lines on stderr, every record cleaned of secrets before any handler sees it.

The cleaning stands where records are made (the log record factory), so that it covers every logger and every handler,
also those that libraries add later, and the text of tracebacks. `Redaction` is the same as a filter, and our own
handler carries it too, for records that are made elsewhere. Records hold no prompts: nobody logs bodies.
"""

import contextlib
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import IO, Any

import msgspec

from securellm.config.secrets import MASK, Secret
from securellm.telemetry.outlet import Hasty, Outlet

request_id_var: ContextVar[str | None] = ContextVar("securellm_request_id", default=None)

SHORTEST_SECRET = 4  # a shorter text would black out half of the log
PREFIX_CHARACTERS = 12  # this much of a secret gives it away

LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
# httpx logs URLs at INFO and httpcore logs headers at DEBUG, whatever level the operator wants of ours.
QUIET_LOGGERS = ("httpx", "httpcore", "hpack", "urllib3", "asyncio")
# Loggers whose libraries give them handlers of their own; their lines come through ours.
ADOPTED_LOGGERS = ("hypercorn", "hypercorn.error", "hypercorn.access", "quart", "quart.app", "quart.serving", "trio")

_SHAPES = (
    r"\b(?:slb_|sk-|sk_|gsk_|xai-|nvapi-|AIza|hf_|pk-)[A-Za-z0-9_\-]{6,}"  # keys of ours and of providers
    r"|(?<=earer )[^\s\"',}]+|(?<=EARER )[^\s\"',}]+"
    r"|(?<=asic )[A-Za-z0-9+/=]{8,}"
    r"|(?<=://)[^/\s@\"']+(?=@)"  # user and password in a URL
    r"|(?<=[?&]key=)[^&\s\"']+"
)


class _Redactor:
    """The pattern of everything that must not be shown; one search for most lines."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._pattern = re.compile(_SHAPES)

    def add(self, secrets: Iterable[Secret]) -> None:
        values = {secret.reveal() for secret in secrets}
        self._known |= {value for value in values if len(value) >= SHORTEST_SECRET}
        # The beginning of a secret, with what follows it, is as bad as the whole.
        parts = (
            re.escape(value[:PREFIX_CHARACTERS]) + (r"[^\s\"',}]*" if len(value) > PREFIX_CHARACTERS else "")
            for value in sorted(self._known, key=len, reverse=True)
        )
        self._pattern = re.compile("|".join((*parts, _SHAPES)))

    def redact(self, text: str) -> str:
        return self._pattern.sub(MASK, text)


_redactor = _Redactor()
_outlets: list[Outlet] = []
_fields_of_all: dict[str, str | int] = {}


def add_secrets(secrets: Iterable[Secret]) -> None:
    """Make these values unsayable in every log line from now on."""
    _redactor.add(secrets)


def add_field(name: str, value: str | int) -> None:
    """Put a field on every line of this process from now on."""
    _fields_of_all[name] = value


def redact(text: str) -> str:
    """The text with every known secret, and everything shaped like a key, as `***`."""
    return _redactor.redact(text)


class Redaction(logging.Filter):
    """Cleans a record in place; lets every record pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean the message, the traceback, the stack and the extra fields."""
        _clean(record)
        return True


class JsonLines(logging.Formatter):
    """One JSON object a line: timestamp, level, logger, message, request_id, the extra fields, exception."""

    def __init__(self) -> None:
        super().__init__()
        self._encoder = msgspec.json.Encoder(enc_hook=_encode_other)

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, Any] = {
            "timestamp": _rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields_of_all,
        }
        request_id = request_id_var.get()
        if request_id is not None:
            line["request_id"] = request_id
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line.update(fields)
        if record.exc_info and not record.exc_text:
            record.exc_text = _traceback_text(record.exc_info)
        if record.exc_text:
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = record.stack_info
        return self._encoder.encode(line).decode()


@contextlib.contextmanager
def open_logs(level: str, secrets: Iterable[Secret] = (), stream: IO[str] | None = None) -> Iterator[None]:
    """Log to `stream` (stderr) while open: our handler on the root logger, the cleaning on every record.

    What was there before is put back at the end, so that tests can open and close it.
    """
    add_secrets(secrets)
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.getLogRecordFactory(), sys.excepthook, threading.excepthook)
    handler = logging.StreamHandler(Hasty(stream or sys.stderr))
    handler.setFormatter(JsonLines())
    handler.addFilter(Redaction())
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    logging.setLogRecordFactory(_clean_record)
    logging.captureWarnings(True)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ADOPTED_LOGGERS:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    try:
        yield
    finally:
        root.handlers[:], level_before, factory, sys.excepthook, threading.excepthook = before
        root.setLevel(level_before)
        logging.setLogRecordFactory(factory)
        logging.captureWarnings(False)


@contextlib.contextmanager
def open_outlet(stream: IO[str] | None = None) -> Iterator[Outlet]:
    """Write the lines of `open_logs` in a thread while open, so that nobody who logs waits for a reader.

    Not before a fork: threads do not follow.
    """
    outlet = Outlet(stream or sys.stderr)
    _outlets.append(outlet)
    streams = [
        (handler, handler.setStream(outlet))
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and isinstance(handler.stream, Hasty)
    ]
    try:
        yield outlet
    finally:
        for handler, before in streams:
            handler.setStream(before)
        outlet.close()


def dropped_lines() -> int:
    """How many lines of this process nobody read in time."""
    return sum(outlet.dropped for outlet in _outlets)


def _clean_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = logging.LogRecord(*args, **kwargs)
    _clean(record)
    return record


def _clean(record: logging.LogRecord) -> None:
    # The extra fields come after the record was made, so they are always looked at; the rest once is enough.
    fields = getattr(record, "fields", None)
    if isinstance(fields, dict):
        record.fields = {key: redact(value) if isinstance(value, str) else value for key, value in fields.items()}
    if getattr(record, "is_clean", False):
        return
    record.is_clean = True
    try:
        message = record.getMessage()
    except Exception:
        # A wrong format string must not stop a request, nor show its arguments.
        message = f"unformattable log message from {record.pathname}:{record.lineno}"
    record.msg = redact(message)
    record.args = None
    if record.exc_info and not record.exc_text:
        record.exc_text = redact(_traceback_text(record.exc_info))
    if record.stack_info:
        record.stack_info = redact(record.stack_info)


def _traceback_text(exc_info: Any) -> str:
    return "".join(traceback.format_exception(*exc_info)).rstrip("\n")


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("securellm").critical("stopped by an error that nobody handled", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _rfc3339(when_s: float) -> str:
    # The whole milliseconds are taken first, so that 0.9996 s is not shown as .1000.
    whole_ms = int(when_s * 1000)
    seconds, ms = divmod(whole_ms, 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{ms:03d}Z"


def _encode_other(value: object) -> str:
    """A field of a type that JSON does not have is shown as text, which for a Secret is `***`."""
    return redact(str(value))
