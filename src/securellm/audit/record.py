"""One line of the audit log: its fields, and their canonical form. Pure. The format is docs/audit-format.md.

Numbers with decimals are made from integers (microseconds, nano-USD), so the text of a line never depends on how a
float prints.
"""

import functools
import hashlib

import msgspec

from securellm._fast import lines

GENESIS = "0" * 64  # `prev` of the first record of a slot
MAX_LINE_BYTES = lines.MAX_LINE_BYTES
NUSD_PER_USD = 1_000_000_000

Buckets = dict[str, int]
Decimal = msgspec.Raw  # the text of a number

_encode = msgspec.json.Encoder().encode


class AttemptRecord(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One provider asked or passed over, inside the closing record."""

    number: int
    provider: str
    model: str
    http_status: int | None = None
    error_code: str | None = None
    duration_ms: Decimal | None = None
    usage: Buckets | None = None
    cost_nusd: int | None = None
    upstream_request_id: str | None = None
    skipped: str | None = None


class Record(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A record before it has its place in a chain; the fields are in the order in which they are written."""

    timestamp: str
    event_type: str
    request_id: str | None = None
    client_request_id: str | None = None
    epoch: str | None = None
    user_id: str | None = None
    key_id: str | None = None
    client_ip: str | None = None
    endpoint: str | None = None
    requested_model: str | None = None
    provider: str | None = None
    model: str | None = None
    stream: bool | None = None
    attempt: int | None = None
    status: str | None = None
    http_status: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    usage: Buckets | None = None
    usage_source: str | None = None
    estimated_cost_usd: Decimal | None = None
    cost_nusd: int | None = None
    price_table: str | None = None
    finish_reason: str | None = None
    duration_ms: Decimal | None = None
    first_token_ms: Decimal | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    cache: str | None = None
    upstream_request_id: str | None = None
    dropped: tuple[str, ...] | None = None
    context_truncated: bool | None = None
    request_sha256: str | None = None
    answer_sha256: str | None = None
    content: str | None = None
    request_content_sha256: str | None = None
    answer_content_sha256: str | None = None
    attempts: tuple[AttemptRecord, ...] | None = None
    action: str | None = None
    count: int | None = None
    detail: dict[str, str | int] | None = None
    saved_nusd: int | None = None
    overrun_nusd: int | None = None


def encode_line(record: Record, *, seq: int, slot: int, prev: str) -> bytes:
    """The line, without its newline, at its place in a slot's chain. `prev` is the hash of the line before."""
    return lines.place_body(_encode(record)[1:], seq=seq, slot=slot, prev=prev)


def hash_line(line: bytes) -> str:
    """What the next record's `prev` says; `line` without its newline."""
    return hashlib.sha256(line).hexdigest()


def timestamp(unix_us: int) -> str:
    """RFC 3339 in UTC with microseconds."""
    seconds, us = divmod(unix_us, 1_000_000)
    return "%s.%06dZ" % (_civil_second(seconds), us)  # noqa: UP031  # half the time of an f-string, twice a request


@functools.lru_cache(maxsize=8)
def _civil_second(seconds: int) -> str:
    days, second = divmod(seconds, 86_400)
    return f"{civil_date(days)}T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"


@functools.lru_cache(maxsize=8)
def civil_date(days: int) -> str:
    """The date so many days after 1970-01-01, as `2026-11-22`; the proleptic Gregorian calendar."""
    era, day_of_era = divmod(days + 719_468, 146_097)  # 400 years each, from 0000-03-01
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_from_march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month_from_march + 2) // 5 + 1
    month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    return f"{era * 400 + year_of_era + (month <= 2):04d}-{month:02d}-{day:02d}"


def decimal(value: int, *, places: int) -> Decimal:
    """`value` / 10^`places` as the shortest decimal: 1500 with 3 places is 1.5, 123456 with 9 is 0.000123456."""
    whole, fraction = divmod(abs(value), 10**places)
    text = f"{whole}.{fraction:0{places}d}".rstrip("0") if fraction else str(whole)
    return msgspec.Raw((f"-{text}" if value < 0 else text).encode())
