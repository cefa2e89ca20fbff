"""Records as lines: canonical text, and numbers that depend on no float."""

import datetime
import decimal as decimals
import json

from hypothesis import given
from hypothesis import strategies as st

from securellm.audit.record import GENESIS, Record, civil_date, decimal, encode_line, hash_line, timestamp


@given(st.integers(-700_000, 2_900_000))
def test_dates_are_the_calendars(days):
    """Every day from the year 54 to 9999, as the standard library has it."""
    assert civil_date(days) == (datetime.date(1970, 1, 1) + datetime.timedelta(days=days)).isoformat()


@given(st.integers(0, 4_000_000_000_000_000))
def test_timestamps_are_rfc_3339(unix_us):
    """Microseconds survive to the last digit."""
    parsed = datetime.datetime.fromisoformat(timestamp(unix_us))
    assert parsed == datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=unix_us)


@given(st.integers(-(10**18), 10**18), st.integers(0, 12))
def test_decimals_are_exact_and_shortest(value, places):
    """The text is the number itself, without an exponent or a zero too many."""
    text = bytes(decimal(value, places=places)).decode()
    assert decimals.Decimal(text) == decimals.Decimal(value).scaleb(-places)
    assert "e" not in text.lower()
    assert "." not in text or not text.endswith("0")


@given(st.text(max_size=50).filter(lambda text: text.isprintable()), st.integers(1, 10**12))
def test_a_line_is_json_with_its_place_in_front(text, seq):
    """What stands on a line reads back, absent fields are left out, and the hash is of these bytes."""
    line = encode_line(Record(timestamp(0), "security_event", error_message=text), seq=seq, slot=1, prev=GENESIS)
    assert b"\n" not in line
    decoded = json.loads(line)
    assert list(decoded) == ["v", "seq", "slot", "prev", "timestamp", "event_type", "error_message"]
    assert (decoded["seq"], decoded["error_message"]) == (seq, text)
    assert len(hash_line(line)) == 64
