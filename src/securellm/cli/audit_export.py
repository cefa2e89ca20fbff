"""`securellm audit export`: records as JSON lines or CSV, out of the files, one in memory at a time."""

import csv
import io
import sys
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from securellm.audit.reading import Entry, Placed, Reading, parse_entry
from securellm.audit.record import decimal
from securellm.cli import audit_options as options
from securellm.cli.settings import config_option, load_or_explain

WRITTEN_AT_ONCE_BYTES = 256 * 1024

# First the columns of the contract, then the other fields in their order.
_FIRST = (
    *("timestamp", "request_id", "event_type", "user_id", "provider", "model", "prompt_tokens", "completion_tokens"),
    *("total_tokens", "estimated_cost_usd", "duration_ms", "status", "error_message", "client_ip"),
)
CSV_COLUMNS = (*_FIRST, *(name for name in ("slot", "seq", "prev", *Entry.__struct_fields__) if name not in _FIRST))
CSV_COLUMNS = tuple(dict.fromkeys(CSV_COLUMNS))


@click.command()
@options.filter_options
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True, help="How.")
@config_option
def export(form: str, config_path: str | None, **wanted: Any) -> None:
    """Write every record that matches to standard output, oldest first.

    JSON lines are the lines of the log, byte for byte. In CSV lists and objects are JSON, and a text that a
    spreadsheet would take for a formula begins with an apostrophe.
    """
    filters = options.read_filters(**wanted)
    directory = options.log_directory(load_or_explain(config_path))
    reading = Reading(directory, since=filters.since)
    found = (placed for placed in reading if filters.match(placed.head))
    buffered = bytearray()
    out = sys.stdout.buffer
    try:
        for part in _encode_csv(found) if form == "csv" else (placed.line + b"\n" for placed in found):
            buffered += part
            if len(buffered) >= WRITTEN_AT_ONCE_BYTES:
                out.write(buffered)
                buffered.clear()
    except BrokenPipeError:
        raise  # whoever read our output has gone; main ends quietly
    except OSError as exc:
        raise options.unreadable(exc) from None
    out.write(buffered)
    out.flush()
    options.warn_of_damage(reading.damaged)


def _encode_csv(found: Iterator[Placed]) -> Iterator[bytes]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(CSV_COLUMNS)
    for placed in found:
        entry = parse_entry(placed.line)
        if entry is not None:
            writer.writerow([_cell(entry, name) for name in CSV_COLUMNS])
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()
    yield text.getvalue().encode()


def _cell(entry: Entry, name: str) -> str:
    value = getattr(entry, name)
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case str():
            return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
        case _ if name == "estimated_cost_usd" and entry.cost_nusd is not None:
            return bytes(decimal(entry.cost_nusd, places=9)).decode()  # a float may come as 1e-06
        case int() | float():
            return str(value)
        case _:
            return msgspec.json.encode(value).decode()
