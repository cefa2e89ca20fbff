"""Records get their places in the chain, whatever they hold."""

import hashlib
import json
import random
from typing import Any

import msgspec
import pytest

from rig.audit_log import intent, sent
from securellm._fast import lines
from securellm.audit.chain import Chain
from securellm.audit.record import GENESIS, MAX_LINE_BYTES, AttemptRecord, Record, decimal, hash_line


def test_each_line_holds_the_hash_of_the_one_before() -> None:
    """From 64 zeros on, with dense numbers."""
    chain = Chain(2)
    first, second = chain.place(intent("r1")), chain.place(sent("r1"))
    assert first.startswith(b'{"v":1,"seq":1,"slot":2,"prev":"' + GENESIS.encode() + b'","timestamp":"')
    assert json.loads(second)["prev"] == hashlib.sha256(first).hexdigest()
    assert (chain.seq, chain.prev) == (2, hashlib.sha256(second).hexdigest())


def test_a_chain_goes_on_where_it_ended() -> None:
    """From any number and hash."""
    line = Chain(1, 41, "ab" * 32).place(intent("r1"))
    assert (json.loads(line)["seq"], json.loads(line)["prev"]) == (42, "ab" * 32)


CHARACTERS = 'az\x00\x1f\x7f"\\/\u00e9\u2028\u20ac\U0001f600'


def _fields(dice: random.Random) -> dict[str, Any]:
    """Some of a record's fields, now and then with what cannot be encoded."""

    def text() -> str:
        return "".join(dice.choices(CHARACTERS, k=dice.randrange(12))) + "\ud800" * (dice.random() < 0.01)

    fields: dict[str, Any] = {
        "request_id": text(),
        "requested_model": text(),
        "stream": dice.random() < 0.5,
        "http_status": dice.randrange(-(2**66), 2**66) >> dice.randrange(66),
        "usage": {text(): dice.randrange(2**53) for _ in range(3)},
        "duration_ms": decimal(dice.randrange(10**9), places=3),
        "dropped": (text(), text()),
        "attempts": (AttemptRecord(1, text(), text()),),
        "detail": {text(): text(), text(): 7},
    }
    return {name: value for name, value in fields.items() if dice.random() < 0.5}


def test_records_may_be_encoded_before_their_place_is_known() -> None:
    """Byte for byte the line that encoding them at their place gives, and whatever has none is put right alike."""
    dice = random.Random(7)
    records = [_fields(dice) for _ in range(2_000)]
    chain = Chain(3)
    for fields in records:
        record = Record("2026-11-22T10:00:00.000000Z", "response_sent", **fields)
        seq, prev = chain.seq + 1, chain.prev
        line = chain.place(record)
        body = lines.encode_body(record)
        try:
            encoded = msgspec.json.encode(record)
        except (ValueError, TypeError, OverflowError):
            assert body is None
        else:
            assert body == encoded[1:]
            assert line == f'{{"v":1,"seq":{seq},"slot":3,"prev":"{prev}",'.encode() + body
        assert (chain.seq, chain.prev) == (seq, hash_line(line))


HOSTILE = {
    "a lone surrogate": {"requested_model": "a\ud800b"},
    "a long text": {"error_message": "\u20ac" * MAX_LINE_BYTES},
    "a long list": {"dropped": ("name",) * MAX_LINE_BYTES},
    "a number beyond 64 bits": {"usage": {"input_tokens": 2**64}, "prompt_tokens": -(2**70)},
    "many attempts": {
        "attempts": tuple(AttemptRecord(n, "p" * 600, "\ud800", duration_ms=msgspec.Raw(b"1.5")) for n in range(5000))
    },
    "a long number": {"duration_ms": msgspec.Raw(b"1" * MAX_LINE_BYTES)},
    "a wrong type": {"detail": {"a": object()}},
}


@pytest.mark.parametrize("fields", HOSTILE.values(), ids=HOSTILE)
def test_no_record_is_without_a_line(fields: dict) -> None:
    """What cannot be written as it is, is cleaned and cut; the line is one, short enough, and says whose it is."""
    chain = Chain(1)
    line = chain.place(sent("r1", **fields))
    assert len(line) <= MAX_LINE_BYTES
    assert b"\n" not in line
    read = json.loads(line.decode())
    assert (read["seq"], read["event_type"], read["request_id"], read["status"]) == (
        1,
        "response_sent",
        "r1",
        "success",
    )
    assert chain.seq == 1


def test_what_is_cleaned_keeps_its_meaning() -> None:
    """Texts are cut, attempts keep their fields, numbers their sign."""
    line = Chain(1).place(sent("r1", error_message="m" * MAX_LINE_BYTES, attempts=(AttemptRecord(1, "p", "m"),)))
    read = json.loads(line)
    assert read["error_message"] == "m" * 512
    assert read["attempts"] == [{"number": 1, "provider": "p", "model": "m"}]


def test_a_record_that_can_be_written_is_written_as_it_is() -> None:
    """Nothing is cut that the format has room for."""
    record = Record("t", "response_sent", request_id="r1", error_message="m" * 100_000)
    assert json.loads(Chain(1).place(record))["error_message"] == "m" * 100_000
