"""Redaction: what looks like a secret or like somebody's data goes, what only resembles it stays."""

import json
import time

import pytest

from securellm.audit.redaction import PIECE_BYTES, redact

KEY = "sk-" + "a1B2" * 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"use {KEY}, please", "use [redacted:key], please"),
        ("slb_abcdefgh_" + "x" * 43, "[redacted:key]"),
        ("AKIA" + "ABCD1234" * 2, "[redacted:key]"),
        ("ghp_" + "a1" * 18, "[redacted:key]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijk", "[redacted:key]"),
        ("authorization: BEARER abcdefghijklmnop==", "authorization: BEARER [redacted:key]"),
        ("password = 'hunter22'", "password = '[redacted:secret]'"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----.", "[redacted:key]."),
        ("a line\nfoo.bar+x@mail.example.co.uk, and", "a line\n[redacted:email], and"),
        ("4111 1111 1111 1111 12/25", "[redacted:card] 12/25"),
        ("4111-1111-1111-1111.", "[redacted:card]."),
        ("378282246310005", "[redacted:card]"),
        ("DE89 3704 0044 0532 0130 00 AND SO ON", "[redacted:iban] AND SO ON"),
        ("GB82WEST12345698765432", "[redacted:iban]"),
    ],
)
def test_what_goes(text: str, expected: str) -> None:
    """Keys, credentials, addresses and numbers with right check digits go, as text and inside JSON."""
    assert redact(text.encode()).decode() == expected
    quoted = json.dumps({"content": f"x\n{text}"})
    assert json.loads(redact(quoted.encode()))["content"] == f"x\n{expected}"


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # a wrong check digit
        "1111111111111111",
        "1795000000000000",  # microseconds
        "DE88 3704 0044 0532 0130 00",
        "018f2e7a-0000-7000-8000-000000000000",
        "task-force-one-hundred-and-one",
        "user@localhost",
        "a secret is safe",
        '{"max_tokens": "128000", "token": "Hello there"}',
    ],
)
def test_what_stays(text: str) -> None:
    """Long numbers, ids and words stay as they are."""
    assert redact(text.encode()).decode() == text


def test_long_bodies() -> None:
    """What lies where a body is cut into pieces is found, because pieces end at quotation marks; bytes are kept."""
    body = json.dumps([f"{number} {KEY} ä" for number in range(PIECE_BYTES // 20)]).encode() + b"\xff\xfe"
    redacted = redact(body)
    assert KEY.encode() not in redacted
    assert redacted == body.replace(KEY.encode(), b"[redacted:key]")
    assert redact(b"x" * 3 * PIECE_BYTES) == b"x" * 3 * PIECE_BYTES


@pytest.mark.parametrize(
    "unit", [b"eyJ-", b"a", b"a@", b"eyJaaaaaaaa.", b"@a.a.a", b"DE11 ", b"4111-1111 ", b'password="']
)
def test_time_grows_with_the_length(unit: bytes) -> None:
    """A body made to be slow is not: its time is in proportion to its length, with the same bound for all."""
    body = unit * (400_000 // len(unit))
    began_s = time.process_time()
    redact(body)
    assert time.process_time() - began_s < 10
