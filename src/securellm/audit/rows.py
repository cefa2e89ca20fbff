"""A record as a row of the table `audit_logs`: the columns in their order, from a line of the log. Pure."""

from typing import Annotated, Any

import msgspec

LARGEST = 2**63 - 1  # SQLite's integers have 64 bits; what a provider reports may have more

Row = dict[str, Any]
Values = tuple[Any, ...]
Integer = Annotated[int, msgspec.Meta(ge=-LARGEST, le=LARGEST)]


class _Columns(msgspec.Struct, frozen=True):
    """Named and ordered as the columns are; a test compares the two. `attempts` comes last, as it is counted."""

    slot: Integer
    seq: Integer
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
    attempt: Integer | None = None
    status: str | None = None
    http_status: Integer | None = None
    error_code: str | None = None
    error_message: str | None = None
    prompt_tokens: Integer | None = None
    completion_tokens: Integer | None = None
    total_tokens: Integer | None = None
    usage_source: str | None = None
    estimated_cost_usd: float | None = None
    cost_nusd: Integer | None = None
    price_table: str | None = None
    finish_reason: str | None = None
    duration_ms: float | None = None
    first_token_ms: float | None = None
    bytes_in: Integer | None = None
    bytes_out: Integer | None = None
    cache: str | None = None
    upstream_request_id: str | None = None
    content: str | None = None
    action: str | None = None
    count: Integer | None = None
    attempts: list[msgspec.Raw] | None = None


ROW_COLUMNS = _Columns.__struct_fields__
_decode = msgspec.json.Decoder(_Columns).decode


def parse_values(line: bytes) -> Values | None:
    """The row's values in the order of ROW_COLUMNS; None when the line is no record."""
    try:
        columns = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _parse_with_large_numbers(line)
    values = msgspec.structs.astuple(columns)
    return values if columns.attempts is None else (*values[:-1], len(columns.attempts))


def parse_row(line: bytes) -> Row | None:
    """The row by the names of its columns; None when the line is no record."""
    values = parse_values(line)
    return dict(zip(ROW_COLUMNS, values, strict=True)) if values is not None else None


def _parse_with_large_numbers(line: bytes) -> Values | None:
    """The same for a line with integers beyond 64 bits, which are cut to the largest."""
    try:
        fields = msgspec.json.decode(line, type=dict[str, Any])
        large = {name: LARGEST for name, value in fields.items() if isinstance(value, int) and value > LARGEST}
        if not large:
            return None
        columns = msgspec.convert({**fields, "attempts": None, **large}, _Columns)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        return None
    attempts = fields.get("attempts")
    return (*msgspec.structs.astuple(columns)[:-1], len(attempts) if isinstance(attempts, list) else None)
