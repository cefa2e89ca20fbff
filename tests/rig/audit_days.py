"""Audit logs of many days, written without the product's writer: for whatever reads them."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from securellm.audit.record import GENESIS, Record, encode_line

DAY = "2026-11-22"


def record(time: str, kind: str, request: str | None = None, **fields: Any) -> Record:
    """A record at a time of day on DAY, or at a whole moment."""
    moment = time if "T" in time else f"{DAY}T{time}"
    moment = f"{moment}.000000Z" if "." not in moment else moment
    return Record(moment, kind, request_id=request, **fields)


def pair(time: str, request: str, *, ends: str | None = None, **fields: Any) -> list[Record]:
    """The intent and the closing record of a request."""
    status = fields.pop("status", "success")
    kind = "response_sent" if status == "success" else "request_failed"
    shared = {name: fields[name] for name in ("user_id", "key_id", "provider", "model") if name in fields}
    begun = record(time, "request_received", request, **shared)
    return [begun, record(ends or time, kind, request, status=status, **fields)]


class Slot:
    """A slot's chain, written file by file."""

    def __init__(self, directory: Path, slot: int = 1) -> None:
        self.directory = directory
        self.slot = slot
        self.seq = 0
        self.prev = GENESIS

    def path(self, date: str = DAY) -> Path:
        part = "" if self.slot == 1 else f".w{self.slot}"
        return self.directory / f"audit.{date}{part}.log"

    def line(self, one: Record) -> bytes:
        """The record's line, with its end; the chain is one longer."""
        self.seq += 1
        line = encode_line(one, seq=self.seq, slot=self.slot, prev=self.prev)
        self.prev = hashlib.sha256(line).hexdigest()
        return line + b"\n"

    def write(self, *records: Record, date: str | None = None) -> Path:
        """Append to the file of the date, which is that of the first record."""
        path = self.path(date or records[0].timestamp[:10])
        with path.open("ab") as file:
            file.writelines([self.line(one) for one in records])
        return path


def raw(value: str) -> msgspec.Raw:
    """A number as records have it."""
    return msgspec.Raw(value.encode())
