"""Format version 1, pinned: a small log with every field, its checkpoints, the key, and what the verifier says of it.

The files in golden/ are never made anew for version 1: a change that makes this test fail is a new version of
docs/audit-format.md, because logs that are on disks already have to verify for ever.
"""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from rig.tampering import KEY, LogBuilder
from securellm.audit import verify
from securellm.audit.record import AttemptRecord, Record, decimal, encode_line

GOLDEN = Path(__file__).parent / "golden"

USAGE = {"input_tokens": 20, "cache_read_tokens": 5, "output_tokens": 7, "reasoning_tokens": 3}
EVERY_FIELD = {
    "request_id": "01930000-0000-7000-8000-000000000002",
    "client_request_id": 'theirs "\\/\x7f\x01é😀',
    "epoch": "0123456789abcdef",
    "user_id": "ops",
    "key_id": "abcdefgh",
    "client_ip": "2001:db8::1",
    "endpoint": "chat.completions",
    "requested_model": "fast",
    "provider": "openai",
    "model": "gpt-4o",
    "stream": True,
    "attempt": 2,
    "status": "success",
    "http_status": 200,
    "error_code": "none",
    "error_message": "",
    "prompt_tokens": 25,
    "completion_tokens": 7,
    "total_tokens": 32,
    "usage": USAGE,
    "usage_source": "reported",
    "estimated_cost_usd": decimal(123456, places=9),
    "cost_nusd": 123456,
    "price_table": "5e" * 32,
    "finish_reason": "stop",
    "duration_ms": decimal(1234500, places=3),
    "first_token_ms": decimal(20, places=3),
    "bytes_in": 100,
    "bytes_out": 2000,
    "cache": "miss",
    "upstream_request_id": "req_1",
    "dropped": ("seed", "user"),
    "context_truncated": True,
    "request_sha256": "aa" * 32,
    "answer_sha256": "bb" * 32,
    "content": "redacted",
    "request_content_sha256": "cc" * 32,
    "answer_content_sha256": "dd" * 32,
    "attempts": (
        AttemptRecord(1, "anthropic", "claude", http_status=529, error_code="upstream_error", skipped="circuit_open"),
        AttemptRecord(
            2,
            "openai",
            "gpt-4o",
            http_status=200,
            duration_ms=decimal(1000, places=3),
            usage=USAGE,
            cost_nusd=123456,
            upstream_request_id="req_1",
        ),
    ),
    "action": "none",
    "count": 1,
    "detail": {"text": "é", "number": -1},
}

ADDED = {"saved_nusd": 5, "overrun_nusd": 7}  # since the golden log was made: at the end, so that it stays what it is
ADDED_LINE = b'{"v":1,"seq":9,"slot":1,"prev":"00","timestamp":"t","event_type":"e","saved_nusd":5,"overrun_nusd":7}'


def build_golden(directory: Path) -> None:
    """Two days of slot 1, one of slot 2."""
    first = LogBuilder(directory)
    first.event("writer_started")
    first.checkpoint("start")
    first.request(1)
    first.record("response_sent", **EVERY_FIELD)
    first.checkpoint()
    first.midnight()
    first.record("request_received", request_id="01930000-0000-7000-8000-000000000003", provider="demo", model="echo")
    first.close()
    second = LogBuilder(directory, slot=2)
    second.event("writer_started")
    second.close()


def test_every_field_is_in_the_golden_log() -> None:
    """A field that is added to the record comes last and is added here, and to the verifier's list."""
    fields = [field for field in Record.__struct_fields__ if field not in ("timestamp", "event_type")]
    assert [*EVERY_FIELD, *ADDED] == fields
    assert encode_line(Record("t", "e", **ADDED), seq=9, slot=1, prev="00") == ADDED_LINE
    assert ["v", "seq", "slot", "prev", "timestamp", "event_type", *fields] == verify.FIELDS


def test_the_format_is_what_it_was(tmp_path: Path) -> None:
    """Records, chain, checkpoints and file names come out byte for byte as they are kept in golden/."""
    build_golden(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in GOLDEN.iterdir() if path.name.startswith("audit.")}
    assert made == kept
    assert (GOLDEN / "key.pub").read_text() == KEY.encode_public_key() + "\n"


def test_lines_read_back_as_records() -> None:
    """Any JSON reader sees the fields; costs and times are numbers."""
    line = (GOLDEN / "audit.2026-11-22.log").read_bytes().splitlines()[3]
    record = msgspec.json.decode(line)
    assert (record["v"], record["seq"], record["slot"]) == (1, 4, 1)
    assert (record["estimated_cost_usd"], record["duration_ms"], record["first_token_ms"]) == (
        0.000123456,
        1234.5,
        0.02,
    )
    assert record["client_request_id"] == EVERY_FIELD["client_request_id"]


@pytest.mark.parametrize(("options", "expected"), [((), "expected.txt"), (("--all", "--json"), "expected.json")])
def test_an_auditor_sees_what_is_kept(options: tuple[str, ...], expected: str) -> None:
    """The file alone, run by an interpreter that knows no other module of ours, prints what it printed then."""
    assert verify.__file__
    command = [sys.executable, "-I", verify.__file__, str(GOLDEN), "--key", str(GOLDEN / "key.pub"), *options]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == (GOLDEN / expected).read_text()
